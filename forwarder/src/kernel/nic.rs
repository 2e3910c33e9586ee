//! What a NIC can do.
//!
//! Driver and channels are asked for by `SIOCETHTOOL` on a socket of this network namespace: /sys may be
//! mounted from another one.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::from_mut;

use nix::errno::Errno;
use nix::libc::{c_char, ifreq};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::netlink::Kernel;
use super::{Error, Link};
use crate::topology::NicFacts;

/// Gathers the facts of a port. `native` and `zero_copy` come from the query of its XDP features.
///
/// # Errors
/// When the device is gone.
pub async fn facts(kernel: &Kernel, link: &Link, native: bool, zero_copy: bool) -> Result<NicFacts, Error> {
    let queues = match queues(&link.name).map(|queues| queues.rx.max(queues.tx)) {
        Ok(queues) if queues > 0 => queues,
        Err(Errno::ENODEV) => {
            return Err(Error::refused(format!("ask {} for its queues", link.name), Errno::ENODEV));
        }
        // Drivers without channels have the queues that they were made with, most often one.
        _ => kernel.allocated_rx_queues(link.id).await?,
    };
    let driver = driver(&link.name).unwrap_or_else(|_| "unknown".into());
    Ok(NicFacts { interface: link.id, queues, driver, native, zero_copy })
}

/// Queues in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Those that receive.
    pub rx: u32,
    /// Those that send.
    pub tx: u32,
}

/// The queues of a device of this network namespace.
///
/// # Errors
/// `ENODEV` when there is no such device, `EOPNOTSUPP` when its driver has no channels.
pub fn queues(device: &str) -> Result<Queues, Errno> {
    let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
    ethtool(device, &mut channels)?;
    let with_combined = |own: u32| channels.combined.saturating_add(own);
    Ok(Queues { rx: with_combined(channels.rx), tx: with_combined(channels.tx) })
}

fn driver(device: &str) -> Result<String, Errno> {
    let mut info = DriverInfo { command: ETHTOOL_GDRVINFO, ..DriverInfo::default() };
    ethtool(device, &mut info)?;
    let name: Vec<u8> = info.driver.iter().copied().take_while(|b| *b != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GCHANNELS: u32 = 0x3c;

/// A command structure of `linux/ethtool.h`.
///
/// # Safety
/// The type is `repr(C)`, has the layout of the kernel's structure for every command that is put into its
/// first field, and is valid for any bytes that the kernel writes.
unsafe trait Command {}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max: [u32; 4],
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
#[derive(Default)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version_firmware_bus_erom: [[u8; 32]; 4],
    reserved: [u8; 12],
    counts: [u32; 5],
}

// SAFETY: the fields are those of the kernel's structure (36 bytes, asserted below), plain integers all.
unsafe impl Command for Channels {}
// SAFETY: as above (196 bytes).
unsafe impl Command for DriverInfo {}

const _: () = assert!(size_of::<Channels>() == 36 && size_of::<DriverInfo>() == 196);

mod ioctl {
    nix::ioctl_readwrite_bad!(ethtool, nix::libc::SIOCETHTOOL, nix::libc::ifreq);
}

fn ethtool<C: Command>(device: &str, command: &mut C) -> Result<(), Errno> {
    let socket: OwnedFd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut request = request_for(device).ok_or(Errno::ENODEV)?;
    request.ifr_ifru.ifru_data = from_mut(command).cast::<c_char>();
    // SAFETY: the name is terminated, and `ifru_data` points to a structure of the command's layout that
    // outlives the call.
    unsafe { ioctl::ethtool(socket.as_raw_fd(), &raw mut request) }.map(|_| ())
}

/// An interface request with the device's name; none when no device can have it. A `%` would make the
/// kernel choose the name.
pub(crate) fn request_for(device: &str) -> Option<ifreq> {
    // SAFETY: `ifreq` is plain old data, valid when zero.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    let room = request.ifr_name.len() - 1;
    if device.is_empty() || device.len() > room || device.contains(['%', '/']) {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = c_char::from_ne_bytes([from]);
    }
    Some(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_no_queues_says_why() {
        assert_eq!(queues("lo"), Err(Errno::EOPNOTSUPP));
        assert_eq!(queues("there-is-none"), Err(Errno::ENODEV));
    }

    #[test]
    fn names_that_no_device_can_have() {
        for name in ["", "sixteen-letters-", "wg%d", "a/b"] {
            assert!(request_for(name).is_none(), "{name}");
        }
        assert!(request_for("fifteen-letters").is_some());
    }
}

//! The TUN device.
#![allow(unsafe_code)]

use std::fs::OpenOptions;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use nix::errno::Errno;
use nix::libc::{self, c_int, c_short};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use crate::id::InterfaceId;
use crate::kernel::Error;
use crate::kernel::nic::request_for;

/// Packets that the kernel may queue towards us. Its default of 500 is a few milliseconds at 1 Gbit/s.
const QUEUE_LENGTH: c_int = 2000;

/// A TUN device without packet information: one read or write is one IP packet. It vanishes when its last
/// descriptor is closed, so also with a killed process.
#[derive(Debug)]
pub struct Tun {
    descriptor: OwnedFd,
    name: String,
    interface: InterfaceId,
}

impl Tun {
    /// Creates the device, down and without addresses, and with a non-blocking descriptor.
    ///
    /// # Errors
    /// [`Errno::EBUSY`] when a device of that name exists, [`Errno::EINVAL`] when no device can have it.
    pub fn create(name: &str) -> Result<Self, Error> {
        Self::configure(open()?, name).map_err(|errno| refused(name, errno))
    }

    /// Whether [`Self::create`] would find its driver and the name free. Creates nothing.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn probe(name: &str) -> Result<(), Error> {
        open()?;
        if nix::net::if_::if_nametoindex(name).is_ok() { Err(refused(name, Errno::EBUSY)) } else { Ok(()) }
    }

    /// The device's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device's index.
    pub fn interface(&self) -> InterfaceId {
        self.interface
    }

    fn configure(descriptor: OwnedFd, name: &str) -> Result<Self, Errno> {
        let mut request = request_for(name).ok_or(Errno::EINVAL)?;
        // Exclusive: never adopt a persistent device that somebody left.
        request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_TUN_EXCL) as c_short;
        // SAFETY: the descriptor is of /dev/net/tun and the request is initialised, its name terminated.
        unsafe { ioctl::set_interface(descriptor.as_raw_fd(), &raw const request) }?;
        set_queue_length(name, QUEUE_LENGTH)?;
        let interface = InterfaceId(nix::net::if_::if_nametoindex(name)?);
        Ok(Self { descriptor, name: name.into(), interface })
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl From<Tun> for OwnedFd {
    fn from(tun: Tun) -> Self {
        tun.descriptor
    }
}

fn open() -> Result<OwnedFd, Error> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
    file.map(OwnedFd::from).map_err(|e| Error::io("open /dev/net/tun (`modprobe tun`)", &e))
}

fn refused(name: &str, errno: Errno) -> Error {
    Error::refused(format!("create the TUN device {name}"), errno)
}

mod ioctl {
    nix::ioctl_write_ptr_bad!(set_interface, nix::libc::TUNSETIFF, nix::libc::ifreq);
    nix::ioctl_write_ptr_bad!(set_queue_length, nix::libc::SIOCSIFTXQLEN, nix::libc::ifreq);
}

fn set_queue_length(name: &str, packets: c_int) -> Result<(), Errno> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let mut request = request_for(name).ok_or(Errno::EINVAL)?;
    // `ifr_qlen` is the same integer of the union.
    request.ifr_ifru.ifru_metric = packets;
    // SAFETY: the socket is open and the request is initialised, its name terminated.
    unsafe { ioctl::set_queue_length(socket.as_raw_fd(), &raw const request) }.map(|_| ())
}

//! What XDP is on a device, and what the device could do. Asked through libbpf: aya has no such query.

use std::{fmt, fs::File, io, os::fd::AsFd};

use libbpf_rs::{Xdp, XdpFlags, query::ProgInfoIter};

/// `NETDEV_XDP_ACT_*` of `linux/netdev.h`: what a driver can do.
const BASIC: u64 = 1;
const REDIRECT: u64 = 1 << 1;
const XSK_ZEROCOPY: u64 = 1 << 3;

/// An attached program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Program id, as in `bpftool prog`.
    pub id: u32,
    /// Program name; "?" when it went while we asked.
    pub name: String,
    /// Where it runs.
    pub mode: AttachMode,
}

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the network stack, on socket buffers.
    Generic,
    /// On the NIC.
    Offloaded,
}

/// What a driver says that it can do. Kernels before 6.3 do not say: both are true then, and the attempts
/// to attach and to bind tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Native XDP with redirects.
    pub native: bool,
    /// AF_XDP zero-copy.
    pub zero_copy: bool,
}

/// The program on a device of this network namespace, if there is one.
///
/// # Errors
///
/// No such device, or the kernel did not answer.
pub fn attached(ifindex: u32) -> io::Result<Option<Attached>> {
    let answer = ask(ifindex)?;
    let found = [
        (answer.drv_prog_id, AttachMode::Native),
        (answer.skb_prog_id, AttachMode::Generic),
        (answer.hw_prog_id, AttachMode::Offloaded),
    ];
    Ok(found.into_iter().find(|(id, _)| *id != 0).map(|(id, mode)| Attached { id, name: name(id), mode }))
}

/// What the driver of a device of this network namespace says that it can do.
///
/// # Errors
///
/// No such device, or the kernel did not answer.
pub fn features(ifindex: u32) -> io::Result<Features> {
    let flags = ask(ifindex)?.feature_flags;
    if !kernel_tells()? {
        return Ok(Features { native: true, zero_copy: true });
    }
    Ok(Features {
        native: flags & (BASIC | REDIRECT) == BASIC | REDIRECT,
        zero_copy: flags & XSK_ZEROCOPY != 0,
    })
}

impl AttachMode {
    /// The mode's keyword in `ip link set dev X KEYWORD off`.
    pub fn ip_keyword(self) -> &'static str {
        match self {
            AttachMode::Native => "xdp",
            AttachMode::Generic => "xdpgeneric",
            AttachMode::Offloaded => "xdpoffload",
        }
    }
}

impl fmt::Display for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            AttachMode::Native => "native",
            AttachMode::Generic => "generic",
            AttachMode::Offloaded => "offloaded",
        };
        write!(f, "id {}, {}, {mode}", self.id, self.name)
    }
}

/// Whether the kernel knows drivers' features (Linux 6.3).
fn kernel_tells() -> io::Result<bool> {
    let name = nix::sys::utsname::uname()?;
    Ok(release(&name.release().to_string_lossy()) >= Some((6, 3)))
}

/// Major and minor number of `6.12.3-amd64`.
fn release(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn ask(ifindex: u32) -> io::Result<libbpf_rs::libbpf_sys::bpf_xdp_query_opts> {
    // A query needs no program, but the library's type asks for a descriptor.
    let any = File::open("/dev/null")?;
    let ifindex = i32::try_from(ifindex).map_err(|_| io::ErrorKind::NotFound)?;
    Xdp::new(any.as_fd()).query(ifindex, XdpFlags::NONE).map_err(io::Error::other)
}

fn name(id: u32) -> String {
    let program = ProgInfoIter::default().find(|program| program.id == id);
    program.map_or_else(|| "?".into(), |program| program.name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_compare_as_numbers() {
        assert_eq!(release("6.12.3-amd64"), Some((6, 12)));
        assert_eq!(release("6.1-rc3"), Some((6, 1)));
        assert!(release("6.2.16") < Some((6, 3)) && release("6.12.0") >= Some((6, 3)));
        assert_eq!(release("unknown"), None);
    }
}

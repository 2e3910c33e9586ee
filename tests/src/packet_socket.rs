//! Packet sockets: frames as they are, sent and received beside the kernel's IP.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};

/// Ethertype of test frames ("local experimental 1"), so that the kernel's own chatter is not counted.
pub const EXPERIMENTAL: u16 = 0x88b5;
/// Every ethertype, and what is sent as well (`ETH_P_ALL`).
pub const EVERYTHING: u16 = 0x0003;

/// A packet socket on one device.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// On `device` of the calling thread's network namespace; receives frames of this ethertype.
    ///
    /// # Errors
    /// No such device, or no permission.
    pub fn open(device: &str, ethertype: u16) -> std::io::Result<Self> {
        let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_NONBLOCK, None::<SockProtocol>)?;
        setsockopt(&fd, sockopt::RcvBufForce, &(64 << 20))?;
        // SAFETY: all zero is a valid `sockaddr_ll`.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = ethertype.to_be();
        address.sll_ifindex = nix::net::if_::if_nametoindex(device)?.cast_signed();
        // SAFETY: the kernel reads an initialised `sockaddr_ll`.
        let bound =
            unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) };
        if bound == 0 { Ok(Self(fd)) } else { Err(std::io::Error::last_os_error()) }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// Why the kernel does not take it now, or at all.
    pub fn try_send(&self, frame: &[u8]) -> nix::Result<()> {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty()).map(drop)
    }

    /// Sends a frame that the device can take, be it later.
    pub fn send(&self, frame: &[u8]) {
        while self.try_send(frame).is_err() {
            std::thread::yield_now();
        }
    }

    /// The next frame.
    pub fn receive<'a>(&self, buffer: &'a mut [u8], patience: Duration) -> Option<&'a [u8]> {
        if let Ok(len) = recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()) {
            return Some(&buffer[..len]);
        }
        if !readable(self.0.as_fd(), patience) {
            return None;
        }
        let len = recv(self.0.as_raw_fd(), buffer, MsgFlags::empty()).ok()?;
        Some(&buffer[..len])
    }
}

/// Waits until the descriptor is readable; `false` after `patience`.
pub fn readable(fd: BorrowedFd<'_>, patience: Duration) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    PollTimeout::try_from(patience).is_ok_and(|patience| poll(&mut fds, patience).is_ok_and(|n| n > 0))
}

//! Frames put on the wire just as they are.

use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sendto, socket};
use xtask::lab::Netns;

use crate::lab::run_inside;

/// Sends a frame by an interface of a namespace.
///
/// # Errors
/// There is no such interface, or it does not take the frame.
pub fn send(namespace: &Netns, interface: &str, frame: &[u8]) -> Result<()> {
    let (interface, frame) = (interface.to_owned(), frame.to_owned());
    run_inside(namespace, move || {
        let interface = getifaddrs()?.filter(|found| found.interface_name == interface);
        let address = interface.filter_map(|found| found.address?.as_link_addr().copied()).next();
        let address = address.context("no such interface")?;
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, None::<SockProtocol>)?;
        let sent = sendto(socket.as_raw_fd(), &frame, &address, MsgFlags::empty())?;
        ensure!(sent == frame.len(), "cut short");
        Ok(())
    })
}

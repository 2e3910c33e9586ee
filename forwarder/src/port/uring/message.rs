//! Datagrams with their addresses and DS bytes, as `recvmsg(2)` and `sendmsg(2)` lay them out.
#![allow(unsafe_code)]

use std::net::SocketAddr;

use io_uring::types::RecvMsgOut;
use nix::libc;

/// Bytes that a received message's name and control data take in front of its payload, at most.
pub(in crate::port) const MESSAGE_ROOM: usize = 16 + NAME_LEN + CONTROL_LEN;

const NAME_LEN: usize = size_of::<libc::sockaddr_in6>();
/// One `cmsghdr` with an `int`.
const CONTROL_LEN: usize = 24;
/// What a datagram carries beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::port) struct Message {
    /// Who sent it.
    pub source: SocketAddr,
    /// DS byte of the IP header.
    pub tos: u8,
}

/// Which fields of a message the kernel shall fill in: only the lengths matter.
pub(super) fn template() -> libc::msghdr {
    // SAFETY: all zero is a valid `msghdr`.
    let mut template: libc::msghdr = unsafe { std::mem::zeroed() };
    template.msg_namelen = NAME_LEN as u32;
    template.msg_controllen = CONTROL_LEN;
    template
}

/// Header, address and control data of a datagram on its way out.
pub(super) struct OutMessage {
    header: libc::msghdr,
    bytes: libc::iovec,
    name: libc::sockaddr_storage,
    control: Control,
}

/// A control message with one `int`.
#[repr(C, align(8))]
struct Control {
    header: libc::cmsghdr,
    value: libc::c_int,
    padding: [u8; 4],
}

impl OutMessage {
    pub(super) fn new() -> Self {
        // SAFETY: all zero is a valid value of each of these C structs.
        unsafe { std::mem::zeroed() }
    }

    /// The header, for the kernel.
    pub(super) fn header(&self) -> *const libc::msghdr {
        &raw const self.header
    }

    /// Points the header at `bytes` and at the fields of `self`, which must not move afterwards.
    pub(super) fn set(&mut self, bytes: &[u8], to: SocketAddr, tos: u8) {
        let (level, kind, name_len) = match to {
            SocketAddr::V4(to) => {
                let name = libc::sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: to.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(to.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: `sockaddr_storage` is large enough and aligned for every address.
                unsafe { (&raw mut self.name).cast::<libc::sockaddr_in>().write(name) };
                (libc::IPPROTO_IP, libc::IP_TOS, size_of_val(&name))
            }
            SocketAddr::V6(to) => {
                let name = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: to.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: to.ip().octets() },
                    sin6_scope_id: to.scope_id(),
                };
                // SAFETY: as above.
                unsafe { (&raw mut self.name).cast::<libc::sockaddr_in6>().write(name) };
                (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, size_of_val(&name))
            }
        };
        self.control.header.cmsg_len = size_of::<libc::cmsghdr>() + size_of::<libc::c_int>();
        self.control.header.cmsg_level = level;
        self.control.header.cmsg_type = kind;
        self.control.value = tos.into();
        self.bytes = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        self.header.msg_name = (&raw mut self.name).cast();
        self.header.msg_namelen = name_len as u32;
        self.header.msg_iov = &raw mut self.bytes;
        self.header.msg_iovlen = 1;
        self.header.msg_control = (&raw mut self.control).cast();
        self.header.msg_controllen = size_of::<Control>();
    }
}

/// A received message, and where its payload lies in the buffer. `None` when it was cut off.
pub(super) fn parse(buffer: &[u8], template: &libc::msghdr) -> Option<(Message, usize, usize)> {
    let out = RecvMsgOut::parse(buffer, template).ok()?;
    if out.is_payload_truncated() {
        return None;
    }
    let message = Message { source: address(out.name_data())?, tos: ds_byte(out.control_data()) };
    Some((message, MESSAGE_ROOM, out.payload_data().len()))
}

/// The address in a `sockaddr_in` or `sockaddr_in6`.
fn address(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*name.first_chunk()?);
    let port = u16::from_be_bytes(*name.get(2..)?.first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => Some(SocketAddr::new((*name.get(4..)?.first_chunk::<4>()?).into(), port)),
        libc::AF_INET6 => {
            let ip = (*name.get(8..)?.first_chunk::<16>()?).into();
            let scope = u32::from_ne_bytes(*name.get(24..)?.first_chunk()?);
            Some(std::net::SocketAddrV6::new(ip, port, 0, scope).into())
        }
        _ => None,
    }
}

/// The DS byte in the one control message that our sockets ask for; 0 when it is not there. IPv4 gives a
/// byte, IPv6 an `int`.
fn ds_byte(control: &[u8]) -> u8 {
    let data = size_of::<libc::cmsghdr>();
    let kind = control.get(8..data).and_then(|k| k.first_chunk::<8>());
    let is = |level: i32, name: i32| {
        kind.is_some_and(|k| k[..4] == level.to_ne_bytes() && k[4..] == name.to_ne_bytes())
    };
    let value = control.get(data..).unwrap_or_default();
    if is(libc::IPPROTO_IP, libc::IP_TOS) {
        value.first().copied().unwrap_or(0)
    } else if is(libc::IPPROTO_IPV6, libc::IPV6_TCLASS) {
        value.first_chunk().map_or(0, |v| u32::from_ne_bytes(*v) as u8)
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        for text in ["192.0.2.7:51820", "[2001:db8::7]:51820", "[fe80::1%3]:1"] {
            let mut message = OutMessage::new();
            let to: SocketAddr = text.parse().unwrap();
            message.set(b"x", to, 0);
            // SAFETY: reads the bytes of an initialised C struct.
            let name =
                unsafe { std::slice::from_raw_parts((&raw const message.name).cast::<u8>(), NAME_LEN) };
            assert_eq!(address(name), Some(to));
        }
        assert_eq!(address(&[0; 28]), None);
        assert_eq!(address(&[2, 0, 1]), None);
    }

    #[test]
    fn the_ds_byte_is_found_only_in_its_own_control_message() {
        let control = |level: i32, kind: i32, data: &[u8]| {
            let mut c = (16 + data.len() as u64).to_ne_bytes().to_vec();
            c.extend(level.to_ne_bytes().iter().chain(&kind.to_ne_bytes()).chain(data));
            c
        };
        assert_eq!(ds_byte(&control(libc::IPPROTO_IP, libc::IP_TOS, &[0x8b])), 0x8b);
        assert_eq!(ds_byte(&control(libc::IPPROTO_IPV6, libc::IPV6_TCLASS, &0x8b_i32.to_ne_bytes())), 0x8b);
        assert_eq!(ds_byte(&control(libc::IPPROTO_IP, libc::IP_TTL, &[64])), 0);
        assert_eq!(ds_byte(&[]), 0);
    }
}

//! The frames, and whom they are from and for.

use std::net::{Ipv4Addr, Ipv6Addr};

use tests::frames::{IPV4, IPV6, TCP, UDP, ethernet, ipv4, ipv6, udp};

pub const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// The tags under which [`MAC`] names an interface.
pub const TAGS: [&[u16]; 3] = [&[], &[10], &[20, 30]];
pub const TUNNEL_MTU: usize = 1420;
pub const PORT: u16 = 51820;

pub const LISTENER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Listened on and local, although a steered prefix covers it.
pub const LISTENER_WITHIN: Ipv4Addr = Ipv4Addr::new(10, 2, 9, 9);
pub const LISTENER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const FAR_V4: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 7);
pub const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 7);
/// In a more specific route of the kernel's.
pub const EXEMPT_V4: Ipv4Addr = Ipv4Addr::new(10, 2, 3, 7);
pub const EXEMPT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 3, 0, 0, 0, 7);
pub const NEAR_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 7);
pub const NEAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);
pub const PEER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Offset of the IP header in an untagged frame.
pub const IP: usize = 14;

/// A WireGuard message of a type, `length` bytes in all.
pub fn message(kind: u8, length: usize) -> Vec<u8> {
    let mut message = vec![0xa5; length];
    let word = [kind, 0, 0, 0];
    let given = length.min(4);
    message[..given].copy_from_slice(&word[..given]);
    message
}

pub fn wireguard_v4(tags: &[u16], message: &[u8]) -> Vec<u8> {
    ethernet(tags, MAC, IPV4, &ipv4(PEER_V4, LISTENER_V4, UDP, &udp(9, PORT, message)))
}

pub fn wireguard_v6(tags: &[u16], message: &[u8]) -> Vec<u8> {
    ethernet(tags, MAC, IPV6, &ipv6(NEAR_V6, LISTENER_V6, UDP, &udp(9, PORT, message)))
}

pub fn plain_v4(packet: &[u8]) -> Vec<u8> {
    ethernet(&[], MAC, IPV4, packet)
}

pub fn plain_v6(packet: &[u8]) -> Vec<u8> {
    ethernet(&[], MAC, IPV6, packet)
}

/// A TCP packet with that many bytes behind the IP header.
pub fn lan_v4(destination: Ipv4Addr, length: usize) -> Vec<u8> {
    ipv4(NEAR_V4, destination, TCP, &vec![0x11; length])
}

pub fn lan_v6(destination: Ipv6Addr, length: usize) -> Vec<u8> {
    ipv6(NEAR_V6, destination, TCP, &vec![0x11; length])
}

/// The packet with flags and offset set to `field`.
pub fn fragment_v4(packet: &[u8], field: u16) -> Vec<u8> {
    with_u16(packet.to_vec(), 6, field)
}

/// A fragment with offset and flags `field` of a packet whose next header is `next_header`.
pub fn fragment_v6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: u8,
    field: u16,
    data: &[u8],
) -> Vec<u8> {
    let [high, low] = field.to_be_bytes();
    ipv6(source, destination, 44, &[&[next_header, 0, high, low, 0, 0, 0, 1], data].concat())
}

/// The packet with four bytes of options.
pub fn with_options(packet: &[u8]) -> Vec<u8> {
    let length = packet.len() as u16 + 4;
    let packet = [&packet[..20], &[1, 1, 1, 0], &packet[20..]].concat();
    with_u16(with(packet, 0, 0x46), 2, length)
}

pub fn with(mut bytes: Vec<u8>, position: usize, value: u8) -> Vec<u8> {
    bytes[position] = value;
    bytes
}

pub fn with_u16(mut bytes: Vec<u8>, position: usize, value: u16) -> Vec<u8> {
    bytes[position..position + 2].copy_from_slice(&value.to_be_bytes());
    bytes
}

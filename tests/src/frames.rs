//! Frames as bytes, built from the inside out: `ethernet(.., &ipv4(.., &udp(.., &payload)))`.
//! Lengths and checksums are right; a test that wants them wrong changes the bytes.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of a VLAN tag (802.1Q).
pub const VLAN: u16 = 0x8100;

/// A frame with the VLAN ids of `tags`, outer first.
pub fn ethernet(tags: &[u16], destination: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = destination.to_vec();
    frame.extend([0x02, 0, 0, 0, 0, 0x99]);
    for tag in tags {
        frame.extend(VLAN.to_be_bytes());
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An unfragmented IPv4 packet without options, TTL 64.
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let length = 20 + payload.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let checksum = checksum(&packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv4 packet with its header's checksum made right again after a change.
pub fn rechecked(mut packet: Vec<u8>) -> Vec<u8> {
    let header = usize::from(packet[0] & 0x0f) * 4;
    packet[10..12].fill(0);
    let checksum = checksum(&packet[..header]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// An IPv6 packet without extension headers, hop limit 64.
pub fn ipv6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next_header, 64]);
    packet.extend(source.octets());
    packet.extend(destination.octets());
    packet.extend(payload);
    packet
}

/// A UDP datagram without a checksum, which IPv4 allows.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = source.to_be_bytes().to_vec();
    datagram.extend(destination.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// The UDP payload of an untagged frame whose IP packet is whole and plain.
pub fn udp_payload(frame: &[u8]) -> Option<&[u8]> {
    let at = 14 + header_len(frame).filter(|_| protocol(frame) == Some(UDP))?;
    let len = usize::from(u16::from_be_bytes(*frame.get(at + 4..)?.first_chunk()?));
    frame.get(at + 8..at + len)
}

/// Makes the checksums of an untagged frame right: IPv4's header, and UDP's if there was one. What has no
/// such header stays as it is.
pub fn mend(frame: &mut [u8]) {
    let Some(header_len) = header_len(frame) else { return };
    let is_v4 = frame[14] >> 4 == 4;
    if is_v4 {
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..14 + header_len]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    let at = 14 + header_len;
    if protocol(frame) != Some(UDP) || frame.len() < at + 8 || (is_v4 && frame[at + 6..at + 8] == [0, 0]) {
        return;
    }
    let addresses = if is_v4 { &frame[26..34] } else { &frame[22..54] };
    let mut pseudo = addresses.to_vec();
    pseudo.extend([0, UDP]);
    pseudo.extend(((frame.len() - at) as u16).to_be_bytes());
    frame[at + 6..at + 8].fill(0);
    pseudo.extend(&frame[at..]);
    // Zero means "none": it is sent as its other form.
    let sum = Some(checksum(&pseudo)).filter(|&sum| sum != 0).unwrap_or(u16::MAX);
    frame[at + 6..at + 8].copy_from_slice(&sum.to_be_bytes());
}

/// Length of the IP header of an untagged frame, if it lies within.
fn header_len(frame: &[u8]) -> Option<usize> {
    let (len, least) = match frame.get(14)? >> 4 {
        4 => (usize::from(frame[14] & 0x0f) * 4, 20),
        6 => (40, 40),
        _ => return None,
    };
    (len >= least && frame.len() >= 14 + len).then_some(len)
}

fn protocol(frame: &[u8]) -> Option<u8> {
    frame.get(if frame.get(14)? >> 4 == 4 { 23 } else { 20 }).copied()
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let word = |c: &[u8]| u32::from(u16::from_be_bytes([c[0], c.get(1).copied().unwrap_or(0)]));
    let sum: u32 = bytes.chunks(2).map(word).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !(folded + (folded >> 16)) as u16
}

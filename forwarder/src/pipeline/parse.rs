//! Headers as read from a frame: Ethernet with up to two VLAN tags, IPv4, IPv6, UDP.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::checksum::{self, Sum};
use super::snapshot::FrameKey;
use crate::id::PortId;

/// `EtherType` of IPv4.
pub const IPV4: u16 = 0x0800;
/// `EtherType` of IPv6.
pub const IPV6: u16 = 0x86dd;
/// `EtherType` of a customer VLAN tag (IEEE 802.1Q).
pub const VLAN: u16 = 0x8100;
/// `EtherType` of a service VLAN tag (IEEE 802.1ad).
const SERVICE_VLAN: u16 = 0x88a8;

/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;

/// Length of an Ethernet header without tags.
pub const ETHERNET_LEN: usize = 14;
/// Length of a VLAN tag.
pub const VLAN_LEN: usize = 4;
/// Length of a UDP header.
pub const UDP_LEN: usize = 8;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Length of an IPv6 header.
pub const IPV6_LEN: usize = 40;

/// An Ethernet header.
#[derive(Clone, Copy, Debug)]
pub struct Ethernet {
    /// What names the interface.
    pub key: FrameKey,
    /// Type of the payload, after the tags.
    pub ethertype: u16,
    /// Offset of the payload.
    pub payload: usize,
}

/// Reads the Ethernet header and at most two VLAN tags; `None` when the frame ends before.
pub fn ethernet(port: PortId, frame: &[u8]) -> Option<Ethernet> {
    let mac = *frame.first_chunk()?;
    let mut at = 12;
    let mut vlans = [0; 2];
    for vlan in &mut vlans {
        if !matches!(word(frame, at)?, VLAN | SERVICE_VLAN) {
            break;
        }
        *vlan = word(frame, at + 2)? & 0x0fff;
        at += VLAN_LEN;
    }
    let ethertype = word(frame, at)?;
    let [outer_vlan, inner_vlan] = vlans;
    Some(Ethernet { key: FrameKey { port, outer_vlan, inner_vlan, mac }, ethertype, payload: at + 2 })
}

/// An IP header, IPv4 or IPv6, without its addresses: so small that it travels in registers, and what
/// needs an address reads it where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// IPv4, else IPv6.
    pub is_ipv4: bool,
    /// DS byte (DSCP and ECN).
    pub ds: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Protocol, or IPv6's next header.
    pub protocol: u8,
    /// A part of a fragmented packet, the first included.
    pub fragment: bool,
    /// IPv4 options, or IPv6 extension headers that a forwarder must look at.
    pub options: bool,
    header_len: u16,
    packet_len: u32,
}

impl Ip {
    /// Offset of what follows the header (IPv4 options included, IPv6 extension headers not).
    pub fn header_len(self) -> usize {
        usize::from(self.header_len)
    }

    /// Length of the packet, without a link layer's padding.
    pub fn packet_len(self) -> usize {
        self.packet_len as usize
    }

    /// The source address of `packet`, whose header this is.
    #[inline]
    pub fn source(self, packet: &[u8]) -> IpAddr {
        self.address(packet, [12, 8])
    }

    /// The destination address of `packet`, whose header this is.
    #[inline]
    pub fn destination(self, packet: &[u8]) -> IpAddr {
        self.address(packet, [16, 24])
    }

    /// At these offsets in IPv4 and in IPv6; in a shorter packet, which this is no header of, unspecified.
    #[inline]
    fn address(self, packet: &[u8], [v4, v6]: [usize; 2]) -> IpAddr {
        if self.is_ipv4 {
            IpAddr::from(octets::<4>(packet, v4))
        } else {
            IpAddr::from(octets::<16>(packet, v6))
        }
    }
}

/// Reads an IP header, which starts `packet`; bytes may follow the IP packet. `None` when a length
/// disagrees with another, the version is neither 4 nor 6, or IPv4's header checksum is wrong.
#[expect(
    clippy::inline_always,
    reason = "out of line its result goes through memory in parts, and is waited for"
)]
#[inline(always)]
pub fn ip(packet: &[u8]) -> Option<Ip> {
    match packet.first()? >> 4 {
        4 => ipv4(packet),
        6 => ipv6(packet),
        _ => None,
    }
}

#[inline]
fn ipv4(packet: &[u8]) -> Option<Ip> {
    const FRAGMENT: u16 = 0x3fff; // "more fragments" and the offset
    let header: &[u8; IPV4_LEN] = packet.first_chunk()?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    let len = u16::from_be_bytes([header[2], header[3]]);
    let options = header_len > IPV4_LEN;
    if header_len < IPV4_LEN || usize::from(len) < header_len || usize::from(len) > packet.len() {
        return None;
    }
    let right = if options { checksum::is_right(&packet[..header_len]) } else { checksum::is_right(header) };
    if !right {
        return None;
    }
    Some(Ip {
        is_ipv4: true,
        ds: header[1],
        ttl: header[8],
        protocol: header[9],
        fragment: u16::from_be_bytes([header[6], header[7]]) & FRAGMENT != 0,
        options,
        header_len: header_len as u16,
        packet_len: u32::from(len),
    })
}

fn ipv6(packet: &[u8]) -> Option<Ip> {
    const HOP_BY_HOP: u8 = 0;
    const ROUTING: u8 = 43;
    const FRAGMENT: u8 = 44;
    const DESTINATION_OPTIONS: u8 = 60;
    let header: &[u8; IPV6_LEN] = packet.first_chunk()?;
    let len = IPV6_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if len > packet.len() {
        return None;
    }
    Some(Ip {
        is_ipv4: false,
        ds: header[0] << 4 | header[1] >> 4,
        ttl: header[7],
        protocol: header[6],
        fragment: header[6] == FRAGMENT,
        options: matches!(header[6], HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS),
        header_len: IPV6_LEN as u16,
        packet_len: len as u32,
    })
}

/// A whole UDP datagram in an IP packet.
#[derive(Clone, Debug)]
pub struct Udp {
    /// Port that it comes from.
    pub source: u16,
    /// Port that it goes to.
    pub destination: u16,
    /// The payload in the IP packet.
    pub payload: Range<usize>,
}

/// Reads the UDP header of `packet`, whose IP header is `ip`; `None` when it is a fragment, not UDP,
/// or the lengths disagree.
#[inline]
pub fn udp(ip: Ip, packet: &[u8]) -> Option<Udp> {
    if ip.protocol != UDP || ip.fragment {
        return None;
    }
    let segment = packet.get(ip.header_len()..ip.packet_len())?;
    let header: &[u8; UDP_LEN] = segment.first_chunk()?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if len < UDP_LEN || len > segment.len() {
        return None;
    }
    Some(Udp {
        source: u16::from_be_bytes([header[0], header[1]]),
        destination: u16::from_be_bytes([header[2], header[3]]),
        payload: ip.header_len() + UDP_LEN..ip.header_len() + len,
    })
}

/// Who sent the UDP datagram in `packet`; `None` when there is none.
pub fn udp_source(packet: &[u8]) -> Option<SocketAddr> {
    let ip = ip(packet)?;
    Some(SocketAddr::new(ip.source(packet), udp(ip, packet)?.source))
}

/// Whether the UDP checksum of an IP packet is right: over IPv4 it may be absent, over IPv6 not.
/// [`ip`] has verified IPv4's header checksum. Frames from AF_XDP come without the kernel's check.
pub fn udp_checksum_is_right(packet: &[u8]) -> bool {
    let Some(ip) = ip(packet) else { return false };
    let Some(udp) = udp(ip, packet) else { return false };
    let segment = &packet[ip.header_len()..udp.payload.end];
    if segment[6..8] == [0, 0] {
        return ip.is_ipv4;
    }
    pseudo_header(packet, segment.len()).bytes(segment).checksum() == 0
}

/// The sum of UDP's pseudo header; `packet` starts with the IP header.
pub fn pseudo_header(packet: &[u8], udp_len: usize) -> Sum {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    Sum::default().bytes(addresses).word(u16::from(UDP)).word(udp_len as u16)
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[inline]
fn octets<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; N])
}

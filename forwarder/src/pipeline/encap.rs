//! Headers before a packet, inside and outside: templates, and what is filled in per packet.

use std::net::SocketAddr;

use arrayvec::ArrayVec;

use super::checksum::Sum;
use super::parse::{ETHERNET_LEN, IPV4, IPV4_LEN, IPV6, IPV6_LEN, UDP, UDP_LEN, VLAN, pseudo_header};
use super::snapshot::{Egress, Encap, MAX_ETHERNET_LEN};
use crate::id::PortId;

/// TTL and hop limit of outer headers.
const TTL: u8 = 64;

impl Encap {
    /// A template for frames from `source` to `destination`, with the VLAN ids in `vlans`, outer first.
    /// `None` when the addresses are of different families or there are more than two tags.
    pub fn frame(
        port: PortId,
        source_mac: [u8; 6],
        destination_mac: [u8; 6],
        vlans: &[u16],
        source: SocketAddr,
        destination: SocketAddr,
    ) -> Option<Self> {
        let ethertype = if destination.is_ipv4() { IPV4 } else { IPV6 };
        let mut header = ArrayVec::new();
        let ethernet: ArrayVec<u8, MAX_ETHERNET_LEN> =
            ethernet(source_mac, destination_mac, vlans, ethertype)?;
        header.try_extend_from_slice(&ethernet).ok()?;
        match (source, destination) {
            (SocketAddr::V4(from), SocketAddr::V4(to)) => {
                let mut ip = [0x45, 0, 0, 0, 0, 0, 0, 0, TTL, UDP, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                ip[12..16].copy_from_slice(&from.ip().octets());
                ip[16..20].copy_from_slice(&to.ip().octets());
                let checksum = Sum::default().bytes(&ip).checksum();
                ip[10..12].copy_from_slice(&checksum.to_be_bytes());
                header.try_extend_from_slice(&ip).ok()?;
            }
            (SocketAddr::V6(from), SocketAddr::V6(to)) => {
                header.try_extend_from_slice(&[0x60, 0, 0, 0, 0, 0, UDP, TTL]).ok()?;
                header.try_extend_from_slice(&from.ip().octets()).ok()?;
                header.try_extend_from_slice(&to.ip().octets()).ok()?;
            }
            _ => return None,
        }
        header.try_extend_from_slice(&source.port().to_be_bytes()).ok()?;
        header.try_extend_from_slice(&destination.port().to_be_bytes()).ok()?;
        header.try_extend_from_slice(&[0; 4]).ok()?;
        Some(Encap::Frame { port, header, ip: ethernet.len() as u8 })
    }
}

impl Egress {
    /// As frames of these ports, for IP packets of at most `mtu` bytes. `None` when there are more than two
    /// VLAN tags.
    pub fn ethernet(
        ports: ArrayVec<PortId, 16>,
        source_mac: [u8; 6],
        vlans: &[u16],
        mtu: u16,
    ) -> Option<Self> {
        Some(Egress::Ethernet { ports, header: ethernet(source_mac, [0; 6], vlans, IPV4)?, mtu })
    }
}

/// Writes an Ethernet header at the start of `frame` from the template that [`Egress::ethernet`] made.
#[inline]
pub(super) fn fill_ethernet(template: &[u8], frame: &mut [u8], destination: [u8; 6], ethertype: u16) {
    if let Some((template, header)) = both::<ETHERNET_LEN>(template, frame) {
        *header = *template;
        header[..6].copy_from_slice(&destination);
        header[12..].copy_from_slice(&ethertype.to_be_bytes());
        return;
    }
    frame[..template.len()].copy_from_slice(template);
    frame[..6].copy_from_slice(&destination);
    frame[template.len() - 2..template.len()].copy_from_slice(&ethertype.to_be_bytes());
}

/// A template and its place in a frame, if it is `N` bytes long, as it usually is: what has a known length is copied
/// without a call.
#[inline]
fn both<'a, const N: usize>(
    template: &'a [u8],
    frame: &'a mut [u8],
) -> Option<(&'a [u8; N], &'a mut [u8; N])> {
    Some((template.try_into().ok()?, frame.first_chunk_mut()?))
}

/// An Ethernet header with VLAN tags, outer first; `None` when there are more than two.
fn ethernet(
    source: [u8; 6],
    destination: [u8; 6],
    vlans: &[u16],
    ethertype: u16,
) -> Option<ArrayVec<u8, MAX_ETHERNET_LEN>> {
    let mut header = ArrayVec::new();
    header.try_extend_from_slice(&destination).ok()?;
    header.try_extend_from_slice(&source).ok()?;
    for vlan in vlans {
        header.try_extend_from_slice(&VLAN.to_be_bytes()).ok()?;
        header.try_extend_from_slice(&(vlan & 0x0fff).to_be_bytes()).ok()?;
    }
    header.try_extend_from_slice(&ethertype.to_be_bytes()).ok()?;
    Some(header)
}

/// Writes the outer header before the UDP payload that already stands in `frame`. `ip` is the IP
/// header's offset in `template`, `ds` the DS byte, `id` the IPv4 identification.
///
/// The UDP checksum is absent over IPv4: the payload is authenticated, and RFC 768 allows it. Over IPv6
/// it is mandatory.
#[inline]
pub fn fill(template: &[u8], ip: usize, frame: &mut [u8], ds: u8, id: u16) {
    const UNTAGGED: usize = ETHERNET_LEN + IPV4_UDP;
    let len = (frame.len() - ip) as u16;
    // Only IPv4 without tags is so short.
    if let Some((template, headers)) = both::<UNTAGGED>(template, frame) {
        *headers = *template;
        let Some((_, headers)) = headers.split_last_chunk_mut() else { return };
        return fill_ipv4(headers, len, ds, id);
    }
    frame[..template.len()].copy_from_slice(template);
    let packet = &mut frame[ip..];
    if packet[0] >> 4 == 4 {
        // The template alone is as long.
        let Some(headers) = packet.first_chunk_mut() else { return };
        fill_ipv4(headers, len, ds, id);
    } else {
        let udp = IPV6_LEN;
        let udp_len = len - udp as u16;
        packet[udp + 4..udp + 6].copy_from_slice(&udp_len.to_be_bytes());
        packet[0] = 0x60 | ds >> 4;
        packet[1] = ds << 4;
        packet[4..6].copy_from_slice(&udp_len.to_be_bytes());
        let sum = pseudo_header(packet, usize::from(udp_len)).bytes(&packet[udp..]).checksum();
        // 0 would say "no checksum"; 0xffff is the same number in one's complement.
        let sum = if sum == 0 { 0xffff } else { sum };
        packet[udp + 6..udp + 8].copy_from_slice(&sum.to_be_bytes());
    }
}

/// Length of an IPv4 and a UDP header.
const IPV4_UDP: usize = IPV4_LEN + UDP_LEN;

/// Fills in a packet of `len` bytes, whose checksum is that of the template.
#[inline]
fn fill_ipv4(headers: &mut [u8; IPV4_UDP], len: u16, ds: u8, id: u16) {
    let blank = u16::from_be_bytes([headers[10], headers[11]]);
    let sum = Sum::default().word(!blank).word(u16::from(ds)).word(len).word(id);
    headers[1] = ds;
    headers[2..4].copy_from_slice(&len.to_be_bytes());
    headers[4..6].copy_from_slice(&id.to_be_bytes());
    headers[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
    let udp_len = len - IPV4_LEN as u16;
    headers[IPV4_LEN + 4..IPV4_LEN + 6].copy_from_slice(&udp_len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::parse;

    fn filled(source: &str, destination: &str, vlans: &[u16], payload: &[u8], ds: u8, id: u16) -> Vec<u8> {
        let template = Encap::frame(
            PortId(3),
            [2, 0, 0, 0, 0, 1],
            [2, 0, 0, 0, 0, 2],
            vlans,
            source.parse().unwrap(),
            destination.parse().unwrap(),
        );
        let Some(Encap::Frame { port: PortId(3), header, ip }) = template else { panic!("{template:?}") };
        let mut frame = vec![0; header.len()];
        frame.extend_from_slice(payload);
        fill(&header, ip.into(), &mut frame, ds, id);
        frame
    }

    /// The filled headers parse back, checksums included, whatever the payload.
    #[test]
    fn frames_parse_back() {
        for (source, destination) in
            [("192.0.2.1:5000", "198.51.100.2:5001"), ("[2001:db8::1]:5000", "[2001:db8::2]:5001")]
        {
            for vlans in [&[][..], &[10], &[10, 20]] {
                for len in [32u16, 33, 148, 1452] {
                    let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
                    let frame = filled(source, destination, vlans, &payload, 0x8b, len * 41);
                    let ethernet = parse::ethernet(PortId(3), &frame).unwrap();
                    assert_eq!([ethernet.key.outer_vlan, ethernet.key.inner_vlan][..vlans.len()], *vlans);
                    assert_eq!(ethernet.key.mac, [2, 0, 0, 0, 0, 2]);
                    let packet = &frame[ethernet.payload..];
                    let ip = parse::ip(packet).unwrap();
                    let udp = parse::udp(ip, packet).unwrap();
                    assert_eq!(parse::udp_source(packet), Some(source.parse().unwrap()));
                    assert_eq!(udp.destination, 5001);
                    assert_eq!((packet[udp.payload.clone()].to_vec(), ip.ds, ip.ttl), (payload, 0x8b, 64));
                    assert!(parse::udp_checksum_is_right(packet));
                    // DF = 0: what does not fit is fragmented, as the kernel's messages are.
                    assert!(!ip.is_ipv4 || packet[6..8] == [0, 0]);
                    if !ip.is_ipv4 {
                        let mut broken = packet.to_vec();
                        broken[udp.payload.start] ^= 1;
                        assert!(!parse::udp_checksum_is_right(&broken));
                    }
                }
            }
        }
    }

    /// The payload is chosen so that the sum is 0, which must be written as 0xffff.
    #[test]
    fn ipv6_checksum_is_never_zero() {
        let mut payload = [0; 32];
        let frame = filled("[2001:db8::1]:1", "[2001:db8::2]:2", &[], &payload, 0, 0);
        payload[30..].copy_from_slice(&frame[60..62]);
        let frame = filled("[2001:db8::1]:1", "[2001:db8::2]:2", &[], &payload, 0, 0);
        assert_eq!(frame[60..62], [0xff, 0xff]);
        assert!(parse::udp_checksum_is_right(&frame[14..]));
    }

    #[test]
    fn mixed_families_are_refused() {
        let (v4, v6) = ("192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap());
        assert!(Encap::frame(PortId(0), [0; 6], [0; 6], &[], v4, v6).is_none());
        assert!(Encap::frame(PortId(0), [0; 6], [0; 6], &[1, 2, 3], v4, v4).is_none());
    }
}

//! Packets and frames, made and judged without the pipeline's own code where that matters.

use std::net::{IpAddr, SocketAddr};

use super::site::Site;
use crate::id::PortId;
use crate::pipeline::parse;
use crate::port::memory::Sent;

/// Whether a frame is a WireGuard message from the site's gateway to the other one's endpoint.
pub(super) fn is_sealed(site: Site, wire: usize, frame: &[u8]) -> bool {
    let Some(ethernet) = parse::ethernet(PortId(0), frame) else { return false };
    let packet = &frame[ethernet.payload..];
    let Some(ip) = parse::ip(packet) else { return false };
    let Some(udp) = parse::udp(ip, packet) else { return false };
    let message = &packet[udp.payload.clone()];
    let to = site.other().endpoint(wire);
    let receiver = site.other().local_index(wire).to_le_bytes();
    let sealed = message.len() >= 32 && message[..4] == [4, 0, 0, 0] && message[4..8] == receiver;
    let handshake = message.len() == 148 && message[..4] == [1, 0, 0, 0];
    parse::udp_source(packet) == Some(site.endpoint(wire))
        && SocketAddr::new(ip.destination(packet), udp.destination) == to
        && ethernet.key.mac == site.other().gateway_mac(wire + 1)
        && ip.packet_len() == packet.len()
        && parse::udp_checksum_is_right(packet)
        && (sealed || handshake)
}

/// An Ethernet frame, padded as on the wire.
pub(super) fn ethernet(destination: [u8; 6], source: [u8; 6], vlans: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    for vlan in vlans {
        frame.extend_from_slice(&[0x81, 0x00]);
        frame.extend_from_slice(&vlan.to_be_bytes());
    }
    frame.extend_from_slice(if packet.first().is_some_and(|b| b >> 4 == 6) {
        &[0x86, 0xdd]
    } else {
        &[0x08, 0x00]
    });
    frame.extend_from_slice(packet);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A UDP packet of a LAN host, in the fields that tests vary.
#[derive(Clone)]
pub(super) struct Inner {
    pub(super) from: IpAddr,
    pub(super) to: IpAddr,
    pub(super) ports: (u16, u16),
    pub(super) ttl: u8,
    pub(super) ecn: u8,
    pub(super) payload: Vec<u8>,
}

impl Inner {
    /// From host to host.
    pub(super) fn between(from: Site, ipv6: bool) -> Self {
        let payload = b"an inner payload".to_vec();
        Self {
            from: from.host(ipv6),
            to: from.other().host(ipv6),
            ports: (1234, 5678),
            ttl: 64,
            ecn: 0,
            payload,
        }
    }
    /// The same as its receiver gets it.
    pub(super) fn forwarded(&self, hops: u8) -> Vec<u8> {
        Self { ttl: self.ttl - hops, ..self.clone() }.packet()
    }

    pub(super) fn packet(&self) -> Vec<u8> {
        let mut udp = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        udp.extend_from_slice(&(8 + self.payload.len() as u16).to_be_bytes());
        udp.extend_from_slice(&[0xbe, 0xef]);
        udp.extend_from_slice(&self.payload);
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let len = (20 + udp.len() as u16).to_be_bytes();
                let mut header =
                    vec![0x45, 0xa0 | self.ecn, len[0], len[1], 0, 9, 0x40, 0, self.ttl, 17, 0, 0];
                header.extend_from_slice(&from.octets());
                header.extend_from_slice(&to.octets());
                checksummed(&mut header);
                [header, udp].concat()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let len = (udp.len() as u16).to_be_bytes();
                let mut header = vec![0x6a, self.ecn << 4, 0, 1, len[0], len[1], 17, self.ttl];
                header.extend_from_slice(&from.octets());
                header.extend_from_slice(&to.octets());
                [header, udp].concat()
            }
            _ => panic!("mixed families"),
        }
    }
}

/// Sets an IPv4 header's checksum, by RFC 791's definition.
pub(super) fn checksummed(header: &mut [u8]) {
    header[10..12].fill(0);
    let words = header.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

pub(super) fn bytes(sent: Vec<Sent>) -> Vec<Vec<u8>> {
    sent.into_iter().map(|s| s.bytes).collect()
}

//! Packets that a fast path likes to forget, from site A's LAN host to site B's.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use tests::frames::{IPV4, IPV6, TCP, UDP, ethernet, ipv4, ipv6, rechecked, udp};
use tests::lab::{mac, send};
use xtask::lab::address::{lan4, lan6};
use xtask::lab::eavesdrop::Eavesdropper;
use xtask::lab::{Lab, Side};

use super::watch::wait_frames;

/// "Time exceeded in transit", and "fragmentation needed" or "packet too big".
const ICMP_ERRORS: &str = "(icmp and ((icmp[0] = 11 and icmp[1] = 0) or (icmp[0] = 3 and icmp[1] = 4))) or \
    (ip6[6] = 58 and ((ip6[40] = 3 and ip6[41] = 0) or ip6[40] = 2))";

/// What is to become of a packet while the tunnels are up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Site B's LAN sees it, or its fragments.
    Arrives,
    /// Site A's LAN host gets an ICMP error.
    Answered,
    /// Whatever, but not in clear.
    Any,
}

/// One of them.
pub struct Odd {
    pub what: &'static str,
    pub fate: Fate,
    /// Whether a kernel without a gateway program forwards it: then the operator's default route takes it
    /// onto the underlay.
    pub forwarded: bool,
    tags: &'static [u16],
    broadcast: bool,
    packet: Vec<u8>,
}

impl Odd {
    fn new(what: &'static str, fate: Fate, packet: Vec<u8>) -> Self {
        Self { what, fate, forwarded: fate == Fate::Arrives, tags: &[], broadcast: false, packet }
    }

    /// The frame to a gateway's MAC address.
    pub fn frame(&self, gateway: [u8; 6]) -> Vec<u8> {
        let ethertype = if self.packet[0] >> 4 == 4 { IPV4 } else { IPV6 };
        let destination = if self.broadcast { [0xff; 6] } else { gateway };
        ethernet(self.tags, destination, ethertype, &self.packet)
    }
}

/// Sends every odd packet from A to B, and waits for what becomes of it.
pub fn send_all(lab: &Lab) -> Result<()> {
    let mut arrived = Eavesdropper::new(lab.directory());
    let sources = format!("src host {} or src host {}", lan4(Side::A, 10), lan6(Side::A, 10));
    arrived.watch(&lab.b.host, "eth0", &sources)?;
    let mut answered = Eavesdropper::new(lab.directory());
    answered.watch(&lab.a.host, "eth0", ICMP_ERRORS)?;
    let gateway = mac(&lab.a.gateway, "lan0")?;
    for odd in all() {
        let ears = match odd.fate {
            Fate::Arrives => Some(&arrived),
            Fate::Answered => Some(&answered),
            Fate::Any => None,
        };
        let seen = ears.map_or(Ok(0), |ears| ears.frames().map(|frames| frames.len()))?;
        send(&lab.a.host, "eth0", &odd.frame(gateway))?;
        if let Some(ears) = ears {
            wait_frames(ears, seen + 1).with_context(|| format!("{}: {:?}", odd.what, odd.fate))?;
        }
    }
    Ok(())
}

/// All of them.
pub fn all() -> Vec<Odd> {
    let mut all = in_v4();
    all.extend(in_v6());
    all
}

fn in_v4() -> Vec<Odd> {
    use Fate::{Answered, Any, Arrives};
    let odd = Odd::new;
    let plain = v4(100);
    let mut all = vec![
        odd("IPv4", Arrives, plain.clone()),
        odd("no operation options", Arrives, with_options(&plain, &[1, 1, 1, 0])),
        odd("record route", Arrives, with_options(&plain, &[7, 7, 4, 0, 0, 0, 0, 0])),
        odd("time stamp", Arrives, with_options(&plain, &[68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
        odd("loose source route", Any, with_options(&plain, &[131, 7, 4, 10, 200, 0, 2, 0])),
        odd("all the room for options", Arrives, with_options(&plain, &[1; 40])),
        odd("first fragment", Arrives, fragment_v4(&plain, 0x2000)),
        odd("later fragment", Arrives, fragment_v4(&plain, 185)),
        odd("fragment with options", Arrives, fragment_v4(&with_options(&plain, &[1, 1, 1, 0]), 0x2000)),
        odd("largest packet for the tunnel", Arrives, v4(1420)),
        odd("over the tunnel's MTU", Arrives, v4(1421)),
        odd("over the tunnel's MTU, DF", Answered, fragment_v4(&v4(1421), 0x4000)),
        odd("full frame, DF", Answered, fragment_v4(&v4(1500), 0x4000)),
        odd("TTL 0", Answered, with_ttl(&plain, 0)),
        odd("TTL 1", Answered, with_ttl(&plain, 1)),
        odd("TTL 2", Answered, with_ttl(&plain, 2)),
        odd("TTL 3", Arrives, with_ttl(&plain, 3)),
        odd("TTL 1 over the MTU", Answered, with_ttl(&v4(1500), 1)),
        odd("an IPv4 header alone", Arrives, ipv4(HOST_A4, HOST_B4, 253, &[])),
        odd("WireGuard of the LAN's own", Arrives, ipv4(HOST_A4, HOST_B4, UDP, &message(4))),
        odd("a handshake of the LAN's own", Arrives, ipv4(HOST_A4, HOST_B4, UDP, &message(1))),
        odd("a source in the far LAN", Any, ipv4(lan4(Side::B, 77), HOST_B4, UDP, &[0; 20])),
        odd("a source elsewhere", Any, ipv4(Ipv4Addr::new(203, 0, 113, 5), HOST_B4, UDP, &[0; 20])),
        odd("a source of loopback", Any, ipv4(Ipv4Addr::LOCALHOST, HOST_B4, UDP, &[0; 20])),
        odd("no source", Any, ipv4(Ipv4Addr::UNSPECIFIED, HOST_B4, UDP, &[0; 20])),
        odd("the far network's broadcast", Any, ipv4(HOST_A4, lan4(Side::B, 255), UDP, &[0; 20])),
        odd("longer than its frame", Any, rechecked([&[0x45, 0, 0xff, 0xff], &plain[4..]].concat())),
        Odd { tags: &[0], ..odd("a priority tag", Arrives, plain.clone()) },
        Odd { tags: &[10], ..odd("an unknown VLAN", Any, plain.clone()) },
        Odd { broadcast: true, ..odd("a broadcast frame", Any, plain) },
    ];
    let protocols = [("ICMP", 1), ("IP in IP", 4), ("TCP", TCP), ("GRE", 47), ("ESP", 50), ("SCTP", 132)];
    all.extend(
        protocols.map(|(what, protocol)| odd(what, Arrives, ipv4(HOST_A4, HOST_B4, protocol, &[8; 40]))),
    );
    all
}

fn in_v6() -> Vec<Odd> {
    use Fate::{Answered, Any, Arrives};
    let odd = Odd::new;
    let datagram = udp(4000, 4001, &[0; 40]);
    // Behind its next header: eight bytes in all, which are padding or of no meaning.
    let padding = [0, 1, 4, 0, 0, 0, 0];
    let behind = |kind, rest: &[u8]| v6(kind, &[&[UDP], rest, &datagram].concat());
    let mut all = vec![
        odd("IPv6", Arrives, v6(UDP, &datagram)),
        odd("hop-by-hop options", Arrives, behind(0, &padding)),
        odd("destination options", Arrives, behind(60, &padding)),
        odd("spent routing header", Arrives, behind(43, &[0, 4, 0, 0, 0, 0, 0])),
        odd("routing header", Arrives, behind(43, &[0, 4, 1, 0, 0, 0, 0])),
        odd("first fragment", Arrives, behind(44, &[0, 0, 1, 0, 0, 0, 1])),
        odd("later fragment", Arrives, behind(44, &[0, 0x05, 0xc8, 0, 0, 0, 2])),
        odd("atomic fragment", Arrives, behind(44, &[0, 0, 0, 0, 0, 0, 3])),
        odd("authentication header", Arrives, behind(51, &[2, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0])),
        odd("mobility header", Arrives, behind(135, &padding)),
        odd("ESP", Arrives, v6(50, &[7; 40])),
        odd("no next header", Arrives, v6(59, &[])),
        odd(
            "fragment of a packet with options",
            Arrives,
            v6(44, &[&[60, 0, 0, 1, 0, 0, 0, 4, UDP], &padding[..], &datagram].concat()),
        ),
        odd(
            "fragment behind hop-by-hop options",
            Arrives,
            v6(0, &[&[44], &padding[..], &[UDP, 0, 0, 1, 0, 0, 0, 5], &datagram].concat()),
        ),
        odd("largest packet for the tunnel", Arrives, v6(UDP, &udp(1, 2, &[0; 1420 - 48]))),
        odd("over the tunnel's MTU", Answered, v6(UDP, &udp(1, 2, &[0; 1421 - 48]))),
        odd("full frame", Answered, v6(UDP, &udp(1, 2, &[0; 1500 - 48]))),
        odd("hop limit 1", Answered, with_hop_limit(v6(UDP, &datagram), 1)),
        // The far gateway answers with an address of its choice, which the tunnel need not allow.
        odd("hop limit 2", Any, with_hop_limit(v6(UDP, &datagram), 2)),
        odd("WireGuard of the LAN's own", Arrives, v6(UDP, &message(4))),
        odd("a source in the far LAN", Any, ipv6(lan6(Side::B, 77), HOST_B6, UDP, &datagram)),
        odd(
            "a link-local source",
            Any,
            ipv6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9), HOST_B6, UDP, &datagram),
        ),
        odd("no source", Any, ipv6(Ipv6Addr::UNSPECIFIED, HOST_B6, UDP, &datagram)),
    ];
    all.extend([("ICMPv6", 58), ("TCP", TCP)].map(|(what, kind)| odd(what, Arrives, v6(kind, &[128; 40]))));
    all
}

const HOST_A4: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
const HOST_B4: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 10);
const HOST_A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0x168, 1, 0, 0, 0, 10);
const HOST_B6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x192, 0x168, 2, 0, 0, 0, 10);

/// A UDP packet of `length` bytes.
fn v4(length: usize) -> Vec<u8> {
    ipv4(HOST_A4, HOST_B4, UDP, &udp(4000, 4001, &vec![0; length - 28]))
}

fn v6(next_header: u8, payload: &[u8]) -> Vec<u8> {
    ipv6(HOST_A6, HOST_B6, next_header, payload)
}

/// A datagram between ports that the gateways themselves listen on, with a message of this type.
fn message(kind: u8) -> Vec<u8> {
    udp(51820, 51820, &[&[kind, 0, 0, 0], &[7; 144][..]].concat())
}

fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    let mut packet = [&packet[..20], options, &packet[20..]].concat();
    packet[0] += (options.len() / 4) as u8;
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    rechecked(packet)
}

/// With this field of flags and fragment offset.
fn fragment_v4(packet: &[u8], field: u16) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[6..8].copy_from_slice(&field.to_be_bytes());
    rechecked(packet)
}

fn with_ttl(packet: &[u8], ttl: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[8] = ttl;
    rechecked(packet)
}

fn with_hop_limit(mut packet: Vec<u8>, hop_limit: u8) -> Vec<u8> {
    packet[7] = hop_limit;
    packet
}

//! The XDP program in the kernel, without a NIC: frames go in by `BPF_PROG_TEST_RUN`; the action and
//! the counter tell what the program decided. Loaded by libbpf, whose reading of the object is not
//! aya's. Needs root.
//!
//! The environment variable `STEER_OBJECT` names another object to test than the committed one.
#![allow(clippy::unwrap_used)]

use std::{env, fs, net::Ipv4Addr, net::Ipv6Addr, os::fd::AsRawFd};

use forwarder_contract::{PROGRAM, Verdict, map};
use libbpf_rs::{Map, MapCore, MapFlags, Object, ObjectBuilder, ProgramInput};
use nix::{libc, unistd::geteuid};
use socket2::{Domain, Socket, Type};
use tests::frames::{IPV4, IPV6, TCP, UDP, ethernet, ipv4, ipv6, udp};

const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];
/// The tags under which [`MAC`] names an interface.
const TAGS: [&[u16]; 3] = [&[], &[10], &[20, 30]];
const TUNNEL_MTU: usize = 1420;
const PORT: u16 = 51820;

const LISTENER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Listened on and local, although a steered prefix covers it.
const LISTENER_WITHIN: Ipv4Addr = Ipv4Addr::new(10, 2, 9, 9);
const LISTENER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
const FAR_V4: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 7);
const FAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 7);
/// In a more specific route of the kernel's.
const EXEMPT_V4: Ipv4Addr = Ipv4Addr::new(10, 2, 3, 7);
const EXEMPT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 3, 0, 0, 0, 7);
const NEAR_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 7);
const NEAR_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 7);
const PEER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

/// Offset of the IP header in an untagged frame.
const IP: usize = 14;

#[test]
fn data_messages_for_a_listener_are_redirected() {
    let steer = Steer::load();
    for tags in TAGS {
        for frame in [wireguard_v4(tags, &message(4, 32)), wireguard_v6(tags, &message(4, 32))] {
            steer.expect("data", &frame, Verdict::RedirectWireGuard);
        }
    }
    steer.expect("with payload", &wireguard_v4(&[], &message(4, 1452)), Verdict::RedirectWireGuard);
    let within = ipv4(PEER_V4, LISTENER_WITHIN, UDP, &udp(9, PORT, &message(4, 64)));
    steer.expect("to an address under a steered prefix", &plain_v4(&within), Verdict::RedirectWireGuard);
}

#[test]
fn other_messages_for_a_listener_pass() {
    let steer = Steer::load();
    for (what, message) in [
        ("initiation", message(1, 148)),
        ("response", message(2, 92)),
        ("cookie", message(3, 64)),
        ("type 0", message(0, 64)),
        ("type 5", message(5, 64)),
        ("a reserved byte set", with(message(4, 64), 3, 1)),
        ("a byte short", message(4, 31)),
        ("type alone", message(4, 4)),
        ("less than a type", message(4, 3)),
        ("empty", Vec::new()),
    ] {
        steer.expect(what, &wireguard_v4(&[], &message), Verdict::PassControl);
        steer.expect(what, &wireguard_v6(&[10], &message), Verdict::PassControl);
        // A short frame is padded to Ethernet's least length.
        let padded = [wireguard_v4(&[], &message), vec![0; 46]].concat();
        steer.expect(what, &padded, Verdict::PassControl);
    }
    let within = ipv4(PEER_V4, LISTENER_WITHIN, UDP, &udp(9, PORT, &message(1, 148)));
    steer.expect("under a steered prefix", &plain_v4(&within), Verdict::PassControl);
}

#[test]
fn data_messages_for_others_pass() {
    let steer = Steer::load();
    let data = message(4, 64);
    let port = ipv4(PEER_V4, LISTENER_V4, UDP, &udp(PORT, PORT + 1, &data));
    steer.expect("another port", &plain_v4(&port), Verdict::PassUnsteered);
    let address = ipv4(PEER_V4, PEER_V4, UDP, &udp(9, PORT, &data));
    steer.expect("another address", &plain_v4(&address), Verdict::PassUnsteered);
    let tcp = ipv4(PEER_V4, LISTENER_V4, TCP, &udp(9, PORT, &data));
    steer.expect("TCP", &plain_v4(&tcp), Verdict::PassUnsteered);
    let v6 = ipv6(NEAR_V6, LISTENER_V6, UDP, &udp(9, PORT + 1, &data));
    steer.expect("another port", &plain_v6(&v6), Verdict::PassUnsteered);
    let options = with_options(&ipv4(PEER_V4, LISTENER_V4, UDP, &udp(9, PORT, &data)));
    steer.expect("outer options", &plain_v4(&options), Verdict::PassUnsteered);
}

#[test]
fn lan_packets_of_steered_destinations_are_redirected() {
    let steer = Steer::load();
    for tags in TAGS {
        steer.expect("TCP", &ethernet(tags, MAC, IPV4, &lan_v4(FAR_V4, 40)), Verdict::RedirectLan);
        steer.expect("TCP", &ethernet(tags, MAC, IPV6, &lan_v6(FAR_V6, 40)), Verdict::RedirectLan);
    }
    for protocol in [1, UDP, 47, 50, 132] {
        let packet = ipv4(NEAR_V4, FAR_V4, protocol, &udp(1, PORT, &message(4, 64)));
        steer.expect("another protocol", &plain_v4(&packet), Verdict::RedirectLan);
    }
    for next_header in [UDP, 50, 58, 59, 132] {
        let packet = ipv6(NEAR_V6, FAR_V6, next_header, &udp(1, PORT, &message(4, 64)));
        steer.expect("another protocol", &plain_v6(&packet), Verdict::RedirectLan);
    }
    steer.expect("no payload", &plain_v4(&lan_v4(FAR_V4, 0)), Verdict::RedirectLan);
    steer.expect("no payload", &plain_v6(&lan_v6(FAR_V6, 0)), Verdict::RedirectLan);
    let padded = [plain_v4(&lan_v4(FAR_V4, 1)), vec![0; 25]].concat();
    steer.expect("Ethernet padding", &padded, Verdict::RedirectLan);
}

#[test]
fn the_longest_prefix_decides() {
    let steer = Steer::load();
    steer.expect("exempt", &plain_v4(&lan_v4(EXEMPT_V4, 40)), Verdict::PassUnsteered);
    steer.expect("exempt", &plain_v6(&lan_v6(EXEMPT_V6, 40)), Verdict::PassUnsteered);
    steer.expect("in no prefix", &plain_v4(&lan_v4(NEAR_V4, 40)), Verdict::PassUnsteered);
    steer.expect("in no prefix", &plain_v6(&lan_v6(NEAR_V6, 40)), Verdict::PassUnsteered);
    let broadcast = lan_v4(Ipv4Addr::BROADCAST, 40);
    steer.expect("broadcast", &plain_v4(&broadcast), Verdict::PassUnsteered);
}

#[test]
fn what_a_tunnel_cannot_take_passes() {
    let steer = Steer::load();
    let v4 = |length: usize| plain_v4(&lan_v4(FAR_V4, length - 20));
    steer.expect("exactly the MTU", &v4(TUNNEL_MTU), Verdict::RedirectLan);
    steer.expect("over the MTU", &v4(TUNNEL_MTU + 1), Verdict::PassTooBig);
    let v6 = |length: usize| plain_v6(&lan_v6(FAR_V6, length - 40));
    steer.expect("exactly the MTU", &v6(TUNNEL_MTU), Verdict::RedirectLan);
    steer.expect("over the MTU", &v6(TUNNEL_MTU + 1), Verdict::PassTooBig);
    for (ttl, verdict) in [(0, Verdict::PassTtl), (1, Verdict::PassTtl), (2, Verdict::RedirectLan)] {
        steer.expect("TTL", &with(v4(60), IP + 8, ttl), verdict);
        steer.expect("hop limit", &with(v6(60), IP + 7, ttl), verdict);
    }
    let options = with_options(&lan_v4(FAR_V4, 40));
    steer.expect("IPv4 options", &plain_v4(&options), Verdict::PassOptions);
    for extension in [0, 43, 51, 60, 135, 139, 140] {
        let packet = ipv6(NEAR_V6, FAR_V6, extension, &[TCP, 0, 0, 0, 0, 0, 0, 0]);
        steer.expect("extension header", &plain_v6(&packet), Verdict::PassOptions);
        let behind = fragment_v6(NEAR_V6, FAR_V6, extension, 1, &[0; 16]);
        steer.expect("extension header in fragment", &plain_v6(&behind), Verdict::PassOptions);
    }
}

#[test]
fn inner_fragments_are_redirected_and_outer_ones_pass() {
    let steer = Steer::load();
    let datagram = udp(9, PORT, &message(4, 64));
    // More fragments; last fragment; both with an offset that has only high or only low bits.
    for field in [0x2000, 0x2001, 0x0001, 0x1fff, 0x1000] {
        let inner = fragment_v4(&ipv4(NEAR_V4, FAR_V4, UDP, &datagram), field);
        steer.expect("inner", &plain_v4(&inner), Verdict::RedirectLan);
        let outer = fragment_v4(&ipv4(PEER_V4, LISTENER_V4, UDP, &datagram), field);
        steer.expect("outer", &plain_v4(&outer), Verdict::PassFragment);
        let within = fragment_v4(&ipv4(PEER_V4, LISTENER_WITHIN, UDP, &datagram), field);
        steer.expect("outer under a steered prefix", &plain_v4(&within), Verdict::PassFragment);
    }
    for field in [0x0001, 0x0008, 0x0009, 0x0000] {
        let inner = fragment_v6(NEAR_V6, FAR_V6, UDP, field, &datagram);
        steer.expect("inner", &plain_v6(&inner), Verdict::RedirectLan);
        let outer = fragment_v6(NEAR_V6, LISTENER_V6, UDP, field, &datagram);
        steer.expect("outer", &plain_v6(&outer), Verdict::PassFragment);
    }
    let dont_fragment = fragment_v4(&ipv4(PEER_V4, LISTENER_V4, UDP, &datagram), 0x4000);
    steer.expect("DF is no fragment", &plain_v4(&dont_fragment), Verdict::RedirectWireGuard);
}

#[test]
fn unknown_tags_and_addresses_pass() {
    let steer = Steer::load();
    let packet = lan_v4(FAR_V4, 40);
    for tags in [&[11][..], &[10, 30], &[30], &[30, 20], &[20]] {
        steer.expect("other tags", &ethernet(tags, MAC, IPV4, &packet), Verdict::PassForeign);
    }
    for position in 0..6 {
        let frame = plain_v4(&packet);
        let other = frame[position] ^ 1;
        steer.expect("other MAC", &with(frame, position, other), Verdict::PassForeign);
    }
    let multicast = ethernet(&[], [0x01, 0, 0x5e, 0, 0, 1], IPV4, &packet);
    steer.expect("multicast", &multicast, Verdict::PassForeign);
    steer.expect("broadcast", &ethernet(&[], [0xff; 6], IPV4, &packet), Verdict::PassForeign);
    let three = ethernet(&[20, 30, 40], MAC, IPV4, &packet);
    steer.expect("three tags", &three, Verdict::PassNotIp);
}

#[test]
fn tags_may_have_priorities_and_be_service_tags() {
    let steer = Steer::load();
    let packet = lan_v4(FAR_V4, 40);
    let priority = ethernet(&[0xf000 | 0x00a], MAC, IPV4, &packet);
    steer.expect("priority bits", &priority, Verdict::RedirectLan);
    let service = ethernet(&[20, 30], MAC, IPV4, &packet);
    let service = with(with(service, 12, 0x88), 13, 0xa8);
    steer.expect("service tag", &service, Verdict::RedirectLan);
    steer.expect("priority tag only", &ethernet(&[0], MAC, IPV4, &packet), Verdict::RedirectLan);
}

#[test]
fn the_links_own_protocols_pass() {
    let steer = Steer::load();
    let slow_protocols = [0x01, 0x80, 0xc2, 0, 0, 2];
    let lldp = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
    for (what, destination, ethertype) in [
        ("LACPDU", slow_protocols, 0x8809),
        ("LLDP", lldp, 0x88cc),
        ("ARP request", [0xff; 6], 0x0806),
        ("ARP reply", MAC, 0x0806),
        ("PPPoE", MAC, 0x8864),
        ("MPLS", MAC, 0x8847),
        ("802.3 length", MAC, 46),
    ] {
        let frame = ethernet(&[], destination, ethertype, &[1; 110]);
        steer.expect(what, &frame, Verdict::PassNotIp);
    }
    let solicitation = ipv6(NEAR_V6, LISTENER_V6, 58, &[135; 32]);
    steer.expect("ND to us", &plain_v6(&solicitation), Verdict::PassUnsteered);
    let to_group = ethernet(&[], [0x33, 0x33, 0xff, 0, 0, 1], IPV6, &solicitation);
    steer.expect("ND to the group", &to_group, Verdict::PassForeign);
}

#[test]
fn frames_cut_short_pass() {
    let steer = Steer::load();
    let fragment = fragment_v6(NEAR_V6, FAR_V6, UDP, 1, &[0; 16]);
    for tags in TAGS {
        for frame in [
            wireguard_v4(tags, &message(4, 48)),
            wireguard_v6(tags, &message(4, 48)),
            ethernet(tags, MAC, IPV4, &lan_v4(FAR_V4, 40)),
            ethernet(tags, MAC, IPV6, &lan_v6(FAR_V6, 40)),
            ethernet(tags, MAC, IPV6, &fragment),
        ] {
            // The kernel's test run refuses frames shorter than an Ethernet header.
            for length in 14..frame.len() {
                steer.expect("cut", &frame[..length], Verdict::PassTruncated);
            }
        }
    }
}

#[test]
fn lying_lengths_pass() {
    let steer = Steer::load();
    let lan_v4 = plain_v4(&lan_v4(FAR_V4, 40));
    for length in [0, 19, 61, 0xffff] {
        let lie = with_u16(lan_v4.clone(), IP + 2, length);
        steer.expect("IPv4 total length", &lie, Verdict::PassTruncated);
    }
    for version_and_words in [0x00, 0x40, 0x44, 0x55, 0x65, 0xf5] {
        let lie = with(lan_v4.clone(), IP, version_and_words);
        steer.expect("IPv4 version or header length", &lie, Verdict::PassTruncated);
    }
    let long = with_u16(with(lan_v4, IP, 0x4f), IP + 2, 59);
    steer.expect("header longer than the packet", &long, Verdict::PassTruncated);
    let lan_v6 = plain_v6(&lan_v6(FAR_V6, 40));
    for length in [41, 0xffff] {
        let lie = with_u16(lan_v6.clone(), IP + 4, length);
        steer.expect("IPv6 payload length", &lie, Verdict::PassTruncated);
    }
    steer.expect("IPv6 version", &with(lan_v6, IP, 0x40), Verdict::PassTruncated);
    let fragment = plain_v6(&fragment_v6(NEAR_V6, FAR_V6, UDP, 1, &[0; 16]));
    let short = with_u16(fragment, IP + 4, 7);
    steer.expect("shorter than its fragment header", &short, Verdict::PassTruncated);
}

#[test]
fn lying_udp_lengths_pass() {
    let steer = Steer::load();
    for (frame, udp) in
        [(wireguard_v4(&[], &message(4, 48)), IP + 20), (wireguard_v6(&[], &message(4, 48)), IP + 40)]
    {
        for length in [0, 7, 57, 0xffff] {
            let lie = with_u16(frame.clone(), udp + 4, length);
            steer.expect("UDP length", &lie, Verdict::PassTruncated);
        }
        let short = with_u16(frame, udp + 4, 39);
        steer.expect("UDP length of a short message", &short, Verdict::PassControl);
    }
    for length in 20..28 {
        let lie = with_u16(wireguard_v4(&[], &message(4, 48)), IP + 2, length);
        steer.expect("IP length within the UDP header", &lie, Verdict::PassTruncated);
    }
}

#[test]
fn without_a_socket_frames_pass() {
    let steer = Steer::without_socket();
    steer.expect("data", &wireguard_v4(&[], &message(4, 64)), Verdict::PassNoSocket);
    steer.expect("LAN", &plain_v6(&lan_v6(FAR_V6, 40)), Verdict::PassNoSocket);
    steer.expect("control", &wireguard_v4(&[], &message(1, 148)), Verdict::PassControl);
}

#[test]
fn random_frames_pass_or_are_redirected_and_are_counted_once() {
    let steer = Steer::load();
    let seeds = [
        wireguard_v4(&[10], &message(4, 48)),
        wireguard_v6(&[], &message(4, 48)),
        plain_v4(&lan_v4(FAR_V4, 40)),
        plain_v6(&fragment_v6(NEAR_V6, FAR_V6, UDP, 1, &[0; 16])),
    ];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) as usize % below
    };
    for _ in 0..20_000 {
        let mut frame = seeds[next(seeds.len())].clone();
        for _ in 0..=next(3) {
            // Behind the MAC addresses, lest nearly all are foreign.
            let position = 12 + next(50);
            frame[position] = next(256) as u8;
        }
        frame.truncate(14 + next(frame.len() - 13));
        let before = steer.counters();
        let action = steer.run(&frame);
        let counted = difference(&before, &steer.counters());
        assert_eq!(counted.len(), 1, "{counted:?} {frame:02x?}");
        assert_eq!(action, action_of(counted[0]), "{counted:?} {frame:02x?}");
    }
}

/// The loaded program with its maps filled.
struct Steer {
    object: Object,
    /// Keeps slot 0 of the socket map occupied.
    _socket: Option<Socket>,
}

impl Steer {
    fn load() -> Self {
        let steer = Self::without_socket();
        // The map takes sockets that are not bound, and the test run does not get as far as delivery.
        let socket = Socket::new(Domain::from(libc::AF_XDP), Type::RAW, None)
            .expect("a kernel with AF_XDP sockets (CONFIG_XDP_SOCKETS)");
        let fd = u32::try_from(socket.as_raw_fd()).unwrap();
        steer.put(map::SOCKETS, &0_u32.to_ne_bytes(), &fd.to_ne_bytes());
        Self { _socket: Some(socket), ..steer }
    }

    fn without_socket() -> Self {
        assert!(geteuid().is_root(), "these tests load BPF programs: run them as root");
        let steer = Self { object: object(), _socket: None };
        for tags in TAGS {
            let mut tags = tags.iter().copied().chain([0, 0]);
            let [outer, inner] = [tags.next().unwrap(), tags.next().unwrap()].map(u16::to_ne_bytes);
            let key = [&outer[..], &inner, &MAC, &[0; 2]].concat();
            let value = [7_u32.to_ne_bytes(), (TUNNEL_MTU as u32).to_ne_bytes()].concat();
            steer.put(map::INTERFACES, &key, &value);
        }
        for address in [LISTENER_V4.to_ipv6_mapped(), LISTENER_WITHIN.to_ipv6_mapped(), LISTENER_V6] {
            let key = [&address.octets()[..], &PORT.to_be_bytes(), &[0; 2]].concat();
            steer.put(map::LISTENERS, &key, &[1]);
        }
        for (length, address, steering) in [(16, FAR_V4, 1), (24, EXEMPT_V4, 0), (32, LISTENER_WITHIN, 0)] {
            steer.put(map::STEERING_V4, &prefix(length, &address.octets()), &u32::to_ne_bytes(steering));
        }
        for (length, address, steering) in [(48, FAR_V6, 1), (64, EXEMPT_V6, 0)] {
            steer.put(map::STEERING_V6, &prefix(length, &address.octets()), &u32::to_ne_bytes(steering));
        }
        steer
    }

    /// Asserts the program's action for the frame and that it counted `verdict` and nothing else.
    #[track_caller]
    fn expect(&self, what: &str, frame: &[u8], verdict: Verdict) {
        let before = self.counters();
        let action = self.run(frame);
        let counted = difference(&before, &self.counters());
        assert_eq!(counted, [verdict], "{what}: {frame:02x?}");
        assert_eq!(action, action_of(verdict), "{what}: {frame:02x?}");
    }

    fn run(&self, frame: &[u8]) -> u32 {
        let program = self.object.progs_mut().find(|program| program.name() == PROGRAM).unwrap();
        let input = ProgramInput { data_in: Some(frame), ..ProgramInput::default() };
        program.test_run(input).unwrap_or_else(|e| panic!("{} bytes: {e}", frame.len())).return_value
    }

    fn counters(&self) -> Vec<u64> {
        let map = self.map(map::VERDICTS);
        let sum = |per_cpu: Vec<Vec<u8>>| {
            per_cpu.iter().map(|value| u64::from_ne_bytes(value[..8].try_into().unwrap())).sum()
        };
        let read = |verdict: &Verdict| {
            let key = (*verdict as u32).to_ne_bytes();
            sum(map.lookup_percpu(&key, MapFlags::ANY).unwrap().unwrap())
        };
        Verdict::ALL.iter().map(read).collect()
    }

    fn put(&self, map: &str, key: &[u8], value: &[u8]) {
        self.map(map).update(key, value, MapFlags::ANY).unwrap_or_else(|e| panic!("{map}: {e}"));
    }

    fn map(&self, name: &str) -> Map<'_> {
        self.object.maps().find(|map| map.name() == name).unwrap_or_else(|| panic!("no map {name}"))
    }
}

fn object() -> Object {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/steer.bpf.o");
    let path = env::var("STEER_OBJECT").unwrap_or_else(|_| committed.into());
    let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let open = ObjectBuilder::default().open_memory(&bytes).expect("libbpf reads the object");
    open.load().expect("the verifier accepts the program")
}

/// The verdicts that were counted in between, each as often as it was.
fn difference(before: &[u64], after: &[u64]) -> Vec<Verdict> {
    let counted = |(i, verdict): (usize, &Verdict)| vec![*verdict; (after[i] - before[i]) as usize];
    Verdict::ALL.iter().enumerate().flat_map(counted).collect()
}

fn action_of(verdict: Verdict) -> u32 {
    if matches!(verdict, Verdict::RedirectWireGuard | Verdict::RedirectLan) { XDP_REDIRECT } else { XDP_PASS }
}

fn prefix(length: u32, address: &[u8]) -> Vec<u8> {
    [&length.to_ne_bytes()[..], address].concat()
}

/// A WireGuard message of a type, `length` bytes in all.
fn message(kind: u8, length: usize) -> Vec<u8> {
    let mut message = vec![0xa5; length];
    let word = [kind, 0, 0, 0];
    let given = length.min(4);
    message[..given].copy_from_slice(&word[..given]);
    message
}

fn wireguard_v4(tags: &[u16], message: &[u8]) -> Vec<u8> {
    ethernet(tags, MAC, IPV4, &ipv4(PEER_V4, LISTENER_V4, UDP, &udp(9, PORT, message)))
}

fn wireguard_v6(tags: &[u16], message: &[u8]) -> Vec<u8> {
    ethernet(tags, MAC, IPV6, &ipv6(NEAR_V6, LISTENER_V6, UDP, &udp(9, PORT, message)))
}

fn plain_v4(packet: &[u8]) -> Vec<u8> {
    ethernet(&[], MAC, IPV4, packet)
}

fn plain_v6(packet: &[u8]) -> Vec<u8> {
    ethernet(&[], MAC, IPV6, packet)
}

/// A TCP packet with that many bytes behind the IP header.
fn lan_v4(destination: Ipv4Addr, length: usize) -> Vec<u8> {
    ipv4(NEAR_V4, destination, TCP, &vec![0x11; length])
}

fn lan_v6(destination: Ipv6Addr, length: usize) -> Vec<u8> {
    ipv6(NEAR_V6, destination, TCP, &vec![0x11; length])
}

/// The packet with flags and offset set to `field`.
fn fragment_v4(packet: &[u8], field: u16) -> Vec<u8> {
    with_u16(packet.to_vec(), 6, field)
}

/// A fragment with offset and flags `field` of a packet whose next header is `next_header`.
fn fragment_v6(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, field: u16, data: &[u8]) -> Vec<u8> {
    let [high, low] = field.to_be_bytes();
    ipv6(source, destination, 44, &[&[next_header, 0, high, low, 0, 0, 0, 1], data].concat())
}

/// The packet with four bytes of options.
fn with_options(packet: &[u8]) -> Vec<u8> {
    let length = packet.len() as u16 + 4;
    let packet = [&packet[..20], &[1, 1, 1, 0], &packet[20..]].concat();
    with_u16(with(packet, 0, 0x46), 2, length)
}

fn with(mut bytes: Vec<u8>, position: usize, value: u8) -> Vec<u8> {
    bytes[position] = value;
    bytes
}

fn with_u16(mut bytes: Vec<u8>, position: usize, value: u16) -> Vec<u8> {
    bytes[position..position + 2].copy_from_slice(&value.to_be_bytes());
    bytes
}

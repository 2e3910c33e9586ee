//! Packets that must not get through: each reason for a drop, and what follows from it.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::packets::{Inner, bytes, checksummed, ethernet};
use super::site::{Plan, Site};
use super::world::World;
use super::{LAN_PORT, MTU};
use crate::drops::Drop;
use crate::id::{PeerId, PortId, TunnelId};
use crate::pipeline::demux::{Message, Span};
use crate::pipeline::inbound;
use crate::pipeline::snapshot::{Encap, Group};
use crate::port::{Frame, Layer, RxFrame};
use crate::wireguard::{Endpoint, REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME};

/// Runs both gateways to rest and expects exactly one drop, at `A` or `B`, and no delivered packet.
#[track_caller]
fn expect(world: &mut World, at_b: bool, reason: Drop) {
    world.settle();
    let (here, there) = if at_b { (&world.b, &world.a) } else { (&world.a, &world.b) };
    assert_eq!(here.all_drops(), [(reason.label(), 1)]);
    assert_eq!(there.all_drops(), []);
    for gateway in [here, there] {
        assert!(gateway.lan.take().is_empty() && gateway.tun.take().is_empty());
    }
}

/// A LAN packet that gateway A must drop.
#[track_caller]
fn refused_from_lan(change: impl FnOnce(&mut Inner), reason: Drop) {
    let mut world = World::new(Plan::default());
    let mut inner = Inner::between(world.a.site, false);
    change(&mut inner);
    world.a.lan_sends(&inner.packet());
    expect(&mut world, false, reason);
}

/// A packet from A's TUN that A must drop.
#[track_caller]
fn refused_from_tun(change: impl FnOnce(&mut Inner), reason: Drop) {
    let mut world = World::new(Plan::default());
    let mut inner = Inner::between(world.a.site, false);
    change(&mut inner);
    world.a.tun.push(Layer::Ip, inner.packet());
    expect(&mut world, false, reason);
}

/// A plaintext, sealed by A, that B must drop.
#[track_caller]
fn refused_plaintext(plaintext: &[u8], ecn: u8, reason: Drop) {
    let mut world = World::new(Plan::default());
    world.b.wire_brings(0, &world.a.seal(0, 0, plaintext, ecn));
    expect(&mut world, true, reason);
}

/// An inner packet, sealed by A, that B must drop.
#[track_caller]
fn refused_inner(change: impl FnOnce(&mut Inner), reason: Drop) {
    let mut inner = Inner::between(Site { number: 1, plan: Plan::default() }, false);
    change(&mut inner);
    refused_plaintext(&inner.packet(), 0, reason);
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn sources_that_the_interface_may_not_send() {
    for from in ["10.2.0.9", "10.1.0.1", "8.8.8.8", "10.1.50.3", "192.0.0.1"] {
        refused_from_lan(|inner| inner.from = address(from), Drop::SourceSpoofed);
    }
    refused_from_tun(|inner| inner.from = address("10.2.0.9"), Drop::SourceSpoofed);
}

#[test]
fn martians() {
    for from in ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"] {
        refused_from_lan(|inner| inner.from = address(from), Drop::Martian);
        refused_from_tun(|inner| inner.from = address(from), Drop::Martian);
    }
    refused_inner(|inner| inner.from = address("127.0.0.1"), Drop::Martian);
    refused_inner(|inner| inner.to = address("127.0.0.1"), Drop::Martian);
}

#[test]
fn destinations_of_no_tunnel() {
    refused_from_lan(|inner| inner.to = address("192.0.0.9"), Drop::NotSteered);
    refused_from_lan(|inner| inner.to = address("10.1.0.7"), Drop::NotSteered);
    for to in ["10.1.99.1", "8.8.8.8"] {
        refused_from_lan(|inner| inner.to = address(to), Drop::Unroutable);
        refused_from_tun(|inner| inner.to = address(to), Drop::Unroutable);
    }
    refused_inner(|inner| inner.to = address("10.2.99.1"), Drop::Unroutable);
    refused_inner(|inner| inner.to = address("8.8.8.8"), Drop::Unroutable);
    refused_inner(|inner| inner.to = address("10.1.0.9"), Drop::Transit);
}

/// With transit allowed the kernel forwards what is for another tunnel, and may send it back.
#[test]
fn transit_goes_by_the_kernel() {
    let mut world = World::new(Plan::default());
    world.b.publish(|snapshot| snapshot.transit = true);
    let mut inner = Inner::between(world.a.site, false);
    inner.to = address("10.1.0.9");
    world.b.wire_brings(0, &world.a.seal(0, 0, &inner.packet(), 0));
    world.b.turn(world.now);
    assert_eq!(bytes(world.b.tun.take()), [inner.packet()]);
    world.b.tun.push(Layer::Ip, inner.packet());
    world.b.turn(world.now);
    assert_eq!(world.b.take_sealed().len(), 1);
}

#[test]
fn sizes_and_ttl() {
    refused_from_lan(|inner| inner.payload = vec![0; 1393], Drop::TooBig);
    refused_from_tun(|inner| inner.payload = vec![0; 1393], Drop::TooBig);
    refused_from_lan(|inner| inner.ttl = 1, Drop::TtlExpired);
    refused_from_lan(|inner| inner.ttl = 0, Drop::TtlExpired);
}

#[test]
fn options_are_not_for_the_fast_path() {
    let mut world = World::new(Plan::default());
    let mut packet = Inner::between(world.a.site, true).packet();
    packet[6] = 0;
    world.a.lan_sends(&packet);
    expect(&mut world, false, Drop::NotSteered);
}

#[test]
fn foreign_frames() {
    let packet = Inner::between(Site { number: 1, plan: Plan::default() }, false).packet();
    let mac = Site { number: 1, plan: Plan::default() }.gateway_mac(0);
    for (mac, vlans) in [([2; 6], &[][..]), (mac, &[7])] {
        let mut world = World::new(Plan::default());
        world.a.lan.push(Layer::Ethernet(LAN_PORT), ethernet(mac, [2; 6], vlans, &packet));
        expect(&mut world, false, Drop::Foreign);
    }
}

/// A frame that ends anywhere before its IP packet does, and lengths that disagree.
#[test]
fn truncated_frames() {
    for ipv6 in [false, true] {
        let mut world = World::new(Plan { lan_vlans: &[5, 6], ..Plan::default() });
        let packet = Inner::between(world.a.site, ipv6).packet();
        let frame = ethernet(world.a.site.gateway_mac(0), [2; 6], &[5, 6], &packet);
        let whole = 22 + packet.len();
        for len in 0..whole {
            world.a.lan.push(Layer::Ethernet(LAN_PORT), &frame[..len]);
            world.a.tun.push(Layer::Ip, &packet[..len.min(packet.len() - 1)]);
        }
        assert_eq!(world.settle(), 0);
        assert_eq!(world.a.all_drops(), [("malformed", 2 * whole as u64)]);
    }
    let good = Inner::between(Site { number: 1, plan: Plan::default() }, false).packet();
    for (at, value) in [(0, 0x44), (0, 0x55), (0, 0x4f), (2, 0xff), (3, 19), (10, good[10] ^ 1)] {
        let mut packet = good.clone();
        packet[at] = value;
        if at != 10 {
            checksummed(&mut packet[..20]);
        }
        refused_plaintext(&packet, 0, Drop::Malformed);
    }
}

/// Section 2, cryptokey routing: a source must be in the peer's own allowed-IPs. A bug that peers had: with
/// nested allowed-IPs (10.1.77.0/24 is another peer's) a peer could take a more specific peer's addresses.
#[test]
fn inner_sources_of_other_peers() {
    for from in ["10.3.0.1", "10.1.77.5", "10.2.0.2"] {
        refused_inner(|inner| inner.from = address(from), Drop::SourceNotAllowed);
    }
}

#[test]
fn congestion_marked_on_a_packet_that_may_not_be() {
    let inner = Inner::between(Site { number: 1, plan: Plan::default() }, false);
    refused_plaintext(&inner.packet(), 3, Drop::EcnIllegal);
}

/// Every bit of a message's counter, ciphertext and tag matters; a wrong index is told apart.
#[test]
fn tampered_messages() {
    let mut world = World::new(Plan::default());
    let frame = world.a.seal(0, 0, &Inner::between(world.a.site, false).packet(), 0);
    let message = 14 + 20 + 8;
    for byte in message + 4..frame.len() {
        for bit in 0..8 {
            let mut bad = frame.clone();
            bad[byte] ^= 1 << bit;
            world.b.wire_brings(0, &bad);
        }
    }
    world.settle();
    let bits = 8 * (frame.len() - message - 8) as u64;
    // Two flips of the index name other sessions of the gateway: 0 -> 1 and 0 -> 2. Their port differs.
    assert_eq!(world.b.drops(Drop::UnknownIndex), 32);
    let (failed, expired) = (world.b.drops(Drop::AuthFailed), world.b.drops(Drop::SessionExpired));
    assert_eq!((failed + expired, expired), (bits, 0));
    assert!(world.b.lan.take().is_empty());
    // None of it has hurt the session.
    world.b.wire_brings(0, &frame);
    world.b.turn(world.now);
    assert_eq!(world.b.lan.take().len(), 1);
}

/// Section 5.4.6: each counter once, within a batch and over batches.
#[test]
fn replayed_messages() {
    let mut world = World::new(Plan::default());
    let frame = world.a.seal(0, 0, &Inner::between(world.a.site, false).packet(), 0);
    // Twice in one batch, and once more in another.
    world.b.wire_brings(0, &frame);
    world.b.wire_brings(0, &frame);
    world.settle();
    world.b.wire_brings(0, &frame);
    world.settle();
    assert_eq!(world.b.all_drops(), [("replayed", 2)]);
    assert_eq!(world.b.lan.take().len(), 1);
}

/// A message of one tunnel that came to another tunnel's port.
#[test]
fn messages_to_another_tunnels_port() {
    let mut world = World::new(Plan::default());
    let mut frame = world.a.seal(0, 0, &Inner::between(world.a.site, false).packet(), 0);
    frame[36..38].copy_from_slice(&world.b.site.endpoint(1).port().to_be_bytes());
    world.b.wire_brings(0, &frame);
    expect(&mut world, true, Drop::UnknownIndex);
    let source = world.a.site.endpoint(0);
    world.b.udp.push(Layer::Datagram { tunnel: TunnelId(1), source, ds: 0 }, &frame[42..]);
    world.settle();
    assert_eq!(world.b.drops(Drop::UnknownIndex), 2);
}

/// Section 6.1, Reject-After-Time and Reject-After-Messages, checked by the lane itself.
#[test]
fn expired_sessions_neither_send_nor_receive() {
    let mut world = World::new(Plan::default());
    let frame = world.a.seal(0, 0, &Inner::between(world.a.site, false).packet(), 0);
    world.now = world.now + REJECT_AFTER_TIME;
    world.b.wire_brings(0, &frame);
    expect(&mut world, true, Drop::SessionExpired);
    let mut world = World::new(Plan::default());
    world.now = world.now + REJECT_AFTER_TIME;
    world.a.lan_sends(&Inner::between(world.a.site, false).packet());
    assert_eq!(world.settle(), 0);
    // It waits for the session that it asked for.
    assert_eq!((world.a.all_drops(), world.a.control.sessions.lock().unwrap().len()), (vec![], 1));
    let mut world = World::new(Plan::default());
    world.b.wire_brings(0, &world.a.seal(0, REJECT_AFTER_MESSAGES, &[], 0));
    expect(&mut world, true, Drop::SessionExpired);
}

/// Ports that are down or full lose packets, counted, and no frames.
#[test]
fn ports_without_room() {
    let mut world = World::new(Plan { tx: 4, ..Plan::default() });
    for n in 0..300 {
        let mut inner = Inner::between(world.a.site, false);
        inner.ports.0 = n;
        world.a.lan_sends(&inner.packet());
    }
    let crossed = world.settle() as u64;
    assert_eq!(world.a.all_drops(), [("tx_full", 300 - crossed)]);
    assert!(crossed >= 12);

    let mut world = World::new(Plan { tun_tx: 4, ..Plan::default() });
    let mut inner = Inner::between(world.a.site, false);
    inner.to = world.b.site.address(false, 1);
    (0..10).for_each(|counter| world.b.wire_brings(0, &world.a.seal(0, counter, &inner.packet(), 0)));
    world.b.turn(world.now);
    assert_eq!((world.b.drops(Drop::KernelQueueFull), world.b.tun.take().len()), (6, 4));
    world.b.assert_no_leak();

    let mut world = World::new(Plan::default());
    world.a.set_path(0, |path| path.encap = None);
    world.a.publish(|snapshot| snapshot.groups = Arc::new([Group { buckets: [PeerId(1)].into(), mtu: MTU }]));
    world.a.set_path(1, |path| {
        if let Some(Encap::Frame { port, .. }) = &mut path.encap {
            *port = PortId(77);
        }
    });
    world.a.lan_sends(&Inner::between(world.a.site, false).packet());
    expect(&mut world, false, Drop::PortDown);

    let mut world = World::new(Plan::default());
    world.b.set_lan_ports(&[]);
    world.a.lan_sends(&Inner::between(world.a.site, false).packet());
    expect(&mut world, true, Drop::PortDown);
}

#[test]
fn a_full_control_queue() {
    let mut world = World::new(Plan::default());
    world.b.control.full.store(true, Ordering::Relaxed);
    let layer = Layer::Datagram { tunnel: TunnelId(0), source: world.a.site.endpoint(0), ds: 0 };
    world.b.udp.push(layer, [&[2, 0, 0, 0][..], &[0; 88]].concat());
    expect(&mut world, true, Drop::ControlQueueFull);
}

/// A plaintext that failed a check does not stay in its frame: replayed, or from a wrong source.
#[test]
fn refused_plaintexts_are_wiped() {
    let holds = |world: &World, secret: &[u8]| {
        world.b.cancelled.lock().unwrap().windows(secret.len()).any(|window| window == secret)
    };
    let mut world = World::new(Plan::default());
    let mut inner = Inner::between(world.a.site, false);
    inner.payload = b"a secret".to_vec();
    let frame = world.a.seal(0, 0, &inner.packet(), 0);
    world.b.wire_brings(0, &frame);
    world.b.turn(world.now);
    // The first packet was opened in a frame of the TUN and copied from there: the test can see it.
    assert!(holds(&world, b"a secret"));
    inner.from = address("10.3.0.1");
    for (frame, reason) in
        [(frame, Drop::Replayed), (world.a.seal(0, 1, &inner.packet(), 0), Drop::SourceNotAllowed)]
    {
        world.b.wire_brings(0, &frame);
        world.b.turn(world.now);
        assert_eq!(world.b.drops(reason), 1);
        assert!(!holds(&world, b"a secret"), "{reason:?}");
    }
}

/// Section 2.1. The payload is authentic whatever the outer checksum says, but the sender's address is not:
/// the kernel's checks are skipped by XDP.
#[test]
fn roaming_needs_right_checksums() {
    for (ipv6, checksum, right) in
        [(false, 40, true), (false, 40, false), (true, 60, true), (true, 60, false)]
    {
        let mut world = World::new(Plan { ipv6, ..Plan::default() });
        let mut bytes = world.a.seal(0, 0, &[], 0);
        bytes[checksum] ^= u8::from(!right);
        world.b.wire_brings(0, &bytes);
        world.b.turn(world.now);
        let session = world.b.snapshot.paths[0].session.as_ref().unwrap();
        assert!(session.confirmed());

        let span = Span { frame: 0, start: checksum as u16 + 2, len: (bytes.len() - checksum) as u32 - 2 };
        let len = bytes.len();
        let mut frame = Frame::new(bytes.leak(), 0);
        frame.set_range(0, len);
        let frames = [RxFrame { frame, layer: Layer::Ethernet(PortId(1)), origin: 1 }];
        // Its source is known by now if it was believed: a session that knows none tells.
        let remote = world.a.site.endpoint(0);
        let session = &world.b.site.session(0, world.now);
        let message = Message { session, counter: 0, span, ds: 0, outer: Some(14) };
        assert_eq!(inbound::moved(&message, &frames), right.then_some(Endpoint { remote }));
    }
}

//! Packets that must arrive, and how.

use std::sync::Arc;

use super::packets::{Inner, bytes, checksummed, ethernet};
use super::site::{Plan, Site};
use super::world::{Gateway, World};
use super::{LAN_PORT, PATHS};
use crate::drops::Drop;
use crate::id::{PeerId, PortId, TunnelId};
use crate::pipeline::control::Injected;
use crate::pipeline::snapshot::Tunnel;
use crate::port::{Destination, Layer};
use crate::wireguard::message::CookieReply;

fn received(gateway: &Gateway) -> Vec<Vec<u8>> {
    bytes(gateway.lan.take())
}

/// What LAN host `site` gets to see of a packet.
fn on_lan(site: Site, packet: &[u8]) -> Vec<u8> {
    let mut frame = ethernet(site.host_mac(), site.gateway_mac(0), site.plan.lan_vlans, packet);
    frame.truncate(14 + 4 * site.plan.lan_vlans.len() + packet.len());
    frame
}

/// Every combination of families and VLAN tags, both ways, byte by byte; the TTL drops by two.
#[test]
fn packets_arrive_unchanged_but_for_ttl() {
    for (ipv6, inner_ipv6) in [(false, false), (false, true), (true, false), (true, true)] {
        for (lan_vlans, wire_vlans) in [(&[][..], &[][..]), (&[10], &[20]), (&[10, 11], &[20, 21])] {
            let mut world = World::new(Plan { ipv6, lan_vlans, wire_vlans, ..Plan::default() });
            for len in [0u16, 1, 15, 16, 17, 1000, 1372] {
                let mut there = Inner::between(world.a.site, inner_ipv6);
                there.payload = (0..len).map(|i| i as u8).collect();
                let mut back = Inner::between(world.b.site, inner_ipv6);
                back.payload = there.payload.clone();
                world.a.lan_sends(&there.packet());
                world.b.lan_sends(&back.packet());
                world.settle();
                assert_eq!(received(&world.b), [on_lan(world.b.site, &there.forwarded(2))]);
                assert_eq!(received(&world.a), [on_lan(world.a.site, &back.forwarded(2))]);
            }
            assert_eq!((world.a.all_drops(), world.b.all_drops()), (vec![], vec![]));
        }
    }
}

/// Section 5.4.6 (a bug that peers had: no padding): to 16 bytes, but not beyond the MTU, as the kernel clamps it.
/// The message adds 32 bytes to that.
#[test]
fn padding_stops_at_the_mtu() {
    let mut world = World::new(Plan::default());
    for (ip_len, padded) in [(29, 32), (32, 32), (1408, 1408), (1409, 1420), (1420, 1420)] {
        let mut inner = Inner::between(world.a.site, false);
        inner.payload = vec![1; ip_len - 28];
        world.a.lan_sends(&inner.packet());
        world.a.turn(world.now);
        let [(_, frame)] = &world.a.take_sealed()[..] else { panic!("one frame") };
        assert_eq!(frame.len(), 14 + 20 + 8 + 16 + padded + 16, "for {ip_len} bytes");
    }
}

#[test]
fn flows_spread_evenly_and_stay_on_their_path() {
    let mut world = World::new(Plan::default());
    let mut shares = [0; PATHS];
    for round in 0..2 {
        for flow in 0..1024_u16 {
            let mut inner = Inner::between(world.a.site, false);
            inner.ports = (10_000 + flow, 5001);
            world.a.lan_sends(&inner.packet());
            if flow % 64 == 63 {
                world.a.turn(world.now);
            }
        }
        let sent = world.a.take_sealed();
        assert_eq!(sent.len(), 1024);
        let mut now = [0; PATHS];
        for (i, _) in &sent {
            now[*i] += 1;
        }
        assert!(round == 0 || now == shares);
        shares = now;
    }
    let (min, max) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
    assert!(f64::from(*min) >= 0.8 * f64::from(*max), "{shares:?}");
}

/// The first fragment has ports and the others have none; all take one path.
#[test]
fn fragments_of_a_packet_take_one_path() {
    for ipv6 in [false, true] {
        let mut world = World::new(Plan::default());
        for port in 0..32 {
            let mut inner = Inner::between(world.a.site, ipv6);
            inner.ports = (port * 977, 5001);
            let mut packet = inner.packet();
            if ipv6 {
                packet[6] = 44;
            } else {
                packet[6..8].copy_from_slice(&if port == 0 { [0x20, 0] } else { [0, port as u8] });
                checksummed(&mut packet[..20]);
            }
            world.a.lan_sends(&packet);
        }
        world.a.turn(world.now);
        let sent = world.a.take_sealed();
        assert_eq!(sent.len(), 32);
        assert!(sent.iter().all(|(i, _)| *i == sent[0].0));
    }
}

#[test]
fn a_flow_stays_in_order() {
    let mut world = World::new(Plan::default());
    let flows = 7;
    for n in 0..500_u32 {
        let flow = n % flows;
        let mut inner = Inner::between(world.a.site, flow % 2 == 0);
        inner.ports.0 = flow as u16;
        inner.payload = n.to_be_bytes().to_vec();
        world.a.lan_sends(&inner.packet());
    }
    world.settle();
    let numbers: Vec<u32> = received(&world.b)
        .iter()
        .map(|frame| u32::from_be_bytes(frame[frame.len() - 4..].try_into().unwrap()))
        .collect();
    assert_eq!(numbers.len(), 500);
    for flow in 0..flows {
        let of_flow: Vec<_> = numbers.iter().filter(|n| *n % flows == flow).collect();
        assert!(of_flow.is_sorted());
    }
}

/// The gateway's own traffic: from the TUN, without a decrement; to a local address, to the TUN.
#[test]
fn the_kernel_sends_and_receives() {
    let mut world = World::new(Plan::default());
    let mut inner = Inner::between(world.a.site, false);
    inner.from = world.a.site.address(false, 1);
    inner.to = world.b.site.address(false, 1);
    world.a.tun.push(Layer::Ip, inner.packet());
    world.settle();
    assert_eq!(bytes(world.b.tun.take()), [inner.packet()]);
    assert!(world.b.lan.take().is_empty());
}

/// The gateway's own packets, ICMP errors among them, have the address of one tunnel, and the far side may
/// take it from that tunnel only.
#[test]
fn own_packets_go_by_the_tunnel_of_their_address() {
    let mut world = World::new(Plan::default());
    for tunnel in 0..PATHS {
        for port in 0..32 {
            let mut inner = Inner::between(world.a.site, false);
            inner.from = world.a.site.address(false, 100 + tunnel as u8);
            inner.ports.0 = port;
            world.a.tun.push(Layer::Ip, inner.packet());
        }
        world.a.turn(world.now);
        let wires: Vec<_> = world.a.take_sealed().into_iter().map(|(wire, _)| wire).collect();
        assert_eq!(wires, [tunnel; 32]);
    }
}

/// What the kernel must answer or do goes to it, unchanged: TTL 1, options, an egress without port.
#[test]
fn what_only_the_kernel_can_do_goes_to_it() {
    let mut world = World::new(Plan::default());
    let from_a = Inner::between(world.a.site, false);
    let mut last_hop = from_a.clone();
    last_hop.ttl = 1;
    let mut optional = from_a.packet();
    optional[0] = 0x46;
    optional.splice(20..20, [1, 1, 1, 0]);
    let len = (optional.len() as u16).to_be_bytes();
    optional[2..4].copy_from_slice(&len);
    checksummed(&mut optional[..24]);
    let mut elsewhere = from_a.clone();
    elsewhere.to = "10.2.50.7".parse().unwrap();
    let packets = [last_hop.packet(), optional, elsewhere.packet()];
    for packet in &packets {
        world.a.tun.push(Layer::Ip, packet.clone());
    }
    world.settle();
    let mut got = bytes(world.b.tun.take());
    let mut expected = packets.to_vec();
    got.sort();
    expected.sort();
    assert_eq!(got, expected);
}

#[test]
fn routers_behind_the_lan_are_used() {
    let mut world = World::new(Plan::default());
    let mut inner = Inner::between(world.a.site, false);
    inner.to = "172.16.5.5".parse().unwrap();
    let frame = world.a.seal(0, 0, &inner.packet(), 0);
    world.b.wire_brings(0, &frame);
    world.b.turn(world.now);
    assert_eq!(received(&world.b), [on_lan(world.b.site, &inner.forwarded(1))]);
}

/// RFC 6040, outside to inside; the last column of each row is what the receiver gets.
#[test]
fn ecn_crosses_the_tunnel() {
    for ipv6 in [false, true] {
        let mut world = World::new(Plan::default());
        let table = [(0, 0, 0), (0, 2, 0), (2, 0, 2), (2, 1, 1), (2, 3, 3), (1, 3, 3), (1, 2, 1), (3, 0, 3)];
        for (counter, (inner_ecn, outer_ecn, expected)) in (0..).zip(table) {
            let mut inner = Inner::between(world.a.site, ipv6);
            inner.ecn = inner_ecn;
            let frame = world.a.seal(1, counter, &inner.packet(), outer_ecn);
            world.b.wire_brings(1, &frame);
            world.b.turn(world.now);
            inner.ecn = expected;
            assert_eq!(received(&world.b), [on_lan(world.b.site, &inner.forwarded(1))]);
        }
        let mut inner = Inner::between(world.a.site, ipv6);
        for ecn in 0..4 {
            inner.ecn = ecn;
            world.a.lan_sends(&inner.packet());
            world.a.turn(world.now);
            let (_, frame) = world.a.take_sealed().remove(0);
            assert_eq!(frame[15], ecn, "DSCP is not copied, ECN is");
        }
    }
}

/// RFC 2983, uniform model, when forwarder.toml asks for it: the outer DSCP is the inner one, and a router's
/// change to it reaches the receiver.
#[test]
fn dscp_is_copied_where_it_shall_be() {
    for ipv6 in [false, true] {
        let mut world = World::new(Plan { copy_dscp: true, ..Plan::default() });
        let inner = Inner::between(world.a.site, ipv6);
        let packet = inner.packet();
        world.a.lan_sends(&packet);
        world.a.turn(world.now);
        let [(wire, frame)] = &world.a.take_sealed()[..] else { panic!("one frame") };
        assert_eq!(frame[15], 0xa0);
        let mut remarked = frame.clone();
        remarked[15] = 0x28;
        checksummed(&mut remarked[14..34]);
        world.b.wire_brings(*wire, &remarked);
        world.b.turn(world.now);
        let received = received(&world.b);
        let [packet] = &received[..] else { panic!("one packet") };
        let ds = if ipv6 { packet[14] << 4 | packet[15] >> 4 } else { packet[15] };
        assert_eq!(ds, 0x28);
    }
}

/// Over UDP sockets the same packets come and go as datagrams.
#[test]
fn datagrams_carry_the_same_messages() {
    let mut world = World::new(Plan { datagrams: true, ..Plan::default() });
    let mut inner = Inner::between(world.a.site, false);
    inner.ecn = 2;
    world.a.lan_sends(&inner.packet());
    world.a.turn(world.now);
    let [sent] = &world.a.udp.take()[..] else { panic!("one datagram") };
    let Destination::Datagram { tunnel, to, tos } = sent.destination else { panic!("{sent:?}") };
    assert_eq!((to, tos), (world.b.site.endpoint(tunnel.index()), 2));
    let layer = Layer::Datagram { tunnel, source: world.a.site.endpoint(tunnel.index()), ds: 3 };
    world.b.udp.push(layer, sent.bytes.clone());
    world.b.turn(world.now);
    inner.ecn = 3;
    assert_eq!(received(&world.b), [on_lan(world.b.site, &inner.forwarded(2))]);
}

#[test]
fn handshakes_leave_by_the_path_and_reach_the_control_thread() {
    let mut world = World::new(Plan { ipv6: true, ..Plan::default() });
    let mut message = [0; 148];
    message[0] = 1;
    let injected = Injected::Message { peer: PeerId(2), payload: message.into_iter().collect() };
    world.a.lane.inject(&world.a.snapshot, world.now, &injected);
    world.a.turn(world.now);
    let [(2, frame)] = &world.a.take_sealed()[..] else { panic!("one frame on wire 2") };
    assert_eq!((frame[14] << 4 | frame[15] >> 4, frame.len()), (0x88, 14 + 40 + 8 + 148));

    let source = world.a.site.endpoint(2);
    world.b.udp.push(Layer::Datagram { tunnel: TunnelId(2), source, ds: 0 }, message);
    world.settle();
    let handshakes = world.b.control.handshakes.lock().unwrap();
    assert_eq!(*handshakes, [(TunnelId(2), source, message.to_vec())]);
}

/// From the socket that the message came to, without a mark; without a free frame it is counted.
#[test]
fn cookie_replies_go_back_to_the_source() {
    let mut world = World::new(Plan { tx: 1, ..Plan::default() });
    let reply = CookieReply { receiver: 7, nonce: [1; 24], sealed_cookie: [2; 32] };
    *world.a.control.cookies.lock().unwrap() = Some(reply);
    let mut message = [0; 148];
    message[0] = 1;
    let (tunnel, source) = (TunnelId(2), world.b.site.endpoint(2));
    for _ in 0..2 {
        world.a.udp.push(Layer::Datagram { tunnel, source, ds: 0x88 }, message);
    }
    world.a.turn(world.now);
    let [sent] = &world.a.udp.take()[..] else { panic!("one datagram") };
    let to = Destination::Datagram { tunnel, to: source, tos: 0 };
    assert_eq!((sent.destination, &sent.bytes[..]), (to, &reply.to_bytes()[..]));
    assert_eq!((world.a.drops(Drop::CookieRequired), world.a.drops(Drop::TxFull)), (2, 1));
}

/// An empty message is noted as received, and nothing goes further.
#[test]
fn keepalives_end_at_the_peer() {
    let mut world = World::new(Plan::default());
    world.a.lane.inject(&world.a.snapshot, world.now, &Injected::Keepalive(PeerId(0)));
    assert_eq!(world.settle(), 1);
    assert!(world.b.snapshot.paths[0].session.as_ref().unwrap().confirmed());
    assert!(world.b.lan.take().is_empty() && world.b.tun.take().is_empty());
    assert_eq!(world.b.all_drops(), []);
}

/// LAN and wire on one port: hosts' own WireGuard traffic through the tunnel to the port number that
/// we listen on is carried like any other.
#[test]
fn inner_wireguard_is_carried() {
    let mut world = World::new(Plan::default());
    let mut inner = Inner::between(world.a.site, false);
    inner.ports.1 = world.a.site.endpoint(0).port();
    inner.payload = [&[4, 0, 0, 0, 9, 9, 9, 9][..], &[0; 40]].concat();
    world.a.lan_sends(&inner.packet());
    world.settle();
    assert_eq!(received(&world.b), [on_lan(world.b.site, &inner.forwarded(2))]);
}

/// Ids have holes when a tunnel is gone; those that are left share the slaves of the LAN all the same.
#[test]
fn tunnels_deliver_by_different_slaves_whatever_their_ids() {
    let mut world = World::new(Plan::default());
    world.b.set_lan_ports(&[LAN_PORT, PortId(2)]);
    world.b.publish(|snapshot| {
        let tunnels = Arc::get_mut(&mut snapshot.tunnels).unwrap();
        tunnels[1] = Tunnel::default();
        tunnels[2].position = 1;
    });
    let inner = Inner::between(world.a.site, false);
    for i in [0, 2] {
        world.b.wire_brings(i, &world.a.seal(i, 0, &inner.packet(), 0));
    }
    world.b.turn(world.now);
    let delivered = [received(&world.b), bytes(world.b.wires[1].take())];
    assert_eq!(delivered, [(); 2].map(|()| vec![on_lan(world.b.site, &inner.forwarded(1))]));
}

/// The detector of [`Gateway::take_sealed`] can fail: a plain packet on a wire is caught.
#[test]
#[should_panic(expected = "in clear on wire 1")]
fn control_case_a_clear_frame_is_caught() {
    let mut world = World::new(Plan::default());
    // A route that sends an opened packet out by a wire.
    world.b.set_lan_ports(&[PortId(2)]);
    world.a.lan_sends(&Inner::between(world.a.site, false).packet());
    world.settle();
}

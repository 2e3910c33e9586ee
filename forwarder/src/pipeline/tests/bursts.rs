//! A burst for many: each packet goes its own way, whatever way the one before it went.

use std::net::IpAddr;
use std::sync::Arc;

use super::LAN;
use super::packets::{Inner, bytes};
use super::site::Plan;
use super::world::World;
use crate::id::{PeerId, TunnelId};
use crate::wireguard::{Role, Session, SessionId, SessionKeys};

const HOST_MACS: [[u8; 6]; 2] = [[2, 0, 0, 9, 0, 1], [2, 0, 0, 9, 0, 2]];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 9, 0, 3];
/// Two hosts, one that is behind a router, the gateway, one that is unreachable, one without a MAC address.
const DESTINATIONS: [&str; 6] = ["10.2.0.2", "10.2.0.3", "172.16.5.5", "10.2.0.1", "10.2.99.1", "10.2.0.4"];

/// Every destination after every other one, and after itself.
#[test]
fn each_packet_goes_its_own_way() {
    let mut world = World::new(Plan::default());
    let [first, second, _, _, _, unknown] = DESTINATIONS.map(|to| to.parse::<IpAddr>().unwrap());
    world.b.publish(|snapshot| {
        let hosts = [first, second].into_iter().zip(HOST_MACS).map(|(host, mac)| (LAN, host, mac));
        snapshot.neighbours = Arc::new(hosts.collect());
        let mut hops = snapshot.hops.to_vec();
        hops.iter_mut()
            .filter_map(|hop| hop.router.as_mut())
            .for_each(|router| router.mac = Some(ROUTER_MAC));
        snapshot.hops = hops.into();
    });
    let pairs = (0..6).flat_map(|a| (0..6).flat_map(move |b| [a, b]));
    let (mut on_lan, mut to_kernel) = (Vec::new(), Vec::new());
    for (counter, to) in pairs.enumerate() {
        let mut inner = Inner::between(world.a.site, false);
        inner.to = DESTINATIONS[to].parse().unwrap();
        inner.ports.0 = counter as u16;
        let frame = world.a.seal(0, counter as u64, &inner.packet(), 0);
        world.b.wire_brings(0, &frame);
        let mac = [HOST_MACS[0], HOST_MACS[1], ROUTER_MAC].get(to).copied();
        if let Some(mac) = mac {
            on_lan.push((mac, inner.ports.0));
        } else if to == 3 {
            to_kernel.push(inner.packet());
        }
    }
    while world.b.turn(world.now) > 0 {}
    let mac_and_port = |frame: &Vec<u8>| (*frame.first_chunk().unwrap(), source_port(&frame[14..]));
    assert_eq!(bytes(world.b.lan.take()).iter().map(mac_and_port).collect::<Vec<_>>(), on_lan);
    assert_eq!(bytes(world.b.tun.take()), to_kernel);
    assert_eq!(world.b.all_drops(), [("unroutable", 12)]);
    let wanted = world.b.control.neighbours.lock().unwrap();
    assert_eq!(*wanted, [(LAN, unknown); 12]);
}

/// The messages of a tunnel's last session and of the one before it, mixed, as after a rekey.
#[test]
fn each_message_is_opened_by_its_own_session() {
    let mut world = World::new(Plan::default());
    let session = |indices: [u32; 2], keys: [[u8; 32]; 2]| {
        let [local_index, remote_index] = indices;
        let id = SessionId { tunnel: TunnelId(0), peer: PeerId(0), local_index, remote_index };
        Arc::new(Session::new(
            id,
            SessionKeys::new(&keys[0], &keys[1]),
            Role::Initiator,
            world.now,
            Arc::default(),
        ))
    };
    let (ours, theirs) = (session([77, 88], [[7; 32], [8; 32]]), session([88, 77], [[8; 32], [7; 32]]));
    let previous = world.a.snapshot.paths[0].session.clone();
    world.b.publish(|snapshot| {
        let mut sessions = (*snapshot.sessions).clone();
        sessions.insert(theirs.local_index, theirs);
        snapshot.sessions = Arc::new(sessions);
    });
    let mut expected = Vec::new();
    // Twice one, twice the other.
    for n in 0..32_u16 {
        let sender = if n % 4 < 2 { previous.clone() } else { Some(Arc::clone(&ours)) };
        world.a.set_path(0, |path| path.session = sender);
        let mut inner = Inner::between(world.a.site, false);
        inner.ports.0 = n;
        let frame = world.a.seal(0, n.into(), &inner.packet(), 0);
        world.b.wire_brings(0, &frame);
        expected.push(inner.ports.0);
    }
    world.b.turn(world.now);
    let received: Vec<_> = bytes(world.b.lan.take()).iter().map(|frame| source_port(&frame[14..])).collect();
    assert_eq!(received, expected);
    assert_eq!(world.b.all_drops(), []);
}

/// Of a UDP packet over IPv4.
fn source_port(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[20], packet[21]])
}

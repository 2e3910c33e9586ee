//! Packets that wait for a session or a neighbour.

use std::time::Duration;

use super::packets::{Inner, bytes};
use super::site::{Plan, Site};
use super::world::{Gateway, World};
use super::{LAN, START};
use crate::pipeline::WAITING;
use crate::wireguard::REKEY_ATTEMPT_TIME;

fn numbered(site: Site, n: u32) -> Inner {
    let mut inner = Inner::between(site, false);
    inner.payload = n.to_be_bytes().to_vec();
    inner
}

fn numbers(frames: &[Vec<u8>]) -> Vec<u32> {
    frames.iter().map(|f| u32::from_be_bytes(f[42..46].try_into().unwrap())).collect()
}

/// Takes session and egress of all paths away, or back.
fn cut(gateway: &mut Gateway, session: bool, encap: bool) {
    let whole = gateway.site.snapshot(START);
    gateway.publish(|snapshot| {
        let mut paths = whole.paths.to_vec();
        for path in &mut paths {
            path.session = path.session.take().filter(|_| session);
            path.encap = path.encap.take().filter(|_| encap);
        }
        snapshot.paths = paths.into();
    });
}

/// Without a session or without an egress packets wait; they leave before newer ones, in order.
#[test]
fn packets_wait_for_the_path() {
    for (session, encap) in [(false, true), (true, false), (false, false)] {
        let mut world = World::new(Plan::default());
        cut(&mut world.a, session, encap);
        (0..100).for_each(|n| world.a.lan_sends(&numbered(world.a.site, n).packet()));
        assert_eq!(world.settle(), 0);
        assert_eq!(world.a.control.sessions.lock().unwrap().len(), 100);

        // A publication that changes nothing for them.
        world.a.publish(|_| {});
        assert_eq!(world.settle(), 0);

        cut(&mut world.a, true, true);
        (100..120).for_each(|n| world.a.lan_sends(&numbered(world.a.site, n).packet()));
        assert_eq!(world.settle(), 120);
        assert_eq!(numbers(&bytes(world.b.lan.take())), (0..120).collect::<Vec<_>>());
        assert_eq!((world.a.all_drops(), world.b.all_drops()), (vec![], vec![]));
    }
}

/// The kernel's `MAX_STAGED_PACKETS`: at most 128 wait; the oldest are dropped and counted.
#[test]
fn the_oldest_waiting_packets_are_dropped() {
    let mut world = World::new(Plan::default());
    cut(&mut world.a, false, true);
    (0..200).for_each(|n| world.a.lan_sends(&numbered(world.a.site, n).packet()));
    world.settle();
    assert_eq!(world.a.all_drops(), [("no_session", 200 - WAITING as u64)]);
    // Trying again in vain must not lose more.
    world.a.publish(|_| {});
    world.settle();
    cut(&mut world.a, true, true);
    world.settle();
    assert_eq!(numbers(&bytes(world.b.lan.take())), (72..200).collect::<Vec<_>>());
}

/// What waited for a handshake that was given up is not sent when the peer comes back.
#[test]
fn stale_packets_are_dropped() {
    let mut world = World::new(Plan::default());
    cut(&mut world.a, false, true);
    world.a.lan_sends(&numbered(world.a.site, 0).packet());
    world.settle();
    // Trying in vain does not make it younger.
    world.now = world.now + REKEY_ATTEMPT_TIME;
    world.a.publish(|_| {});
    world.settle();
    world.now = world.now + Duration::from_nanos(1);
    cut(&mut world.a, true, true);
    assert_eq!(world.settle(), 0);
    assert_eq!(world.a.all_drops(), [("no_session", 1)]);
}

/// The same for opened packets whose next hop is unknown.
#[test]
fn packets_wait_for_the_neighbour() {
    let mut world = World::new(Plan::default());
    world.b.forget_neighbours();
    (0..140).for_each(|n| world.a.lan_sends(&numbered(world.a.site, n).packet()));
    world.settle();
    let asked = (LAN, world.b.site.host(false));
    assert!(world.b.control.neighbours.lock().unwrap().iter().all(|n| *n == asked));
    assert_eq!(world.b.all_drops(), [("no_neighbour", 12)]);
    world.b.publish(|_| {});
    world.settle();
    assert!(world.b.lan.take().is_empty());

    world.b.learn_neighbours();
    (140..150).for_each(|n| world.a.lan_sends(&numbered(world.a.site, n).packet()));
    world.settle();
    let frames = bytes(world.b.lan.take());
    assert_eq!(numbers(&frames), (12..150).collect::<Vec<_>>());
    assert!(frames.iter().all(|f| f[22] == 62), "TTL drops by two, however often a packet tried");
}

/// The same for those that go by a router of the LAN.
#[test]
fn packets_wait_for_the_router() {
    let mut world = World::new(Plan::default());
    world.b.forget_neighbours();
    for n in 0..3 {
        let inner = Inner { to: "172.16.5.5".parse().unwrap(), ..numbered(world.a.site, n) };
        world.b.wire_brings(0, &world.a.seal(0, n.into(), &inner.packet(), 0));
    }
    world.b.turn(world.now);
    assert_eq!(*world.b.control.neighbours.lock().unwrap(), [(LAN, world.b.site.host(false)); 3]);
    assert!(world.b.lan.take().is_empty());

    world.b.learn_neighbours();
    world.b.turn(world.now);
    assert_eq!(numbers(&bytes(world.b.lan.take())), [0, 1, 2]);
    assert_eq!(world.b.all_drops(), []);
}

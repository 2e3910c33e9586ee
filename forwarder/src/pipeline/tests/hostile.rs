//! A million random and mutated frames on every layer: no panic, no frame lost, nothing that failed a
//! check leaves.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use super::packets::{Inner, bytes, ethernet};
use super::site::Plan;
use super::world::World;
use super::{LAN_PORT, PATHS};
use crate::drops::Drop;
use crate::id::{PortId, TunnelId};
use crate::port::memory::MemoryWire;
use crate::port::{BURST, Layer};

const FRAMES: usize = 1_000_000;

/// `SplitMix64`: a fixed seed gives the same frames in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).take(len).collect()
    }

    /// The frame as it is, cut, lengthened, with flipped bits, with a changed header byte, or replaced.
    fn mutate(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut bad = frame.to_vec();
        match self.below(8) {
            0 => {}
            1 => bad.truncate(self.below(frame.len() + 1)),
            2 => bad.extend_from_slice(&[0x5a; 2500][..self.below(2500)]),
            3 => {
                let len = self.below(200);
                bad = self.bytes(len);
            }
            _ => {
                for _ in 0..=self.below(4) {
                    let reach = if self.below(2) == 0 { bad.len() } else { bad.len().min(64) };
                    let at = self.below(reach.max(1));
                    if let Some(byte) = bad.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
        bad
    }
}

/// Valid frames for gateway B, and what may come of them.
struct Seeds {
    /// Frames of every layer, with the port that they come to: LAN, wires, TUN, sockets.
    frames: Vec<(MemoryWire, Layer, Vec<u8>)>,
    /// LAN frames that B may deliver, and how often each.
    deliverable: HashMap<Vec<u8>, usize>,
}

fn seeds(world: &World, random: &mut Random) -> Seeds {
    let (a, b) = (&world.a, &world.b);
    let (mut frames, mut deliverable) = (Vec::new(), HashMap::new());
    for n in 0..512_u16 {
        let ipv6 = n % 2 == 0;
        let mut inner = Inner::between(b.site, ipv6);
        inner.ports.0 = n;
        inner.payload = random.bytes(usize::from(n) % 90);
        let frame = ethernet(b.site.gateway_mac(0), b.site.host_mac(), &[], &inner.packet());
        frames.push((b.lan.clone(), Layer::Ethernet(LAN_PORT), frame));
        frames.push((b.tun.clone(), Layer::Ip, inner.packet()));

        let path = usize::from(n) % PATHS;
        let mut inner = Inner::between(a.site, ipv6);
        inner.payload = [&n.to_be_bytes()[..], &random.bytes(20)].concat();
        let frame = a.seal(path, u64::from(n), &inner.packet(), 0);
        frames.push((b.wires[path].clone(), Layer::Ethernet(PortId(path as u16 + 1)), frame));
        let message = a.seal(path, 1000 + u64::from(n), &inner.packet(), 0).split_off(42);
        let layer = Layer::Datagram { tunnel: TunnelId(path as u16), source: a.site.endpoint(path), ds: 0 };
        frames.push((b.udp.clone(), layer, message));
        deliverable.insert(ethernet(b.site.host_mac(), b.site.gateway_mac(0), &[], &inner.forwarded(1)), 2);
    }
    let mut initiation = random.bytes(148);
    initiation[..4].copy_from_slice(&[1, 0, 0, 0]);
    let layer = Layer::Datagram { tunnel: TunnelId(0), source: a.site.endpoint(0), ds: 0 };
    frames.push((b.udp.clone(), layer, initiation));
    Seeds { frames, deliverable }
}

#[test]
fn a_million_bad_frames() {
    let mut world = World::new(Plan::default());
    let mut random = Random(7);
    let Seeds { frames, mut deliverable } = seeds(&world, &mut random);
    let (mut received, mut handshakes) = (0, 0);
    while received < FRAMES {
        for _ in 0..BURST {
            let (port, layer, frame) = &frames[random.below(frames.len())];
            port.push(*layer, random.mutate(frame));
        }
        received += world.b.turn(world.now);
        // Gateway A's checks are the judge of what B sealed.
        for (wire, frame) in world.b.take_sealed() {
            world.a.wire_brings(wire, &frame);
        }
        world.a.turn(world.now);
        world.a.lan.take();
        world.a.tun.take();
        for mut frame in bytes(world.b.lan.take()) {
            frame.resize(frame.len().max(60), 0);
            let left = deliverable.get_mut(&frame).expect("a plaintext that was never sealed");
            *left = left.checked_sub(1).expect("a replayed plaintext");
        }
        assert!(world.b.tun.take().is_empty() && world.b.udp.take().is_empty());
        handshakes += std::mem::take(&mut *world.b.control.handshakes.lock().unwrap()).len();
    }
    world.a.assert_no_leak();
    world.b.assert_no_leak();

    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as usize;
    let (sealed, opened) = (count(&world.b.counters.sealed), count(&world.b.counters.opened));
    let dropped: usize = world.b.all_drops().iter().map(|(_, n)| *n as usize).sum();
    assert_eq!(received, sealed + opened + dropped + handshakes, "every frame is accounted for");
    assert_eq!(opened, 1024, "every sealed packet came through once");
    assert!(deliverable.values().all(|left| *left == 0));
    // B's kernel may send from any address, so A sees sources and destinations that it does not know;
    // nothing else may be wrong with what B let through.
    let routing =
        [Drop::SourceNotAllowed, Drop::NoNeighbour, Drop::Transit, Drop::Unroutable].map(Drop::label);
    let wrong: Vec<_> =
        world.a.all_drops().into_iter().filter(|(label, _)| !routing.contains(label)).collect();
    assert_eq!(wrong, []);
}

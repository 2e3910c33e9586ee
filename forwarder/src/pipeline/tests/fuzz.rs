//! The whole pipeline under whatever comes, with messages that are authentic, too: what the fuzz target
//! `pipeline` runs.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::packets::{Inner, bytes, checksummed, ethernet};
use super::site::{Plan, Site};
use super::world::World;
use super::{LAN_PORT, PATHS};
use crate::drops::Drop;
use crate::fuzzing::Reader;
use crate::id::{PeerId, TunnelId};
use crate::pipeline::control::Injected;
use crate::pipeline::parse;
use crate::pipeline::snapshot::{Egress, Hop, Snapshot};
use crate::port::Layer;

/// Steps per input.
const STEPS: usize = 64;

thread_local! {
    /// Ports keep their memory for ever, so one world serves all inputs.
    static WORLD: Cell<Option<World>> = const { Cell::new(None) };
}

/// Runs `data` as a list of what happens to gateway B. No frame is lost, nothing leaves in clear, and
/// nothing comes out of the tunnel that was not sealed for it, once.
pub(crate) fn pipeline(data: &[u8]) {
    let plan = Plan { tx: 48, tun_tx: 24, ..Plan::default() };
    let mut run = Run::new(WORLD.take().unwrap_or_else(|| World::new(plan)));
    let input = &mut Reader::new(data);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        run.step(input);
    }
    run.turn();
    WORLD.set(Some(run.finish()));
}

struct Run {
    world: World,
    /// B's snapshot as it was at the start.
    original: Snapshot,
    /// Gateway A's plaintexts, by path and counter.
    sealed: HashMap<(usize, u64), Sealed>,
    /// What the counters were at the start.
    start: Counts,
    /// Frames that B received.
    received: u64,
    /// Handshake messages that B handed to the control thread.
    handshakes: u64,
    /// The control thread's messages were sent, or dropped.
    injected: bool,
}

/// A plaintext of gateway A's. It may come out at B, once.
struct Sealed {
    plaintext: Vec<u8>,
    delivered: bool,
}

/// What was counted so far.
struct Counts {
    /// Frames that B sealed, opened or dropped.
    done: u64,
    /// Packets that had to wait at B.
    waited: u64,
    /// Messages that A should not have got.
    wrong: u64,
}

impl Run {
    /// The world as new: other sessions, and nothing waits.
    fn new(mut world: World) -> Self {
        world.now = world.now + Duration::from_hours(24);
        for gateway in [&mut world.a, &mut world.b] {
            let generation = gateway.snapshot.generation + 1;
            gateway.snapshot = Snapshot { generation, ..gateway.site.snapshot(world.now) };
            gateway.control.full.store(false, Ordering::Relaxed);
            gateway.turn(world.now);
        }
        let original = with_fields_of(&world.b.snapshot, 0);
        let start = Counts::of(&world);
        Self { world, original, sealed: HashMap::new(), start, received: 0, handshakes: 0, injected: false }
    }

    fn step(&mut self, input: &mut Reader<'_>) {
        let choice = input.byte();
        let path = usize::from(choice >> 4) % PATHS;
        match choice % 8 {
            0 => self.turn(),
            1 => {
                let site = self.world.b.site;
                let packet = packet(site, input);
                let mut frame = ethernet(site.gateway_mac(0), site.host_mac(), &[], &packet);
                input.bend(&mut frame);
                self.world.b.lan.push(Layer::Ethernet(LAN_PORT), frame);
            }
            2 => self.world.b.tun.push(Layer::Ip, packet(self.world.b.site, input)),
            3 => {
                let mut frame = self.seal(path, input);
                input.bend(&mut frame);
                self.world.b.wire_brings(path, &frame);
            }
            4 => {
                let mut message = self.seal(path, input).split_off(42);
                input.bend(&mut message);
                self.datagram(path, message);
            }
            5 => {
                let (port, len) = (input.byte() % 4, input.word() % 300);
                let bytes = input.bytes(usize::from(len)).to_vec();
                match port {
                    0 => self.world.b.lan.push(Layer::Ethernet(LAN_PORT), bytes),
                    1 => self.world.b.tun.push(Layer::Ip, bytes),
                    2 => self.world.b.wire_brings(path, &bytes),
                    _ => self.datagram(path, bytes),
                }
            }
            6 => self.publish(path, input.byte()),
            _ => self.event(path, input.byte()),
        }
    }

    fn datagram(&self, path: usize, message: Vec<u8>) {
        let source = self.world.a.site.endpoint(path);
        let layer = Layer::Datagram { tunnel: TunnelId(path as u16), source, ds: 0 };
        self.world.b.udp.push(layer, message);
    }

    /// A packet of gateway A's, sealed; a replay if its counter was used.
    fn seal(&mut self, path: usize, input: &mut Reader<'_>) -> Vec<u8> {
        let counter = u64::from(input.byte());
        let ds = input.byte();
        let plaintext = packet(self.world.a.site, input);
        let sealed = self.sealed.entry((path, counter)).or_insert(Sealed { plaintext, delivered: false });
        self.world.a.seal(path, counter, &sealed.plaintext, ds)
    }

    /// The control thread publishes a change.
    fn publish(&mut self, path: usize, change: u8) {
        let (b, original) = (&mut self.world.b, &self.original);
        match change % 8 {
            0 => b.set_path(path, |path| path.session = None),
            1 => b.set_path(path, |path| path.encap = None),
            2 => b.forget_neighbours(),
            3 => b.publish(|snapshot| snapshot.transit = !snapshot.transit),
            4 => b.publish(|snapshot| snapshot.groups = Arc::new([])),
            5 => b.publish(|snapshot| {
                let kernels = |hop: &Hop| Hop { egress: Egress::Kernel, ..hop.clone() };
                snapshot.hops = snapshot.hops.iter().map(kernels).collect();
            }),
            6 => b.publish(|snapshot| snapshot.sessions = Arc::default()),
            _ => b.snapshot = with_fields_of(original, b.snapshot.generation + 1),
        }
    }

    /// Time passes, or the control thread wants something.
    fn event(&mut self, path: usize, what: u8) {
        let b = &mut self.world.b;
        let peer = PeerId(path as u32);
        let injected = match what % 4 {
            0 => {
                self.world.now = self.world.now + Duration::from_secs(u64::from(what));
                return;
            }
            1 => {
                b.control.full.fetch_xor(true, Ordering::Relaxed);
                return;
            }
            2 => Injected::Keepalive(peer),
            _ => {
                let mut payload = [0; 148];
                payload[0] = 1;
                Injected::Message { peer, payload: payload.into() }
            }
        };
        b.lane.inject(&b.snapshot, self.world.now, &injected);
        self.injected = true;
    }

    /// One turn of B; gateway A judges what it sealed, and the plaintexts what it opened.
    fn turn(&mut self) {
        let (a, b, now) = (&mut self.world.a, &mut self.world.b, self.world.now);
        self.received += b.turn(now) as u64;
        b.assert_no_leak();
        self.handshakes += std::mem::take(&mut *b.control.handshakes.lock().unwrap()).len() as u64;
        b.control.sessions.lock().unwrap().clear();
        b.control.neighbours.lock().unwrap().clear();
        for (wire, frame) in b.take_sealed() {
            a.wire_brings(wire, &frame);
            a.turn(now);
            a.assert_no_leak();
        }
        a.lan.take();
        a.tun.take();
        a.control.neighbours.lock().unwrap().clear();
        assert!(b.udp.take().is_empty());
        let from_lan = bytes(b.lan.take()).into_iter().map(|mut frame| frame.split_off(14));
        let delivered: Vec<_> = from_lan.chain(bytes(b.tun.take())).collect();
        for packet in &delivered {
            self.assert_was_sealed(packet);
        }
    }

    /// The packet came from site A's LAN, and out of a message that was not opened before.
    fn assert_was_sealed(&mut self, packet: &[u8]) {
        let allowed = match packet[0] >> 4 {
            4 => packet[12..14] == [10, 1] && packet[14] != 77,
            _ => packet[8..14] == [0x20, 0x01, 0x0d, 0xb8, 0, 1],
        };
        assert!(allowed, "a source that is not the peer's: {packet:02x?}");
        let is_it =
            |sealed: &&mut Sealed| !sealed.delivered && carried(&sealed.plaintext) == Some(blank(packet));
        let sealed = self.sealed.values_mut().find(is_it);
        sealed.unwrap_or_else(|| panic!("never sealed, or opened twice: {packet:02x?}")).delivered = true;
    }

    /// Every frame has an end, and what B sealed A could open.
    fn finish(self) -> World {
        let end = Counts::of(&self.world);
        assert_eq!(end.wrong, self.start.wrong, "{:?}", self.world.a.all_drops());
        // A packet that waits is counted when it arrives and again when it goes on, or not at all yet.
        if !self.injected && end.waited == self.start.waited {
            assert_eq!(self.received, end.done - self.start.done + self.handshakes);
        }
        self.world
    }
}

impl Counts {
    fn of(world: &World) -> Self {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let World { a, b, .. } = world;
        let dropped: u64 = b.all_drops().iter().map(|(_, n)| n).sum();
        let wrong = [Drop::AuthFailed, Drop::Replayed, Drop::Malformed, Drop::UnknownIndex, Drop::EcnIllegal];
        Self {
            done: count(&b.counters.sealed) + count(&b.counters.opened) + dropped,
            waited: count(&b.counters.waited),
            wrong: wrong.map(|reason| a.drops(reason)).iter().sum(),
        }
    }
}

/// A packet of one of the site's hosts to one of the other's, perhaps a strange one.
fn packet(from: Site, input: &mut Reader<'_>) -> Vec<u8> {
    let shape = input.byte();
    let mut inner = Inner::between(from, shape & 1 != 0);
    inner.ecn = shape >> 1 & 0b11;
    if shape & 8 != 0 {
        (inner.ttl, inner.ports.0) = (input.byte(), input.word());
        inner.payload = vec![0x5a; input.below(1600)];
    }
    let mut packet = inner.packet();
    if shape & 16 != 0 {
        input.bend(&mut packet);
        let header_len = packet.first().map_or(0, |first| usize::from(first & 0x0f) * 4);
        let header = packet.get_mut(..header_len).filter(|header| header.len() >= 20 && header[0] >> 4 == 4);
        if let Some(header) = header.filter(|_| shape & 32 != 0) {
            checksummed(header);
        }
    }
    packet
}

/// What can be delivered of a plaintext, see [`blank`]; `None` when it is no packet.
fn carried(plaintext: &[u8]) -> Option<Vec<u8>> {
    let ip = parse::ip(plaintext)?;
    Some(blank(&plaintext[..ip.packet_len()]))
}

/// The packet without what a router changes: ECN, TTL, checksum.
fn blank(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 {
        packet[1] &= !0b11;
        packet[8] = 0;
        packet[10..12].fill(0);
    } else {
        packet[1] &= !0x30;
        packet[7] = 0;
    }
    packet
}

/// Another snapshot with the same contents.
fn with_fields_of(snapshot: &Snapshot, generation: u64) -> Snapshot {
    Snapshot {
        generation,
        interfaces: Arc::clone(&snapshot.interfaces),
        routes: Arc::clone(&snapshot.routes),
        groups: Arc::clone(&snapshot.groups),
        paths: Arc::clone(&snapshot.paths),
        sessions: Arc::clone(&snapshot.sessions),
        tunnels: Arc::clone(&snapshot.tunnels),
        hops: Arc::clone(&snapshot.hops),
        neighbours: Arc::clone(&snapshot.neighbours),
        transit: snapshot.transit,
    }
}

//! Two gateways with their ports and what carries frames between them.

use std::sync::Arc;

use super::doubles::{Cancelled, Recorder, Watched};
use super::packets::{ethernet, is_sealed};
use super::site::{Plan, Site};
use super::{LAN_PORT, PATHS, ROOM, START, TUN, UDP};
use crate::aead;
use crate::clock::Boottime;
use crate::drops::Drop;
use crate::id::PortId;
use crate::pipeline::snapshot::{Egress, Encap, Path, Snapshot};
use crate::pipeline::{Lane, LaneCounters, Ports, encap, outbound};
use crate::port::Layer;
use crate::port::memory::{MemoryPort, MemoryWire};

pub(super) struct World {
    pub(super) a: Gateway,
    pub(super) b: Gateway,
    pub(super) now: Boottime,
}

pub(super) struct Gateway {
    pub(super) site: Site,
    pub(super) lane: Lane,
    pub(super) snapshot: Snapshot,
    pub(super) counters: Arc<LaneCounters>,
    pub(super) control: Arc<Recorder>,
    pub(super) lan: MemoryWire,
    pub(super) wires: Vec<MemoryWire>,
    pub(super) tun: MemoryWire,
    pub(super) udp: MemoryWire,
    pub(super) cancelled: Cancelled,
}

impl Gateway {
    pub(super) fn new(number: u8, plan: Plan, now: Boottime) -> Self {
        let site = Site { number, plan };
        let cancelled = Cancelled::default();
        let tx = |position| if position == TUN { plan.tun_tx } else { plan.tx };
        let ports = (0..6).map(|i| MemoryPort::new(512, tx(i), ROOM).unwrap());
        let (ports, wires): (Vec<_>, Vec<_>) = ports.unzip();
        let watched = |port| Box::new(Watched { port, cancelled: cancelled.clone() }) as _;
        let ports = Ports {
            all: ports.into_iter().map(watched).collect(),
            egress: (0..4).map(Some).collect(),
            kernel: Some(TUN),
            datagrams: Some(UDP),
        };
        let (counters, control) = (Arc::<LaneCounters>::default(), Arc::<Recorder>::default());
        let lane = Lane::new(ports, counters.clone(), control.clone(), ROOM).unwrap();
        let [lan, tun, udp] = [0, TUN, UDP].map(|i| wires[usize::from(i)].clone());
        let wires = wires[1..=PATHS].to_vec();
        Self { site, lane, snapshot: site.snapshot(now), counters, control, lan, wires, tun, udp, cancelled }
    }

    pub(super) fn turn(&mut self, now: Boottime) -> usize {
        self.lane.turn(&self.snapshot, now)
    }

    /// Publishes a changed snapshot.
    pub(super) fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.snapshot);
        self.snapshot.generation += 1;
    }

    pub(super) fn set_path(&mut self, i: usize, change: impl FnOnce(&mut Path)) {
        self.publish(|snapshot| {
            let mut paths = snapshot.paths.to_vec();
            change(&mut paths[i]);
            snapshot.paths = paths.into();
        });
    }

    /// Has packets for the LAN leave by these ports.
    pub(super) fn set_lan_ports(&mut self, by: &[PortId]) {
        self.publish(|snapshot| {
            let mut hops = snapshot.hops.to_vec();
            for hop in &mut hops {
                if let Egress::Ethernet { ports, .. } = &mut hop.egress {
                    *ports = by.iter().copied().collect();
                }
            }
            snapshot.hops = hops.into();
        });
    }

    /// Has it know no MAC addresses on its links.
    pub(super) fn forget_neighbours(&mut self) {
        self.publish(|snapshot| {
            let mut hops = snapshot.hops.to_vec();
            for router in hops.iter_mut().filter_map(|hop| hop.router.as_mut()) {
                router.mac = None;
            }
            (snapshot.hops, snapshot.neighbours) = (hops.into(), Arc::default());
        });
    }

    /// Has it know all of them again.
    pub(super) fn learn_neighbours(&mut self) {
        let whole = self.site.snapshot(START);
        self.publish(|snapshot| (snapshot.hops, snapshot.neighbours) = (whole.hops, whole.neighbours));
    }

    /// Puts the packet on the LAN, addressed to the gateway.
    pub(super) fn lan_sends(&self, packet: &[u8]) {
        let site = self.site;
        let frame = ethernet(site.gateway_mac(0), site.host_mac(), site.plan.lan_vlans, packet);
        self.lan.push(Layer::Ethernet(LAN_PORT), frame);
    }

    /// Puts a frame on wire `i`.
    pub(super) fn wire_brings(&self, i: usize, frame: &[u8]) {
        self.wires[i].push(Layer::Ethernet(PortId(i as u16 + 1)), frame);
    }

    /// The frame that this gateway sends on wire `i` for a plaintext, whatever it is.
    pub(super) fn seal(&self, i: usize, counter: u64, plaintext: &[u8], ds: u8) -> Vec<u8> {
        let session = self.snapshot.paths[i].session.clone().unwrap();
        let Encap::Frame { header, ip, .. } = self.site.encap(i) else { panic!("no frames here") };
        let mut frame = vec![0; header.len() + 32 + plaintext.len()];
        let message = &mut frame[header.len()..];
        aead::seal(&mut [outbound::job(&session, counter, plaintext, message)]);
        encap::fill(&header, ip.into(), &mut frame, ds, 7);
        frame
    }

    pub(super) fn drops(&self, reason: Drop) -> u64 {
        self.counters.drops.get(reason)
    }

    pub(super) fn all_drops(&self) -> Vec<(&'static str, u64)> {
        Drop::ALL.iter().map(|d| (d.label(), self.drops(*d))).filter(|(_, n)| *n > 0).collect()
    }

    /// What it sent on all wires, which must be sealed, all of it.
    pub(super) fn take_sealed(&self) -> Vec<(usize, Vec<u8>)> {
        let sent = (0..PATHS).flat_map(|i| self.wires[i].take().into_iter().map(move |s| (i, s.bytes)));
        let sent: Vec<_> = sent.collect();
        for (i, frame) in &sent {
            assert!(is_sealed(self.site, *i, frame), "in clear on wire {i}: {frame:02x?}");
        }
        sent
    }

    pub(super) fn assert_no_leak(&self) {
        let mut ports = self.wires.clone();
        ports.extend([self.lan.clone(), self.tun.clone(), self.udp.clone()]);
        for (i, port) in ports.iter().enumerate() {
            assert_eq!(port.outstanding(), (0, 0), "frames of port {i} that did not come back");
        }
    }
}

impl World {
    pub(super) fn new(plan: Plan) -> Self {
        Self { a: Gateway::new(1, plan, START), b: Gateway::new(2, plan, START), now: START }
    }

    /// Both gateways take turns until nothing moves; what they send on the wires reaches the other.
    /// Returns the number of frames that crossed.
    pub(super) fn settle(&mut self) -> usize {
        let mut crossed = 0;
        loop {
            let received = self.a.turn(self.now) + self.b.turn(self.now);
            let (to_b, to_a) = (self.a.take_sealed(), self.b.take_sealed());
            for (i, frame) in &to_b {
                self.b.wire_brings(*i, frame);
            }
            for (i, frame) in &to_a {
                self.a.wire_brings(*i, frame);
            }
            let sent = to_a.len() + to_b.len();
            crossed += sent;
            if received + sent == 0 {
                self.a.assert_no_leak();
                self.b.assert_no_leak();
                return crossed;
            }
        }
    }
}

//! The stages by themselves: each stage's public functions over the whole batch. In the pipeline they run packet by
//! packet behind each other, so these times are a guide and do not add up to the pipeline's.

use std::hint::black_box;
use std::io;
use std::net::IpAddr;

use anyhow::{Context as _, ensure};
use forwarder::pipeline::snapshot::{Encap, Route, Snapshot};
use forwarder::pipeline::{encap, flow, parse};
use forwarder::port::{BURST, Destination, Port, RxFrame};
use forwarder::wireguard::Session;
use forwarder::wireguard::message::DataHeader;

use super::batch::Batch;
use super::port::{MemoryPort, ROOM, Wire};
use super::site::{LAN, LAN_PORT, Site, wire};
use crate::aead::nanoseconds;
use crate::packet::{ETHERNET, HEADERS};

/// Stages of a direction.
pub const MOST: usize = 5;

/// Their names, outbound and inbound, the AEAD's left out. `ports` is the work of these ports of memory, which those
/// of sockets do in their own way.
pub const NAMES: [[&str; MOST]; 2] =
    [["ports", "parse", "route", "select", "header"], ["ports", "demux", "replay", "check", "next hop"]];

/// What they need beside the batch.
pub struct Stages {
    /// Its window sees the counters of each round.
    session: Session,
    counter: u64,
    frame: [u8; ROOM],
    port: Box<dyn Port>,
    wire: Wire,
    received: Vec<RxFrame>,
}

impl Stages {
    /// # Errors
    /// There is no memory for frames.
    pub fn new() -> io::Result<Self> {
        let (port, wire) = MemoryPort::new(LAN_PORT)?;
        Ok(Self {
            session: Site(2).session(0),
            counter: 0,
            frame: [0; ROOM],
            port: Box::new(port),
            wire,
            received: Vec::with_capacity(BURST),
        })
    }

    /// Nanoseconds of each stage over the batch, as [`NAMES`] has them.
    ///
    /// # Errors
    /// A stage would not let the batch pass.
    pub fn measure(
        &mut self,
        a: &Snapshot,
        b: &Snapshot,
        batch: &Batch,
        wire: &[Vec<u8>],
    ) -> anyhow::Result<[[f64; MOST]; 2]> {
        let packets: Vec<_> = batch.frames.iter().map(|frame| &frame[ETHERNET..]).collect();
        let ips: Option<Vec<_>> = packets.iter().map(|packet| parse::ip(packet)).collect();
        let ips = ips.context("a header is wrong")?;
        let over = |count: usize, stage: &mut dyn FnMut(usize) -> bool| {
            let mut passed = 0;
            let time = nanoseconds(|| passed = (0..count).filter(|&i| stage(i)).count());
            ensure!(passed == count, "{passed} of {count} packets passed a stage");
            Ok(time)
        };
        let all = packets.len();
        Ok([
            [
                self.ported(&batch.frames)?,
                over(all, &mut |i| parsed(a, &batch.frames[i]))?,
                over(all, &mut |i| routed(a, ips[i], packets[i]))?,
                over(all, &mut |i| selected(a, ips[i], packets[i]))?,
                over(all, &mut |i| self.headed(a, batch.paths[i], i, ips[i].packet_len()))?,
            ],
            [
                self.ported(wire)?,
                over(all, &mut |i| sorted(b, &wire[i]))?,
                self.committed(all)?,
                over(all, &mut |i| checked(b, batch.paths[i], packets[i]))?,
                over(all, &mut |i| next_hop(b, ips[i].destination(packets[i])))?,
            ],
        ])
    }

    /// What a lane asks of its ports for a burst.
    fn ported(&mut self, frames: &[Vec<u8>]) -> anyhow::Result<f64> {
        for frame in frames {
            self.wire.push(frame);
        }
        let time = nanoseconds(|| {
            self.port.receive(0, BURST, &mut self.received);
            for frame in &self.received {
                let Some(mut tx) = self.port.reserve() else { continue };
                tx.frame.set_range(0, frame.frame.len());
                self.port.transmit(tx, &Destination::Headers);
            }
            for frame in self.received.drain(..) {
                self.port.release(frame.frame);
            }
            self.port.flush();
        });
        let mut sent = 0;
        self.wire.take(|_| sent += 1);
        ensure!(sent == frames.len(), "{sent} of {} frames passed a port", frames.len());
        Ok(time)
    }

    /// Both headers of a message.
    fn headed(&mut self, snapshot: &Snapshot, path: usize, i: usize, len: usize) -> bool {
        let Some(Encap::Frame { header, ip, .. }) = &snapshot.paths[path].encap else { return false };
        let message = DataHeader { receiver: 7, counter: i as u64 }.to_bytes();
        self.frame[HEADERS..][..message.len()].copy_from_slice(&message);
        encap::fill(header, usize::from(*ip), &mut self.frame[..HEADERS + 32 + len], 0, i as u16);
        black_box(&self.frame);
        true
    }

    /// The replay window, once for the batch.
    fn committed(&mut self, count: usize) -> anyhow::Result<f64> {
        let counters: Vec<u64> = (self.counter..).take(count).collect();
        self.counter += count as u64;
        let mut fresh = 0;
        let time = nanoseconds(|| {
            let mut window = self.session.replay();
            fresh = counters.iter().filter(|counter| window.accept(**counter)).count();
        });
        ensure!(fresh == count, "{fresh} of {count} counters were fresh");
        Ok(time)
    }
}

fn parsed(snapshot: &Snapshot, frame: &[u8]) -> bool {
    let Some(ethernet) = parse::ethernet(LAN_PORT, frame) else { return false };
    let ip = parse::ip(&frame[ethernet.payload..]);
    snapshot.interfaces.get(&ethernet.key) == Some(&LAN) && black_box(ip).is_some()
}

/// The source must be behind the LAN, the destination behind the tunnels.
fn routed(snapshot: &Snapshot, ip: parse::Ip, packet: &[u8]) -> bool {
    matches!(snapshot.routes.lookup(ip.source(packet)), Some(Route::Hop(_)))
        && matches!(snapshot.routes.lookup(ip.destination(packet)), Some(Route::Tunnel(_)))
}

/// The flow's bucket, path and session.
fn selected(snapshot: &Snapshot, ip: parse::Ip, packet: &[u8]) -> bool {
    let buckets = &snapshot.groups[0].buckets;
    let peer = buckets[flow::bucket(ip, packet, buckets.len())];
    let session = snapshot.paths.get(peer.index()).and_then(|path| path.session.as_ref());
    black_box(session).is_some()
}

fn sorted(snapshot: &Snapshot, frame: &[u8]) -> bool {
    let Some(ethernet) = parse::ethernet(wire(0), frame) else { return false };
    let packet = &frame[ethernet.payload..];
    let udp = parse::ip(packet).and_then(|ip| parse::udp(ip, packet));
    let header = udp.and_then(|udp| DataHeader::parse(&packet[udp.payload]));
    header.and_then(|header| snapshot.sessions.get(&header.receiver)).is_some()
}

/// The inner header and the source's peer.
fn checked(snapshot: &Snapshot, path: usize, packet: &[u8]) -> bool {
    let Some(ip) = parse::ip(packet) else { return false };
    snapshot.tunnels[path].allowed_ips.lookup(ip.source(packet)).is_some_and(|peer| peer.index() == path)
}

fn next_hop(snapshot: &Snapshot, destination: IpAddr) -> bool {
    let Some(Route::Hop(hop)) = snapshot.routes.lookup(destination) else { return false };
    let hop = snapshot.hops.get(hop.index());
    hop.is_some_and(|hop| black_box(snapshot.neighbours.get(hop.interface, destination)).is_some())
}

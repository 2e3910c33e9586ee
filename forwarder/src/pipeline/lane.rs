//! A lane: what one thread needs to carry packets between its ports.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::control::{Control, Injected};
use super::deliver::{self, Place};
use super::outbound::{self, Exit, message_len};
use super::ports::Ports;
use super::snapshot::{Encap, Path, Snapshot};
use super::waiting::{For, Waiter, Waiting};
use super::{demux, encap, inbound};
use crate::aead;
use crate::clock::Boottime;
use crate::drops::{self, Drop, DropCounters};
use crate::id::{PeerId, TunnelId};
use crate::port::{BURST, Destination, Layer, RxFrame, TxFrame};
use crate::wireguard::{HANDSHAKE_DS, REKEY_ATTEMPT_TIME};

/// `origin` of a frame that no port received: it waited here.
const WAITED: u16 = u16::MAX;

/// What one lane counted; only its thread adds.
#[derive(Debug, Default)]
pub struct LaneCounters {
    /// Packets lost, by reason.
    pub drops: DropCounters,
    /// Packets sealed and transmitted.
    pub sealed: AtomicU64,
    /// Messages opened and delivered, empty ones included.
    pub opened: AtomicU64,
    /// Packets that had to wait for a session or a neighbour.
    pub waited: AtomicU64,
}

/// One thread's pipeline.
pub struct Lane {
    io: Io,
    rx: Vec<RxFrame>,
    /// Where each peer's last opened packet went, by [`PeerId`].
    expected: Vec<Place>,
    generation: Option<u64>,
}

/// What the stages do things with.
pub(super) struct Io {
    pub ports: Ports,
    pub counters: Arc<LaneCounters>,
    pub control: Arc<dyn Control>,
    waiting: Waiting,
    /// Identification of the next outer IPv4 header.
    next_id: u16,
}

/// What the stages look things up in.
#[derive(Clone, Copy)]
pub(super) struct Context<'s> {
    pub snapshot: &'s Snapshot,
    pub now: Boottime,
    /// When the packets arrived: earlier than now when they have waited.
    pub arrived: Boottime,
}

impl Lane {
    /// A lane over `ports`. `room` is the largest IP packet, in bytes, that can wait in it.
    ///
    /// # Errors
    /// There is no memory for waiting packets.
    pub fn new(
        ports: Ports,
        counters: Arc<LaneCounters>,
        control: Arc<dyn Control>,
        room: usize,
    ) -> io::Result<Self> {
        let rx = Vec::with_capacity(BURST * ports.all.len());
        let io = Io { ports, counters, control, waiting: Waiting::new(room)?, next_id: 0 };
        Ok(Self { io, rx, expected: Vec::new(), generation: None })
    }

    /// The ports, for polling and counters.
    pub fn ports(&self) -> &Ports {
        &self.io.ports
    }

    /// One turn: lets waiting packets try again when the snapshot is new, receives at most
    /// [`BURST`] frames from every port, carries them, flushes every port. Returns how many frames
    /// were received.
    pub fn turn(&mut self, snapshot: &Snapshot, now: Boottime) -> usize {
        let cx = Context { snapshot, now, arrived: now };
        if self.generation != Some(snapshot.generation) {
            self.generation = Some(snapshot.generation);
            self.forget_places(snapshot);
            self.retry_waiting(cx);
        }
        for (origin, port) in self.io.ports.all.iter_mut().enumerate() {
            port.receive(origin as u16, BURST, &mut self.rx);
        }
        let received = self.rx.len();
        self.carry(cx);
        self.io.ports.flush();
        received
    }

    /// Takes a message of the control thread for its peer's path; the next turn flushes it out. Without
    /// a path it is lost, and its sender's timer repeats it.
    pub fn inject(&mut self, snapshot: &Snapshot, now: Boottime, injected: &Injected) {
        let sent = match injected {
            Injected::Message { peer, payload } => self.io.path(snapshot, *peer).and_then(|exit| {
                let mut tx = self.io.reserve(exit.port, usize::from(exit.at) + payload.len())?;
                exit.message(&mut tx, payload.len()).copy_from_slice(payload);
                self.io.send(exit, tx, payload.len(), HANDSHAKE_DS);
                Ok(())
            }),
            Injected::Keepalive(peer) => {
                self.io.path(snapshot, *peer).and_then(|exit| self.io.keepalive(exit, now))
            }
        };
        if let Err(reason) = sent {
            self.io.counters.drops.count(reason);
        }
    }

    /// Egresses may have changed, so every peer starts again at the first port.
    fn forget_places(&mut self, snapshot: &Snapshot) {
        self.expected.clear();
        self.expected.resize(snapshot.paths.len(), Place::default());
    }

    /// Each waiting packet tries once, oldest first; one that must wait on goes to the end, so the order
    /// stays.
    fn retry_waiting(&mut self, cx: Context<'_>) {
        for _ in 0..self.io.waiting.len() {
            let Some(waiter) = self.io.waiting.pop() else { break };
            let cx = Context { arrived: waiter.since, ..cx };
            if let Err(reason) = self.retry(cx, waiter) {
                self.io.counters.drops.count(reason);
            }
        }
    }

    fn retry(&mut self, cx: Context<'_>, mut waiter: Waiter) -> Result<(), Drop> {
        let result = match waiter.what {
            // The handshake that it waited for was given up; what it has to say is no news any more.
            what if cx.now.since(waiter.since) > REKEY_ATTEMPT_TIME => Err(what.drop()),
            For::Session(_) => {
                self.rx.push(RxFrame { frame: waiter.frame, layer: Layer::Ip, origin: WAITED });
                self.carry(cx);
                return Ok(());
            }
            For::Neighbour(_, _, position) => {
                deliver::from_waiting(&mut self.io, cx, position, waiter.frame.bytes_mut())
            }
        };
        self.io.waiting.give(waiter.frame);
        result
    }

    /// Carries what stands in `rx`, and gives the frames back.
    fn carry(&mut self, cx: Context<'_>) {
        for frames in self.rx.chunks_mut(BURST) {
            let sorted = demux::sort(&mut self.io, cx.snapshot, frames);
            inbound::run(&mut self.io, cx, &mut self.expected, frames, &sorted.messages);
            outbound::run(&mut self.io, cx, frames, &sorted.packets);
        }
        for RxFrame { frame, origin, .. } in self.rx.drain(..) {
            if origin == WAITED {
                self.io.waiting.give(frame);
            } else {
                self.io.ports.release(origin, frame);
            }
        }
    }
}

impl Io {
    /// A transmit frame with that much room.
    pub fn reserve(&mut self, port: u16, room: usize) -> Result<TxFrame, Drop> {
        let full = if self.ports.kernel == Some(port) { Drop::KernelQueueFull } else { Drop::TxFull };
        let tx = self.ports.reserve(port).ok_or(full)?;
        if room > tx.frame.room() {
            self.ports.cancel(port, tx);
            return Err(Drop::TooBig);
        }
        Ok(tx)
    }

    /// Lets a packet wait.
    pub fn wait(&mut self, cx: Context<'_>, what: For, packet: &[u8]) {
        drops::add(&self.counters.waited, 1);
        if let Some(reason) = self.waiting.push(what, packet, cx.arrived) {
            self.counters.drops.count(reason);
        }
    }

    /// The port by which messages leave on a path, and where they start in its frames.
    pub fn exit<'s>(&self, path: &'s Path, encap: &'s Encap) -> Result<Exit<'s>, Drop> {
        let (port, at) = match encap {
            Encap::Frame { port, header, .. } => (self.ports.egress(*port), header.len()),
            Encap::Datagram { .. } => (self.ports.datagrams, 0),
        };
        Ok(Exit { path, encap, port: port.ok_or(Drop::PortDown)?, at: at as u16 })
    }

    /// Sends the message of `len` bytes that stands in `tx`, with this DS byte outside.
    pub fn send(&mut self, exit: Exit<'_>, mut tx: TxFrame, len: usize, ds: u8) {
        tx.frame.set_range(0, usize::from(exit.at) + len);
        match exit.encap {
            Encap::Frame { header, ip, .. } => {
                encap::fill(header, usize::from(*ip), tx.frame.bytes_mut(), ds, self.next_id);
                self.next_id = self.next_id.wrapping_add(1);
                self.ports.transmit(exit.port, tx, &Destination::Headers);
            }
            Encap::Datagram { to } => {
                let to = Destination::Datagram { tunnel: exit.path.tunnel, to: *to, tos: ds };
                self.ports.transmit(exit.port, tx, &to);
            }
        }
    }

    /// Sends `message` as a datagram from the tunnel's own UDP socket.
    pub fn answer(&mut self, tunnel: TunnelId, to: SocketAddr, message: &[u8]) -> Result<(), Drop> {
        let port = self.ports.datagrams.ok_or(Drop::PortDown)?;
        let mut tx = self.reserve(port, message.len())?;
        tx.frame.set_range(0, message.len());
        tx.frame.bytes_mut().copy_from_slice(message);
        self.ports.transmit(port, tx, &Destination::Datagram { tunnel, to, tos: 0 });
        Ok(())
    }

    fn path<'s>(&self, snapshot: &'s Snapshot, peer: PeerId) -> Result<Exit<'s>, Drop> {
        let path = snapshot.paths.get(peer.index()).ok_or(Drop::Unroutable)?;
        let encap = path.encap.as_ref().ok_or(Drop::PortDown)?;
        self.exit(path, encap)
    }

    fn keepalive(&mut self, exit: Exit<'_>, now: Boottime) -> Result<(), Drop> {
        let session = exit.path.session.as_ref().ok_or(Drop::NoSession)?;
        let mut tx = self.reserve(exit.port, usize::from(exit.at) + message_len(0))?;
        let Some(counter) = session.draw(now, 1).next() else {
            self.ports.cancel(exit.port, tx);
            return Err(Drop::SessionExpired);
        };
        let message = exit.message(&mut tx, message_len(0));
        aead::seal(&mut [outbound::job(session, counter, &[], message)]);
        self.send(exit, tx, message_len(0), 0);
        session.note_sent(now, 1, message_len(0) as u64, 0);
        Ok(())
    }
}

//! From a plain packet to a sealed message on the wire:
//!
//! 1. admit: martians, source check (a packet's source must be one that its interface may send)
//! 2. route: the destination's group, and the path that the flow's bucket names
//! 3. carry: size, TTL
//! 4. reserve a transmit frame of the path's port; without a session or an egress the packet waits
//! 5. draw counters, a run per session
//! 6. seal the batch, from the receive frames into the transmit frames
//! 7. encapsulate and transmit

use std::net::IpAddr;
use std::ops::Range;

use arrayvec::ArrayVec;

use super::demux::{Packet, Span};
use super::lane::{Context, Io};
use super::snapshot::{Encap, Group, Path, Route, Snapshot, Tunnel};
use super::waiting::For;
use super::{ds, flow, martian, rewrite};
use crate::aead::{self, Seal, TAG_LEN};
use crate::drops::{self, Drop};
use crate::id::{InterfaceId, PeerId};
use crate::port::{BURST, RxFrame, TxFrame};
use crate::wireguard::Session;
use crate::wireguard::message::{DATA_HEADER_LEN, DataHeader};

/// A packet with its path and its transmit frame.
struct Sealing<'s> {
    tx: TxFrame,
    exit: Exit<'s>,
    counter: Option<u64>,
    source: Span,
    /// Length of the plaintext with its padding.
    padded: u32,
    /// Position in the runs.
    run: u16,
    /// The outer header's DS byte.
    ds: u8,
}

impl Sealing<'_> {
    fn message_len(&self) -> usize {
        message_len(self.padded as usize)
    }
}

/// The packets of a batch that one session seals.
struct Run<'s> {
    peer: PeerId,
    session: &'s Session,
    packets: u64,
    counters: Range<u64>,
    sent: u64,
    bytes: u64,
}

/// How a path's messages leave this lane.
#[derive(Clone, Copy)]
pub(super) struct Exit<'s> {
    pub path: &'s Path,
    pub encap: &'s Encap,
    /// Position of the port.
    pub port: u16,
    /// Offset of the message in the transmit frame.
    pub at: u16,
}

impl Exit<'_> {
    /// The message of `len` bytes in its frame.
    pub fn message(self, tx: &mut TxFrame, len: usize) -> &mut [u8] {
        &mut tx.frame.memory_mut()[usize::from(self.at)..][..len]
    }
}

/// Carries a batch of packets out.
pub(super) fn run(io: &mut Io, cx: Context<'_>, frames: &mut [RxFrame], packets: &[Packet]) {
    let mut batch = ArrayVec::<Sealing, BURST>::new();
    let mut runs = ArrayVec::<Run, BURST>::new();
    for packet in packets {
        let bytes = packet.span.bytes_mut(frames);
        let reserved = admit(cx.snapshot, packet, bytes)
            .and_then(|()| route(cx.snapshot, packet, bytes))
            .and_then(|(group, peer)| carry(group, packet, bytes).map(|()| peer))
            .and_then(|peer| reserve(io, cx, packet, bytes, peer, &mut batch, &mut runs));
        if let Err(reason) = reserved {
            io.counters.drops.count(reason);
        }
    }
    draw(cx, &mut batch, &mut runs);
    seal(&mut batch, &runs, frames);
    transmit(io, batch, &runs);
    for run in &runs {
        if run.sent < run.packets {
            io.control.want_session(run.peer);
        }
        if run.sent > 0 {
            run.session.note_sent(cx.now, run.sent, run.bytes, run.sent);
        }
    }
}

/// 1. Whether the packet may come from where it came.
fn admit(snapshot: &Snapshot, packet: &Packet, bytes: &[u8]) -> Result<(), Drop> {
    let source = packet.ip.source(bytes);
    if martian::source(source) || martian::destination(packet.ip.destination(bytes)) {
        return Err(Drop::Martian);
    }
    let behind = snapshot.routes.lookup(source);
    let expected = match (packet.interface, behind) {
        (Some(from), Some(Route::Interface { interface, .. })) => interface == from,
        (Some(_), _) => false,
        (None, Some(Route::Tunnel(_))) => snapshot.transit,
        (None, _) => true,
    };
    if expected { Ok(()) } else { Err(Drop::SourceSpoofed) }
}

/// 2. The group of the destination and the peer that carries the flow.
fn route<'s>(snapshot: &'s Snapshot, packet: &Packet, bytes: &[u8]) -> Result<(&'s Group, PeerId), Drop> {
    let group = match (snapshot.routes.lookup(packet.ip.destination(bytes)), packet.interface) {
        (Some(Route::Tunnel(group)), _) => snapshot.groups.get(group.index()).ok_or(Drop::Unroutable)?,
        (Some(Route::Kernel | Route::Interface { .. }), Some(InterfaceId(_))) => {
            return Err(Drop::NotSteered);
        }
        _ => return Err(Drop::Unroutable),
    };
    let bucket = flow::bucket(packet.ip, bytes, group.buckets.len());
    let peer = *group.buckets.get(bucket).ok_or(Drop::Unroutable)?;
    let own = if packet.interface.is_none() {
        own_path(snapshot, group, bucket, packet.ip.source(bytes))
    } else {
        None
    };
    Ok((group, own.unwrap_or(peer)))
}

/// The path for a packet of the gateway's own (an ICMP error, say), which has the address of a tunnel: the
/// far side may take that address from this tunnel only.
fn own_path(snapshot: &Snapshot, group: &Group, bucket: usize, source: IpAddr) -> Option<PeerId> {
    let owns = |tunnel: &Tunnel| tunnel.addresses.contains(&source);
    if !snapshot.tunnels.iter().any(owns) {
        return None;
    }
    let tunnel = |peer: &PeerId| snapshot.tunnels.get(snapshot.paths.get(peer.index())?.tunnel.index());
    // Tunnels that share an address share its flows.
    let mut buckets = group.buckets.iter().cycle().skip(bucket).take(group.buckets.len());
    buckets.find(|peer| tunnel(peer).is_some_and(owns)).copied()
}

/// 3. Whether the tunnel can carry the packet; takes one off its TTL when it comes from the LAN (the
///    kernel did so when it forwarded into the TUN).
fn carry(group: &Group, packet: &Packet, bytes: &mut [u8]) -> Result<(), Drop> {
    if packet.ip.packet_len() > usize::from(group.mtu) {
        return Err(Drop::TooBig);
    }
    if packet.interface.is_some() {
        if packet.ip.options {
            return Err(Drop::NotSteered);
        }
        if packet.ip.ttl <= 1 {
            return Err(Drop::TtlExpired);
        }
        rewrite::decrement_ttl(bytes);
    }
    Ok(())
}

/// 4. A frame of the path's port, unless the packet waits.
fn reserve<'s>(
    io: &mut Io,
    cx: Context<'s>,
    packet: &Packet,
    bytes: &[u8],
    peer: PeerId,
    batch: &mut ArrayVec<Sealing<'s>, BURST>,
    runs: &mut ArrayVec<Run<'s>, BURST>,
) -> Result<(), Drop> {
    let path = cx.snapshot.paths.get(peer.index()).ok_or(Drop::Unroutable)?;
    let known = runs.iter().position(|run| run.peer == peer);
    // A session may outlive its use: until there is a new one, packets wait as if there were none.
    let session = path.session.as_deref().filter(|session| known.is_some() || session.sendable(cx.now));
    let (Some(session), Some(encap)) = (session, &path.encap) else {
        io.wait(cx, For::Session(peer), bytes);
        io.control.want_session(peer);
        return Ok(());
    };
    let exit = io.exit(path, encap)?;
    let tunnel = cx.snapshot.tunnels.get(path.tunnel.index()).ok_or(Drop::Unroutable)?;
    // A peer pads to a multiple of 16, but not beyond the tunnel's MTU (section 5.4.6).
    let len = packet.ip.packet_len();
    let padded = len.next_multiple_of(16).min(usize::from(tunnel.mtu)).max(len);
    let tx = io.reserve(exit.port, usize::from(exit.at) + message_len(padded))?;
    let run = known.unwrap_or_else(|| {
        runs.push(Run { peer, session, packets: 0, counters: 0..0, sent: 0, bytes: 0 });
        runs.len() - 1
    });
    runs[run].packets += 1;
    let ds = ds::encapsulate(packet.ip.ds, tunnel.copy_dscp);
    let (source, padded, run) = (packet.span, padded as u32, run as u16);
    batch.push(Sealing { tx, exit, counter: None, source, padded, run, ds });
    Ok(())
}

/// 5. Counters, in order of arrival. The last packets of a run go without when the session is spent.
fn draw(cx: Context<'_>, batch: &mut [Sealing<'_>], runs: &mut [Run<'_>]) {
    for run in runs.iter_mut() {
        run.counters = run.session.draw(cx.now, run.packets);
    }
    for sealing in batch {
        let run = &mut runs[usize::from(sealing.run)];
        sealing.counter = run.counters.next();
        if sealing.counter.is_some() {
            run.sent += 1;
            run.bytes += sealing.message_len() as u64;
        }
    }
}

/// 6. Message headers and sealed payloads, each right where its outer header leaves off.
fn seal(batch: &mut [Sealing<'_>], runs: &[Run<'_>], frames: &[RxFrame]) {
    let mut jobs = ArrayVec::<Seal, BURST>::new();
    for sealing in batch {
        let Some(counter) = sealing.counter else { continue };
        let session = runs[usize::from(sealing.run)].session;
        let len = sealing.message_len();
        let message = sealing.exit.message(&mut sealing.tx, len);
        jobs.push(job(session, counter, sealing.source.bytes(frames), message));
    }
    aead::seal(&mut jobs);
}

/// Writes the message's header and describes the rest of the work.
pub(super) fn job<'a>(
    session: &'a Session,
    counter: u64,
    source: &'a [u8],
    message: &'a mut [u8],
) -> Seal<'a> {
    let (header, destination) = message.split_at_mut(DATA_HEADER_LEN);
    header.copy_from_slice(&DataHeader { receiver: session.remote_index, counter }.to_bytes());
    Seal { key: &session.keys.send, counter, source, destination }
}

/// 7. Outer headers; frames without a counter go back.
fn transmit(io: &mut Io, batch: ArrayVec<Sealing<'_>, BURST>, runs: &[Run<'_>]) {
    for sealing in batch {
        let len = sealing.message_len();
        if sealing.counter.is_some() {
            io.send(sealing.exit, sealing.tx, len, sealing.ds);
        } else {
            io.ports.cancel(sealing.exit.port, sealing.tx);
            io.counters.drops.count(Drop::SessionExpired);
        }
    }
    drops::add(&io.counters.sealed, runs.iter().map(|r| r.sent).sum());
}

/// Length of a data message with that much plaintext.
pub(super) fn message_len(padded: usize) -> usize {
    DATA_HEADER_LEN + padded + TAG_LEN
}

//! From a plain packet to a sealed message on the wire:
//!
//! 1. admit: martians, source check (a packet's source must be one that its interface may send)
//! 2. route: the destination's group, and the path that the flow's bucket names
//! 3. carry: size, TTL
//! 4. reserve a transmit frame of the path's port; without a session or an egress the packet waits
//! 5. draw counters, once per session
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

/// A packet with its transmit frame.
struct Sealing {
    tx: TxFrame,
    source: Span,
    /// Length of the message.
    len: u32,
    /// Position in the runs.
    run: u16,
    /// The outer header's DS byte.
    ds: u8,
    /// There was a counter for it.
    sealed: bool,
}

/// The packets of a batch that one session seals, and what they have in common.
struct Run<'s> {
    peer: PeerId,
    session: &'s Session,
    tunnel: &'s Tunnel,
    exit: Exit<'s>,
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
    // 5. Counters.
    for run in &mut runs {
        run.counters = run.session.draw(cx.now, run.packets);
    }
    seal(&mut batch, &mut runs, frames);
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
        (Some(from), Some(Route::Hop(hop))) => {
            snapshot.hops.get(hop.index()).is_some_and(|hop| hop.interface == from)
        }
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
        (Some(Route::Kernel | Route::Hop(_)), Some(InterfaceId(_))) => {
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
    batch: &mut ArrayVec<Sealing, BURST>,
    runs: &mut ArrayVec<Run<'s>, BURST>,
) -> Result<(), Drop> {
    let known = runs.iter().position(|run| run.peer == peer);
    if known.is_none() {
        let Some(run) = start(io, cx, peer)? else {
            io.wait(cx, For::Session(peer), bytes);
            io.control.want_session(peer);
            return Ok(());
        };
        runs.push(run);
    }
    let position = known.unwrap_or(runs.len() - 1);
    let run = &mut runs[position];
    // A peer pads to a multiple of 16, but not beyond the tunnel's MTU (section 5.4.6).
    let len = packet.ip.packet_len();
    let padded = len.next_multiple_of(16).min(usize::from(run.tunnel.mtu)).max(len);
    let len = message_len(padded);
    let tx = io.reserve(run.exit.port, usize::from(run.exit.at) + len)?;
    run.packets += 1;
    let ds = ds::encapsulate(packet.ip.ds, run.tunnel.copy_dscp);
    batch.push(Sealing { tx, source: packet.span, len: len as u32, run: position as u16, ds, sealed: false });
    Ok(())
}

/// A run of the peer's; `None` when its packets must wait, for a session or for an egress.
#[cold]
fn start<'s>(io: &Io, cx: Context<'s>, peer: PeerId) -> Result<Option<Run<'s>>, Drop> {
    let path = cx.snapshot.paths.get(peer.index()).ok_or(Drop::Unroutable)?;
    // A session may outlive its use: until there is a new one, packets wait as if there were none.
    let session = path.session.as_deref().filter(|session| session.sendable(cx.now));
    let (Some(session), Some(encap)) = (session, &path.encap) else { return Ok(None) };
    let exit = io.exit(path, encap)?;
    let tunnel = cx.snapshot.tunnels.get(path.tunnel.index()).ok_or(Drop::Unroutable)?;
    Ok(Some(Run { peer, session, tunnel, exit, packets: 0, counters: 0..0, sent: 0, bytes: 0 }))
}

/// 6. Message headers and sealed payloads, each right where its outer header leaves off. Counters go in order of
///    arrival; the last packets of a run find none when the session is spent.
fn seal(batch: &mut [Sealing], runs: &mut [Run<'_>], frames: &[RxFrame]) {
    let mut jobs = ArrayVec::<Seal, BURST>::new();
    for sealing in batch {
        let run = &mut runs[usize::from(sealing.run)];
        let Some(counter) = run.counters.next() else { continue };
        sealing.sealed = true;
        run.sent += 1;
        run.bytes += u64::from(sealing.len);
        let message = run.exit.message(&mut sealing.tx, sealing.len as usize);
        jobs.push(job(run.session, counter, sealing.source.bytes(frames), message));
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
fn transmit(io: &mut Io, batch: ArrayVec<Sealing, BURST>, runs: &[Run<'_>]) {
    for sealing in batch {
        let exit = runs[usize::from(sealing.run)].exit;
        if sealing.sealed {
            io.send(exit, sealing.tx, sealing.len as usize, sealing.ds);
        } else {
            io.ports.cancel(exit.port, sealing.tx);
            io.counters.drops.count(Drop::SessionExpired);
        }
    }
    drops::add(&io.counters.sealed, runs.iter().map(|r| r.sent).sum());
}

/// Length of a data message with that much plaintext.
pub(super) fn message_len(padded: usize) -> usize {
    DATA_HEADER_LEN + padded + TAG_LEN
}

//! From a data message on the wire to a plain packet:
//!
//! 1. reserve a transmit frame where the session's last packet went
//! 2. open the batch, from the receive frames into the transmit frames
//! 3. commit the authentic counters to the replay windows, a run per session; the fresh messages are
//!    noted in the session
//! 4. check the inner packet: lengths, martians, source, ECN
//! 5. deliver: next hop, TTL, Ethernet header
//!
//! Nothing reads a plaintext before step 4; one that fails there is wiped with its frame.

use std::ops::Range;

use arrayvec::ArrayVec;

use super::deliver::{self, Place};
use super::demux::Message;
use super::lane::{Context, Io};
use super::parse::{self, Ip};
use super::snapshot::Snapshot;
use super::{ds, martian, rewrite};
use crate::aead::{self, Open, TAG_LEN};
use crate::drops::{self, Drop};
use crate::port::{BURST, Layer, RxFrame, TxFrame};
use crate::wireguard::message::DATA_HEADER_LEN;
use crate::wireguard::{Endpoint, REJECT_AFTER_MESSAGES, Session};

/// A message with the frame that its plaintext goes to.
struct Opening<'a> {
    message: &'a Message<'a>,
    tx: TxFrame,
    place: Place,
    /// Length of the plaintext.
    len: u32,
    authentic: bool,
    fresh: bool,
}

/// The messages of a batch that one session opens.
struct Run<'a> {
    session: &'a Session,
    /// Their positions in the batch.
    members: ArrayVec<u8, BURST>,
}

impl Opening<'_> {
    /// The plaintext's place in the transmit frame.
    fn plaintext(&self) -> Range<usize> {
        let start = usize::from(self.place.room);
        start..start + self.len as usize
    }
}

/// Carries a batch of messages in. `expected` has the place where each peer's last packet went.
pub(super) fn run(
    io: &mut Io,
    cx: Context<'_>,
    expected: &mut [Place],
    frames: &[RxFrame],
    messages: &[Message<'_>],
) {
    let mut batch = ArrayVec::<Opening, BURST>::new();
    let mut runs = ArrayVec::<Run, BURST>::new();
    for message in messages {
        if let Err(reason) = reserve(io, cx, expected, message, &mut batch, &mut runs) {
            io.counters.drops.count(reason);
        }
    }
    open(&mut batch, frames);
    for run in &runs {
        commit(cx, &mut batch, frames, run);
    }
    for opening in batch {
        deliver(io, cx, expected, opening);
    }
}

/// 1. A frame at the expected place, so that the plaintext usually is where it must be.
fn reserve<'a>(
    io: &mut Io,
    cx: Context<'_>,
    expected: &[Place],
    message: &'a Message<'a>,
    batch: &mut ArrayVec<Opening<'a>, BURST>,
    runs: &mut ArrayVec<Run<'a>, BURST>,
) -> Result<(), Drop> {
    let session = message.session;
    let known = runs.iter().position(|run| std::ptr::eq(run.session, session));
    if message.counter >= REJECT_AFTER_MESSAGES || (known.is_none() && !session.receivable(cx.now)) {
        return Err(Drop::SessionExpired);
    }
    let place = *expected.get(session.peer.index()).ok_or(Drop::UnknownIndex)?;
    // `DataHeader::parse` has checked that there is a tag.
    let len = message.span.len - (DATA_HEADER_LEN + TAG_LEN) as u32;
    let tx = io.reserve(place.port, usize::from(place.room) + len as usize)?;
    let run = known.unwrap_or_else(|| {
        runs.push(Run { session, members: ArrayVec::new() });
        runs.len() - 1
    });
    runs[run].members.push(batch.len() as u8);
    batch.push(Opening { message, tx, place, len, authentic: false, fresh: false });
    Ok(())
}

/// 2. Opens all messages at once.
fn open(batch: &mut [Opening<'_>], frames: &[RxFrame]) {
    let mut jobs = ArrayVec::<Open, BURST>::new();
    for opening in batch.iter_mut() {
        let range = opening.plaintext();
        let message = opening.message;
        jobs.push(Open {
            key: &message.session.keys.receive,
            counter: message.counter,
            source: &message.span.bytes(frames)[DATA_HEADER_LEN..],
            destination: &mut opening.tx.frame.memory_mut()[range],
            authentic: false,
        });
    }
    aead::open(&mut jobs);
    let authentic: ArrayVec<bool, BURST> = jobs.iter().map(|job| job.authentic).collect();
    drop(jobs);
    for (opening, authentic) in batch.iter_mut().zip(authentic) {
        opening.authentic = authentic;
    }
}

/// 3. Replay window and facts of one session.
fn commit(cx: Context<'_>, batch: &mut [Opening<'_>], frames: &[RxFrame], run: &Run<'_>) {
    let session = run.session;
    let members = || run.members.iter().map(|&member| usize::from(member));
    let authentic: ArrayVec<usize, BURST> = members().filter(|&member| batch[member].authentic).collect();
    let counters: ArrayVec<u64, BURST> =
        authentic.iter().map(|&member| batch[member].message.counter).collect();
    let mut fresh = [false; BURST];
    session.commit(&counters, &mut fresh[..counters.len()]);
    let (mut packets, mut bytes, mut data, mut last) = (0, 0, 0, None);
    for (member, fresh) in authentic.into_iter().zip(fresh) {
        let opening = &mut batch[member];
        opening.fresh = fresh;
        if fresh {
            packets += 1;
            bytes += u64::from(opening.message.span.len);
            data += u64::from(opening.len > 0);
            last = Some(opening.message);
        }
    }
    if let Some(last) = last {
        session.note_received(cx.now, packets, bytes, data, moved(last, frames));
    }
}

/// Where the message came from, if that is new and can be believed: the kernel has not checked what AF_XDP
/// delivers, and the tag covers none of the outer header.
pub(super) fn moved(message: &Message<'_>, frames: &[RxFrame]) -> Option<Endpoint> {
    let frame = &frames[usize::from(message.span.frame)];
    let outer = message.outer.map(|at| &frame.frame.bytes()[usize::from(at)..]);
    let remote = match (frame.layer, outer) {
        (Layer::Datagram { source, .. }, _) => source,
        (_, Some(packet)) => parse::udp_source(packet)?,
        (_, None) => return None,
    };
    // Checksums cover the whole datagram, and endpoints hardly ever move.
    let believed = !message.session.comes_from(remote)
        && outer.is_none_or(parse::udp_checksum_is_right)
        && remote.port() != 0
        && !martian::source(remote.ip());
    believed.then_some(Endpoint { remote })
}

/// 4 and 5. One message's packet, or the reason why there is none; its frame is accounted for.
fn deliver(io: &mut Io, cx: Context<'_>, expected: &mut [Place], mut opening: Opening<'_>) {
    let (range, place) = (opening.plaintext(), opening.place);
    let session = opening.message.session;
    if opening.fresh && range.is_empty() {
        drops::add(&io.counters.opened, 1);
        io.ports.cancel(place.port, opening.tx);
        return;
    }
    let plaintext = &mut opening.tx.frame.memory_mut()[range.clone()];
    let checked = match (opening.authentic, opening.fresh) {
        (false, _) => Err(Drop::AuthFailed),
        (true, false) => Err(Drop::Replayed),
        (true, true) => check(cx.snapshot, session, opening.message.ds, plaintext),
    };
    let delivered = match checked {
        Ok((position, ip)) => deliver::from_frame(io, cx, position, ip, place, opening.tx),
        Err(reason) => Err((opening.tx, reason)),
    };
    match delivered {
        Ok(next) => {
            drops::add(&io.counters.opened, 1);
            // What is for the gateway itself must not hold up what goes through it.
            let next = next.filter(|next| io.ports.kernel != Some(next.port));
            if let (Some(next), Some(slot)) = (next, expected.get_mut(session.peer.index())) {
                *slot = next;
            }
        }
        Err((mut tx, reason)) => {
            tx.frame.memory_mut()[range].fill(0);
            io.ports.cancel(place.port, tx);
            io.counters.drops.count(reason);
        }
    }
}

/// 4. The inner packet, with its DS byte brought up to date, and its tunnel's position.
fn check(
    snapshot: &Snapshot,
    session: &Session,
    outer_ds: u8,
    plaintext: &mut [u8],
) -> Result<(usize, Ip), Drop> {
    let ip = parse::ip(plaintext).ok_or(Drop::Malformed)?;
    let tunnel = snapshot.tunnels.get(session.tunnel.index()).ok_or(Drop::SourceNotAllowed)?;
    let source = ip.source(plaintext);
    if tunnel.allowed_ips.lookup(source) != Some(session.peer) {
        return Err(Drop::SourceNotAllowed);
    }
    if martian::source(source) || martian::destination(ip.destination(plaintext)) {
        return Err(Drop::Martian);
    }
    let ds = ds::decapsulate(ip.ds, outer_ds, tunnel.copy_dscp).ok_or(Drop::EcnIllegal)?;
    if ds != ip.ds {
        rewrite::set_ds(plaintext, ds);
    }
    Ok((tunnel.position, ip))
}

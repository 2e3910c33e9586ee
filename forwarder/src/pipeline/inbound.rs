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

use super::deliver::{self, Hint, Place};
use super::demux::Message;
use super::lane::{Context, Io};
use super::parse::{self, Ip};
use super::snapshot::Tunnel;
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
    /// Length of the plaintext.
    len: u32,
    /// Position in the runs.
    run: u16,
    /// Whether it is authentic and fresh.
    accepted: Result<(), Drop>,
}

/// The messages of a batch that one session opens, and what they have in common.
struct Run<'a> {
    session: &'a Session,
    tunnel: &'a Tunnel,
    /// Where their plaintexts go.
    place: Place,
    /// Their positions in the batch.
    members: ArrayVec<u8, BURST>,
}

impl Run<'_> {
    /// A plaintext's place in its transmit frame.
    fn plaintext(&self, opening: &Opening<'_>) -> Range<usize> {
        let start = usize::from(self.place.room);
        start..start + opening.len as usize
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
    let authentic = open(&mut batch, &runs, frames);
    for run in &runs {
        commit(cx, &mut batch, &authentic, frames, run);
    }
    let mut hint = Hint::default();
    for opening in batch {
        deliver(io, cx, expected, &mut hint, &runs[usize::from(opening.run)], opening);
    }
}

/// 1. A frame at the expected place, so that the plaintext usually is where it must be.
fn reserve<'a>(
    io: &mut Io,
    cx: Context<'a>,
    expected: &[Place],
    message: &'a Message<'a>,
    batch: &mut ArrayVec<Opening<'a>, BURST>,
    runs: &mut ArrayVec<Run<'a>, BURST>,
) -> Result<(), Drop> {
    let session = message.session;
    if message.counter >= REJECT_AFTER_MESSAGES {
        return Err(Drop::SessionExpired);
    }
    let known = runs.iter().position(|run| std::ptr::eq(run.session, session));
    if known.is_none() {
        runs.push(start(cx, expected, session)?);
    }
    let position = known.unwrap_or(runs.len() - 1);
    let run = &mut runs[position];
    // `DataHeader::parse` has checked that there is a tag.
    let len = message.span.len - (DATA_HEADER_LEN + TAG_LEN) as u32;
    let tx = io.reserve(run.place.port, usize::from(run.place.room) + len as usize)?;
    run.members.push(batch.len() as u8);
    batch.push(Opening { message, tx, len, run: position as u16, accepted: Err(Drop::AuthFailed) });
    Ok(())
}

/// A run of the session's.
#[cold]
fn start<'a>(cx: Context<'a>, expected: &[Place], session: &'a Session) -> Result<Run<'a>, Drop> {
    if !session.receivable(cx.now) {
        return Err(Drop::SessionExpired);
    }
    let tunnel = cx.snapshot.tunnels.get(session.tunnel.index()).ok_or(Drop::UnknownIndex)?;
    let place = *expected.get(session.peer.index()).ok_or(Drop::UnknownIndex)?;
    Ok(Run { session, tunnel, place, members: ArrayVec::new() })
}

/// 2. Opens all messages at once; returns which ones are authentic.
fn open(batch: &mut [Opening<'_>], runs: &[Run<'_>], frames: &[RxFrame]) -> ArrayVec<bool, BURST> {
    let mut jobs = ArrayVec::<Open, BURST>::new();
    for opening in batch.iter_mut() {
        let range = runs[usize::from(opening.run)].plaintext(opening);
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
    jobs.iter().map(|job| job.authentic).collect()
}

/// 3. Replay window and facts of one session.
fn commit(cx: Context<'_>, batch: &mut [Opening<'_>], authentic: &[bool], frames: &[RxFrame], run: &Run<'_>) {
    let (mut packets, mut bytes, mut data, mut last) = (0, 0, 0, None);
    let mut window = run.session.replay();
    for member in run.members.iter().map(|&member| usize::from(member)) {
        let opening = &mut batch[member];
        if !authentic[member] {
            continue;
        }
        opening.accepted = if window.accept(opening.message.counter) { Ok(()) } else { Err(Drop::Replayed) };
        if opening.accepted.is_ok() {
            packets += 1;
            bytes += u64::from(opening.message.span.len);
            data += u64::from(opening.len > 0);
            last = Some(opening.message);
        }
    }
    drop(window);
    if let Some(last) = last {
        run.session.note_received(cx.now, packets, bytes, data, moved(last, frames));
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
fn deliver<'s>(
    io: &mut Io,
    cx: Context<'s>,
    expected: &mut [Place],
    hint: &mut Hint<'s>,
    run: &Run<'_>,
    mut opening: Opening<'_>,
) {
    let (range, place) = (run.plaintext(&opening), run.place);
    if opening.accepted.is_ok() && range.is_empty() {
        drops::add(&io.counters.opened, 1);
        io.ports.cancel(place.port, opening.tx);
        return;
    }
    let plaintext = &mut opening.tx.frame.memory_mut()[range.clone()];
    let checked = opening.accepted.and_then(|()| check(run, opening.message.ds, plaintext));
    let delivered = match checked {
        Ok(ip) => deliver::from_frame(io, cx, hint, run.tunnel.position, ip, place, opening.tx),
        Err(reason) => Err((opening.tx, reason)),
    };
    match delivered {
        Ok(next) => {
            drops::add(&io.counters.opened, 1);
            // What is for the gateway itself must not hold up what goes through it.
            let next = next.filter(|next| io.ports.kernel != Some(next.port));
            if let (Some(next), Some(slot)) = (next, expected.get_mut(run.session.peer.index())) {
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

/// 4. The inner packet, with its DS byte brought up to date.
fn check(run: &Run<'_>, outer_ds: u8, plaintext: &mut [u8]) -> Result<Ip, Drop> {
    let ip = parse::ip(plaintext).ok_or(Drop::Malformed)?;
    let source = ip.source(plaintext);
    if run.tunnel.allowed_ips.lookup(source) != Some(run.session.peer) {
        return Err(Drop::SourceNotAllowed);
    }
    if martian::source(source) || martian::destination(ip.destination(plaintext)) {
        return Err(Drop::Martian);
    }
    let ds = ds::decapsulate(ip.ds, outer_ds, run.tunnel.copy_dscp).ok_or(Drop::EcnIllegal)?;
    if ds != ip.ds {
        rewrite::set_ds(plaintext, ds);
    }
    Ok(ip)
}

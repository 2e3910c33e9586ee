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
use crate::port::{BURST, RxFrame, TxFrame};
use crate::wireguard::message::DATA_HEADER_LEN;
use crate::wireguard::{Endpoint, REJECT_AFTER_MESSAGES, Session};

/// A message with the frame that its plaintext goes to.
struct Opening<'s> {
    message: Message<'s>,
    place: Place,
    tx: TxFrame,
    /// Position in the runs.
    run: usize,
    authentic: bool,
    fresh: bool,
}

impl Opening<'_> {
    /// The plaintext's place in the transmit frame.
    fn plaintext(&self) -> Range<usize> {
        self.place.room..self.place.room + plaintext_len(&self.message)
    }
}

/// Carries a batch of messages in. `expected` has the place where each peer's last packet went.
pub(super) fn run(
    io: &mut Io,
    cx: Context<'_>,
    expected: &mut [Place],
    frames: &[RxFrame],
    messages: ArrayVec<Message<'_>, BURST>,
) {
    let mut batch = ArrayVec::<Opening, BURST>::new();
    let mut runs = ArrayVec::<&Session, BURST>::new();
    for message in messages {
        match reserve(io, cx, expected, message, &mut runs) {
            Ok(opening) => batch.push(opening),
            Err(reason) => io.counters.drops.count(reason),
        }
    }
    open(&mut batch, frames);
    for (run, session) in runs.iter().enumerate() {
        commit(cx, &mut batch, frames, run, session);
    }
    for opening in batch {
        deliver(io, cx, expected, opening);
    }
}

/// 1. A frame at the expected place, so that the plaintext usually is where it must be.
fn reserve<'s>(
    io: &mut Io,
    cx: Context<'s>,
    expected: &[Place],
    message: Message<'s>,
    runs: &mut ArrayVec<&'s Session, BURST>,
) -> Result<Opening<'s>, Drop> {
    let session: &Session = message.session;
    let known = runs.iter().position(|r| std::ptr::eq(*r, session));
    if message.header.counter >= REJECT_AFTER_MESSAGES || (known.is_none() && !session.receivable(cx.now)) {
        return Err(Drop::SessionExpired);
    }
    let place = *expected.get(session.peer.index()).ok_or(Drop::UnknownIndex)?;
    let tx = io.reserve(place.port, place.room + plaintext_len(&message))?;
    let run = known.unwrap_or_else(|| {
        runs.push(session);
        runs.len() - 1
    });
    Ok(Opening { message, place, tx, run, authentic: false, fresh: false })
}

/// 2. Opens all messages at once.
fn open(batch: &mut [Opening<'_>], frames: &[RxFrame]) {
    let mut jobs = ArrayVec::<Open, BURST>::new();
    for opening in batch.iter_mut() {
        let range = opening.plaintext();
        let message = &opening.message;
        let bytes = &frames[message.frame].frame.bytes()[message.range.clone()];
        jobs.push(Open {
            key: &message.session.keys.receive,
            counter: message.header.counter,
            source: &bytes[DATA_HEADER_LEN..],
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
fn commit(cx: Context<'_>, batch: &mut [Opening<'_>], frames: &[RxFrame], run: usize, session: &Session) {
    let in_run = |o: &Opening<'_>| o.authentic && o.run == run;
    let counters: ArrayVec<u64, BURST> =
        batch.iter().filter(|o| in_run(o)).map(|o| o.message.header.counter).collect();
    let mut fresh = [false; BURST];
    session.commit(&counters, &mut fresh[..counters.len()]);
    let (mut packets, mut bytes, mut data, mut last) = (0, 0, 0, None);
    for (opening, fresh) in batch.iter_mut().filter(|o| in_run(o)).zip(fresh) {
        opening.fresh = fresh;
        if fresh {
            packets += 1;
            bytes += opening.message.range.len() as u64;
            data += u64::from(plaintext_len(&opening.message) > 0);
            last = Some(&opening.message);
        }
    }
    if let Some(last) = last {
        // Checksums cover the whole datagram, and endpoints hardly ever move.
        let moved = !session.comes_from(last.source);
        let endpoint = moved.then(|| endpoint(last, frames)).flatten();
        session.note_received(cx.now, packets, bytes, data, endpoint);
    }
}

/// Where the message came from, if that can be believed: the kernel has not checked what AF_XDP
/// delivers, and the tag covers none of the outer header.
pub(super) fn endpoint(message: &Message<'_>, frames: &[RxFrame]) -> Option<Endpoint> {
    let verified = message.outer.is_none_or(|at| {
        let bytes = frames[message.frame].frame.bytes();
        parse::udp_checksum_is_right(&bytes[at..])
    });
    let remote = message.source;
    (verified && remote.port() != 0 && !martian::source(remote.ip())).then_some(Endpoint { remote })
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
        Ok((position, ip)) => deliver::from_frame(io, cx, position, &ip, place, opening.tx),
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
    if tunnel.allowed_ips.lookup(ip.source) != Some(session.peer) {
        return Err(Drop::SourceNotAllowed);
    }
    if martian::source(ip.source) || martian::destination(ip.destination) {
        return Err(Drop::Martian);
    }
    let ds = ds::decapsulate(ip.ds, outer_ds, tunnel.copy_dscp).ok_or(Drop::EcnIllegal)?;
    if ds != ip.ds {
        rewrite::set_ds(plaintext, ds);
    }
    Ok((tunnel.position, ip))
}

/// Length of a message's plaintext; [`crate::wireguard::message::DataHeader::parse`] has checked that
/// there is a tag.
fn plaintext_len(message: &Message<'_>) -> usize {
    message.range.len() - DATA_HEADER_LEN - TAG_LEN
}

//! A lane: what the pipeline does with packets and data messages, reduced to sessions and waiting.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use forwarder::aead::{self, Open, Seal, TAG_LEN};
use forwarder::clock::Boottime;
use forwarder::id::{PeerId, TunnelId};
use forwarder::wireguard::message::{DATA_HEADER_LEN, DATA_MIN_LEN, DataHeader};
use forwarder::wireguard::{Endpoint, REKEY_ATTEMPT_TIME, Session};

use crate::Bug;

/// Packets that wait in one lane, at most.
const WAITING: usize = 128;
/// With [`Bug::CounterTwice`], the counters that are used again.
const EVERY: u64 = 16;

/// What lanes know; immutable.
#[derive(Default)]
pub struct Snapshot {
    /// Later ones have greater numbers.
    pub generation: u64,
    /// Every session that may be opened with.
    pub sessions: Vec<Arc<Session>>,
    /// By [`PeerId`].
    pub paths: Vec<Path>,
}

/// How a peer's packets leave.
#[derive(Clone)]
pub struct Path {
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// The session that seals.
    pub session: Option<Arc<Session>>,
    /// Where to.
    pub endpoint: Option<SocketAddr>,
}

/// One lane.
pub struct Lane {
    bug: Option<Bug>,
    snapshot: Arc<Snapshot>,
    waiting: VecDeque<Waiter>,
}

struct Waiter {
    peer: PeerId,
    packet: Vec<u8>,
    since: Boottime,
}

/// What a lane did.
#[derive(Default)]
pub struct Output {
    /// Messages for the wire.
    pub sent: Vec<Sent>,
    /// Peers that packets want a session with.
    pub wanted: Vec<PeerId>,
}

/// A message that leaves a lane.
pub struct Sent {
    /// The tunnel that it leaves by.
    pub tunnel: TunnelId,
    /// Where to.
    pub to: SocketAddr,
    /// The message.
    pub message: Vec<u8>,
    /// What sealed it: the session's index and the counter.
    pub sealed: Option<(u32, u64)>,
}

/// A message that a lane accepted.
pub struct Accepted {
    /// The session that it came in.
    pub session: Arc<Session>,
    /// The packet; empty in a keepalive.
    pub packet: Vec<u8>,
}

impl Lane {
    pub fn new(bug: Option<Bug>) -> Self {
        Self { bug, snapshot: Arc::default(), waiting: VecDeque::new() }
    }

    /// Takes a newer snapshot, sends keepalives with it, then lets all waiting packets try again.
    pub fn take(&mut self, now: Boottime, snapshot: Arc<Snapshot>, keepalives: &[PeerId]) -> Output {
        let mut out = Output::default();
        let newer = snapshot.generation > self.snapshot.generation;
        if newer {
            self.snapshot = snapshot;
        }
        for peer in keepalives {
            self.keepalive(now, *peer, &mut out);
        }
        if newer {
            for waiter in std::mem::take(&mut self.waiting) {
                let in_vain = now.since(waiter.since) > REKEY_ATTEMPT_TIME;
                let bug = self.bug == Some(Bug::DropsWaiting) && self.way(now, waiter.peer).is_some();
                if !in_vain && !bug {
                    self.send_or_wait(now, waiter, &mut out);
                }
            }
        }
        out
    }

    /// A packet for the peer.
    pub fn offer(&mut self, now: Boottime, peer: PeerId, packet: Vec<u8>) -> Output {
        let mut out = Output::default();
        self.send_or_wait(now, Waiter { peer, packet, since: now }, &mut out);
        out
    }

    /// A data message that came to the tunnel's port; `None` when it is refused.
    pub fn receive(
        &self,
        now: Boottime,
        tunnel: TunnelId,
        source: SocketAddr,
        message: &[u8],
    ) -> Option<Accepted> {
        let header = DataHeader::parse(message)?;
        let known = |session: &&Arc<Session>| session.local_index == header.receiver;
        let session = self.snapshot.sessions.iter().find(known).filter(|s| s.tunnel == tunnel)?;
        if !session.receivable(now) && self.bug != Some(Bug::AcceptsExpired) {
            return None;
        }
        let packet = open(session, header.counter, &message[DATA_HEADER_LEN..])?;
        let (bytes, data) = (message.len() as u64, u64::from(!packet.is_empty()));
        let endpoint = Some(Endpoint { remote: source });
        if self.bug == Some(Bug::RoamsTooEarly) {
            session.note_received(now, 1, bytes, data, endpoint);
        }
        if !session.replay().accept(header.counter) && self.bug != Some(Bug::NoReplayWindow) {
            return None;
        }
        session.note_received(now, 1, bytes, data, endpoint);
        Some(Accepted { session: Arc::clone(session), packet })
    }

    fn send_or_wait(&mut self, now: Boottime, waiter: Waiter, out: &mut Output) {
        if let Some((path, session, to)) = self.way(now, waiter.peer) {
            let sent = self.seal(now, session, &waiter.packet);
            out.sent.extend(sent.map(|(message, counter)| {
                let sealed = Some((session.local_index, counter));
                Sent { tunnel: path.tunnel, to, message, sealed }
            }));
            return;
        }
        out.wanted.push(waiter.peer);
        if let Some(leak) = self.leak(&waiter) {
            out.sent.push(leak);
            return;
        }
        if self.waiting.len() == WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(waiter);
    }

    fn keepalive(&self, now: Boottime, peer: PeerId, out: &mut Output) {
        let Some((path, session, to)) = self.way(now, peer) else { return };
        out.sent.extend(self.seal(now, session, &[]).map(|(message, counter)| {
            let sealed = Some((session.local_index, counter));
            Sent { tunnel: path.tunnel, to, message, sealed }
        }));
    }

    /// How a packet for the peer can leave now.
    fn way(&self, now: Boottime, peer: PeerId) -> Option<(&Path, &Session, SocketAddr)> {
        let path = self.snapshot.paths.get(peer.index())?;
        let session = path.session.as_deref().filter(|session| session.sendable(now))?;
        Some((path, session, path.endpoint?))
    }

    fn seal(&self, now: Boottime, session: &Session, packet: &[u8]) -> Option<(Vec<u8>, u64)> {
        let mut counter = session.draw(now, 1).next()?;
        if self.bug == Some(Bug::CounterTwice) && counter % EVERY == 1 {
            counter -= 1;
        }
        let padded = packet.len().next_multiple_of(16);
        let mut message = vec![0; DATA_MIN_LEN + padded];
        let header = DataHeader { receiver: session.remote_index, counter };
        message[..DATA_HEADER_LEN].copy_from_slice(&header.to_bytes());
        let destination = &mut message[DATA_HEADER_LEN..];
        aead::seal(&mut [Seal { key: &session.keys.send, counter, source: packet, destination }]);
        session.note_sent(now, 1, message.len() as u64, u64::from(!packet.is_empty()));
        Some((message, counter))
    }

    fn leak(&self, waiter: &Waiter) -> Option<Sent> {
        let path = self.snapshot.paths.get(waiter.peer.index())?;
        let (to, message) = (path.endpoint?, waiter.packet.clone());
        (self.bug == Some(Bug::SendsInClear)).then_some(Sent {
            tunnel: path.tunnel,
            to,
            message,
            sealed: None,
        })
    }
}

fn open(session: &Session, counter: u64, source: &[u8]) -> Option<Vec<u8>> {
    let mut packet = vec![0; source.len() - TAG_LEN];
    let key = &session.keys.receive;
    let mut jobs = [Open { key, counter, source, destination: &mut packet, authentic: false }];
    aead::open(&mut jobs);
    jobs[0].authentic.then_some(packet)
}

//! A session: the two keys of a finished handshake, the send counter, the replay window, and the facts
//! that workers leave for the control thread.

use std::net::SocketAddr;
use std::ops::{DerefMut, Range};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam::utils::CachePadded;

use super::replay::ReplayWindow;
use super::traffic::Traffic;
use super::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES};
use crate::aead;
use crate::clock::Boottime;
use crate::id::{PeerId, TunnelId};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

/// Age at which nothing is sent with a session any more. The responder's is older by the time that its
/// response travelled, and a message travels, too: what we sent later it might refuse. So it waits for the
/// next session.
const SEND_UNTIL: Duration = REJECT_AFTER_TIME.saturating_sub(Duration::from_secs(1));

/// What a handshake yields.
#[derive(Debug)]
pub struct SessionKeys {
    /// Key for packets to the peer.
    pub send: aead::Key,
    /// Key for packets from the peer.
    pub receive: aead::Key,
}

impl SessionKeys {
    /// From the 32 bytes of each.
    pub fn new(send: &[u8; 32], receive: &[u8; 32]) -> Self {
        Self { send: aead::Key::new(send), receive: aead::Key::new(receive) }
    }
}

/// Which side of the handshake we were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We sent the initiation.
    Initiator,
    /// We sent the response.
    Responder,
}

/// Where authentic packets of a peer come from: the outer source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address and UDP port.
    pub remote: SocketAddr,
}

/// One session with one peer; shared by all threads.
#[derive(Debug)]
pub struct Session {
    /// The tunnel that it belongs to.
    pub tunnel: TunnelId,
    /// The peer that it belongs to.
    pub peer: PeerId,
    /// Index by which the peer addresses us.
    pub local_index: u32,
    /// Index by which we address the peer.
    pub remote_index: u32,
    /// Keys.
    pub keys: SessionKeys,
    /// Our side of the handshake.
    pub role: Role,
    /// When the handshake was finished.
    pub created: Boottime,
    traffic: Arc<Traffic>,
    confirmed: AtomicBool,
    sent: CachePadded<AtomicU64>,
    replay: CachePadded<Mutex<ReplayWindow>>,
}

/// Who a session is between: the first fields of a [`Session`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId {
    /// The tunnel that it belongs to.
    pub tunnel: TunnelId,
    /// The peer that it belongs to.
    pub peer: PeerId,
    /// Index by which the peer addresses us.
    pub local_index: u32,
    /// Index by which we address the peer.
    pub remote_index: u32,
}

impl Session {
    /// A session of age zero at `now`. `traffic` is the peer's, shared by all its sessions.
    pub fn new(id: SessionId, keys: SessionKeys, role: Role, now: Boottime, traffic: Arc<Traffic>) -> Self {
        Self {
            tunnel: id.tunnel,
            peer: id.peer,
            local_index: id.local_index,
            remote_index: id.remote_index,
            keys,
            role,
            created: now,
            traffic,
            confirmed: AtomicBool::new(false),
            sent: CachePadded::new(AtomicU64::new(0)),
            replay: CachePadded::new(Mutex::new(ReplayWindow::new())),
        }
    }

    /// Draws up to `n` consecutive counters for packets that will be sent at `now`. Shorter than `n`
    /// near the message limit; empty when the session is too old or spent. A drawn counter is used
    /// once or never.
    pub fn draw(&self, now: Boottime, n: u64) -> Range<u64> {
        if self.age(now) >= SEND_UNTIL {
            return 0..0;
        }
        let mut next = self.sent.load(Relaxed);
        loop {
            let end = next + n.min(REJECT_AFTER_MESSAGES - next);
            match self.sent.compare_exchange_weak(next, end, Relaxed, Relaxed) {
                Ok(_) => return next..end,
                Err(actual) => next = actual,
            }
        }
    }

    /// Whether [`Self::draw`] would yield a counter at `now`.
    pub fn sendable(&self, now: Boottime) -> bool {
        self.age(now) < SEND_UNTIL && self.sent.load(Relaxed) < REJECT_AFTER_MESSAGES
    }

    /// Whether packets may still be opened with this session at `now`.
    pub fn receivable(&self, now: Boottime) -> bool {
        self.age(now) < REJECT_AFTER_TIME
    }

    /// The replay window, locked: authentic messages pass it in order of arrival, and those that it accepts are
    /// noted by [`Self::note_received`].
    #[inline]
    pub fn replay(&self) -> impl DerefMut<Target = ReplayWindow> {
        self.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `packets` messages with `bytes` bytes of UDP payload were sent, `data` of which were
    /// not empty.
    pub fn note_sent(&self, now: Boottime, packets: u64, bytes: u64, data: u64) {
        self.traffic.sent.count(packets, bytes);
        self.traffic.sent.mark(now, data > 0);
    }

    /// Whether the peer's messages are known to come from `remote`.
    pub fn comes_from(&self, remote: SocketAddr) -> bool {
        self.traffic.source.known_is(remote)
    }

    /// Notes that `packets` fresh, authentic messages with `bytes` bytes of UDP payload came in, `data` of
    /// which were not empty, the latest from `endpoint`, if its outer checksums were right. The first ones confirm
    /// the session.
    pub fn note_received(
        &self,
        now: Boottime,
        packets: u64,
        bytes: u64,
        data: u64,
        endpoint: Option<Endpoint>,
    ) {
        if !self.confirmed() {
            self.confirmed.store(true, Relaxed);
        }
        self.traffic.received.count(packets, bytes);
        self.traffic.received.mark(now, data > 0);
        if let Some(endpoint) = endpoint {
            self.traffic.source.note(endpoint);
        }
    }

    /// Whether a fresh, authentic message came in: the peer has the keys, too.
    pub fn confirmed(&self) -> bool {
        self.confirmed.load(Relaxed)
    }

    /// Whether so many messages were sent that the session must be renewed.
    pub fn spent(&self) -> bool {
        self.sent.load(Relaxed) >= REKEY_AFTER_MESSAGES
    }

    /// Sends nothing more, whoever still has the session.
    pub fn end(&self) {
        self.sent.store(REJECT_AFTER_MESSAGES, Relaxed);
    }

    /// Sets how many messages were sent; returns how many it were before.
    #[cfg(test)]
    pub(super) fn preset_sent(&self, messages: u64) -> u64 {
        self.sent.swap(messages, Relaxed)
    }

    fn age(&self, now: Boottime) -> Duration {
        now.since(self.created)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn session() -> Session {
        let id = SessionId { tunnel: TunnelId(0), peer: PeerId(0), local_index: 1, remote_index: 2 };
        let keys = SessionKeys::new(&[1; 32], &[2; 32]);
        Session::new(id, keys, Role::Initiator, Boottime::from_nanos(5), Arc::default())
    }

    fn at(seconds: u64) -> Boottime {
        Boottime::from_nanos(5) + Duration::from_secs(seconds)
    }

    /// Section 6.1, Reject-After-Time; and a message must arrive before.
    #[test]
    fn receives_for_180_seconds_and_sends_a_second_less() {
        let session = session();
        let before = |at: Boottime| Boottime::from_nanos(at.nanos() - 1);
        assert!(session.sendable(before(at(179))) && session.receivable(before(at(180))));
        assert_eq!(session.draw(before(at(179)), 3), 0..3);
        assert!(session.draw(at(179), 3).is_empty() && !session.sendable(at(179)));
        assert!(!session.receivable(at(180)));
    }

    /// Section 6.1, Reject-After-Messages: eight threads share the last counters, each drawn once.
    #[test]
    fn counters_near_the_limit_are_drawn_once() {
        const LEFT: u64 = 10_000;
        let session = session();
        session.sent.store(REJECT_AFTER_MESSAGES - LEFT, Relaxed);
        let drawn: Vec<u64> = std::thread::scope(|scope| {
            let draw = |n: u64| {
                let session = &session;
                scope.spawn(move || (0..LEFT).flat_map(|_| session.draw(at(1), n)).collect::<Vec<_>>())
            };
            let threads: Vec<_> = (1..=8).map(draw).collect();
            threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect()
        });
        let unique: HashSet<u64> = drawn.iter().copied().collect();
        assert_eq!((drawn.len() as u64, unique.len() as u64), (LEFT, LEFT));
        assert_eq!(unique.iter().max(), Some(&(REJECT_AFTER_MESSAGES - 1)));
        assert!(session.draw(at(1), 1).is_empty());
    }

    /// Even while others draw from it.
    #[test]
    fn nothing_is_drawn_from_a_session_that_has_ended() {
        let session = session();
        std::thread::scope(|scope| {
            let lane =
                scope.spawn(|| (0..1_000_000).take_while(|_| !session.draw(at(1), 1).is_empty()).count());
            session.end();
            assert!(session.draw(at(1), 1).is_empty() && !session.sendable(at(1)));
            lane.join().expect("no panic");
            assert!(session.draw(at(1), 1).is_empty());
        });
    }

    /// Section 6.1, Rekey-After-Messages.
    #[test]
    fn spent_after_2_to_the_60_messages() {
        let session = session();
        session.sent.store(REKEY_AFTER_MESSAGES - 1, Relaxed);
        assert!(!session.spent());
        assert_eq!(session.draw(at(1), 1).count(), 1);
        assert!(session.spent());
    }

    /// Section 5.4.6: a counter counts once.
    #[test]
    fn the_window_tells_fresh_from_replayed() {
        let session = session();
        let accepts = |counter| session.replay().accept(counter);
        assert!(!accepts(REJECT_AFTER_MESSAGES));
        assert_eq!([3, 1, 3, 2].map(accepts), [true, true, false, true]);
    }

    /// Packets and bytes are counted in one place, when the packet has been checked; and it is then that the peer
    /// is known to have the keys (section 5.4.5).
    #[test]
    fn a_received_packet_is_counted_with_its_bytes_and_confirms_the_session() {
        let session = session();
        let received = || (session.traffic.received.packets(), session.traffic.received.bytes());
        assert!([0, 1].into_iter().all(|counter| session.replay().accept(counter)));
        assert_eq!((received(), session.confirmed()), ((0, 0), false));
        session.note_received(at(1), 2, 96, 1, None);
        assert_eq!((received(), session.confirmed()), ((2, 96), true));
    }
}

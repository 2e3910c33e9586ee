//! A peer's sessions (section 6.3 and the kernel's `noise.c`): previous, current and next, and what moves them.

use std::sync::Arc;
use std::time::Duration;

use super::session::Session;
use super::shared::Index;
use crate::clock::Boottime;

/// A peer's sessions: what to send with, and what to accept.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    /// The one before current; accepted only.
    pub previous: Option<Arc<Session>>,
    /// Sent with and accepted.
    pub current: Option<Arc<Session>>,
    /// A responder's new session until its first authentic data; accepted only.
    pub next: Option<Arc<Session>>,
}

/// The slots with what they hold.
#[derive(Default)]
pub(super) struct HeldSlots {
    previous: Option<Held>,
    current: Option<Held>,
    next: Option<Held>,
}

/// A session in a slot; its index is free when it leaves.
pub(super) struct Held {
    pub(super) session: Arc<Session>,
    pub(super) _index: Index,
}

impl HeldSlots {
    /// A responder's new session: it waits for the first data.
    pub(super) fn put_next(&mut self, session: Held) {
        self.previous = None;
        self.next = Some(session);
    }

    /// An initiator's new session: it is current at once.
    pub(super) fn put_current(&mut self, session: Held, now: Boottime) {
        // The peer goes on sending with current. A next that it has not used for the 5 s before our initiation
        // comes from initiations that crossed; the kernel keeps that one instead, and loses packets.
        let crossed = self.next.take();
        self.previous = self.current.take().filter(|held| held.session.receivable(now)).or(crossed);
        self.current = Some(session);
    }

    /// Makes the responder's next session current when the peer has used it; whether that is so.
    pub(super) fn promote_confirmed(&mut self) -> bool {
        let confirmed = self.next.as_ref().is_some_and(|next| next.session.confirmed());
        if confirmed {
            self.previous = self.current.take();
            self.current = self.next.take();
        }
        confirmed
    }

    /// Wipes all sessions. Lanes that still have them send nothing more.
    pub(super) fn clear(&mut self) {
        for held in [&self.previous, &self.current, &self.next].into_iter().flatten() {
            held.session.end();
        }
        *self = Self::default();
    }

    pub(super) fn slots(&self) -> Slots {
        let session = |held: &Option<Held>| held.as_ref().map(|held| Arc::clone(&held.session));
        Slots {
            previous: session(&self.previous),
            current: session(&self.current),
            next: session(&self.next),
        }
    }

    pub(super) fn current(&self) -> Option<&Session> {
        self.current.as_ref().map(|held| &*held.session)
    }

    /// Whether current can be sent with.
    pub(super) fn sendable(&self, now: Boottime) -> bool {
        self.current().is_some_and(|current| current.sendable(now))
    }

    /// Whether a session younger than `age` waits for the peer's first data, and nothing can be sent until then.
    pub(super) fn unconfirmed(&self, now: Boottime, age: Duration) -> bool {
        let fresh = |held: &Held| now.since(held.session.created) < age;
        !self.sendable(now) && self.next.as_ref().is_some_and(fresh)
    }

    /// Whether there is a session that traffic can change: current or next.
    pub(super) fn any(&self) -> bool {
        self.current.is_some() || self.next.is_some()
    }
}

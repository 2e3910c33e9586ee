//! The control thread as the lanes reach it: bounded queues and level-triggered flags.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use tokio::sync::Notify;

use crate::clock::Boottime;
use crate::id::{InterfaceId, MAX_PEER_IDS, PeerId};
use crate::pipeline::Control;
use crate::pipeline::control::Handshake;

/// Handshake messages that may wait, the kernel's `MAX_QUEUED_INCOMING_HANDSHAKES`.
const MAX_HANDSHAKES: usize = 4096;
/// Waiting handshake messages from which on the gateway counts as under load, as the kernel does.
const LOADED: usize = MAX_HANDSHAKES / 8;
/// How long the gateway counts as under load after its queue was long, as in the kernel.
const LOAD_LATCH: Duration = Duration::from_secs(1);
/// Next hops that may wait for a look at their MAC address.
const MAX_NEIGHBOURS: usize = 256;

/// Whether the gateway is under load: cookies are demanded then.
#[derive(Debug, Default)]
pub struct Load {
    until: Boottime,
}

impl Load {
    /// Whether it is under load at `now`, when that many handshake messages wait.
    pub fn look(&mut self, waiting: usize, now: Boottime) -> bool {
        if waiting >= LOADED {
            self.until = now + LOAD_LATCH;
        }
        now < self.until
    }
}

/// What lanes leave for the control thread.
#[derive(Debug)]
pub struct Handle {
    handshakes: ArrayQueue<Handshake>,
    neighbours: ArrayQueue<(InterfaceId, IpAddr)>,
    sessions: Box<[AtomicBool]>,
    wake: Notify,
}

impl Handle {
    /// Nothing is left yet.
    pub fn new() -> Self {
        Self {
            handshakes: ArrayQueue::new(MAX_HANDSHAKES),
            neighbours: ArrayQueue::new(MAX_NEIGHBOURS),
            sessions: (0..MAX_PEER_IDS).map(|_| AtomicBool::new(false)).collect(),
            wake: Notify::new(),
        }
    }

    /// Waits until a lane left something.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// The next handshake message.
    pub fn next_handshake(&self) -> Option<Handshake> {
        self.handshakes.pop()
    }

    /// How many handshake messages wait.
    pub fn waiting_handshakes(&self) -> usize {
        self.handshakes.len()
    }

    /// Makes [`Self::woken`] return once more if handshake messages are left for the next turn.
    pub fn wake_if_any(&self) {
        if !self.handshakes.is_empty() {
            self.wake.notify_one();
        }
    }

    /// The next hop whose MAC address is wanted next.
    pub fn next_neighbour(&self) -> Option<(InterfaceId, IpAddr)> {
        self.neighbours.pop()
    }

    /// As if packets waited for a session with the peer.
    pub fn want(&self, peer: PeerId) {
        self.want_session(peer);
    }

    /// Whether packets wait for a session with the peer; asking clears the flag.
    pub fn take_session_wanted(&self, peer: PeerId) -> bool {
        self.sessions[peer.index()].swap(false, Ordering::AcqRel)
    }
}

impl Default for Handle {
    fn default() -> Self {
        Self::new()
    }
}

impl Control for Handle {
    fn want_session(&self, peer: PeerId) {
        if !self.sessions[peer.index()].swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    fn want_neighbour(&self, interface: InterfaceId, address: IpAddr) {
        // A full queue loses nothing: the lane asks again with the next packet.
        if self.neighbours.push((interface, address)).is_ok() {
            self.wake.notify_one();
        }
    }

    fn handshake(&self, message: Handshake) -> bool {
        let taken = self.handshakes.push(message).is_ok();
        if taken {
            self.wake.notify_one();
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use arrayvec::ArrayVec;

    use super::*;
    use crate::id::TunnelId;

    /// The kernel: under load from 512 of 4096 waiting handshake messages on, and for a second after that.
    #[test]
    fn load_begins_at_512_and_lasts_a_second() {
        let at = |millis: u64| Boottime(Duration::from_millis(5000 + millis));
        let mut load = Load::default();
        assert!(!load.look(511, at(0)));
        assert!(load.look(512, at(1)));
        assert!(load.look(0, at(1000)));
        assert!(!load.look(0, at(1001)));
    }

    /// The kernel's queue: 4096 handshake messages, and the next one is refused.
    #[test]
    fn handshakes_are_queued_up_to_4096() {
        let handle = Handle::new();
        let source = "192.0.2.1:1".parse().unwrap();
        let message = || Handshake { tunnel: TunnelId(0), source, message: ArrayVec::new() };
        assert!((0..4096).all(|_| handle.handshake(message())));
        assert!(!handle.handshake(message()));
        assert_eq!(handle.waiting_handshakes(), 4096);
    }
}

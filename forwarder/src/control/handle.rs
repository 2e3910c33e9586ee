//! The control thread as the lanes reach it: bounded queues and level-triggered flags.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;
use tokio::sync::Notify;

use crate::id::{InterfaceId, MAX_PEER_IDS, PeerId};
use crate::pipeline::Control;
use crate::pipeline::control::Handshake;

/// Handshake messages that may wait, the kernel's `MAX_QUEUED_INCOMING_HANDSHAKES`.
const MAX_HANDSHAKES: usize = 4096;
/// Waiting handshake messages from which on the gateway counts as under load, as the kernel does.
const LOADED: usize = MAX_HANDSHAKES / 8;
/// Next hops that may wait for a look at their MAC address.
const MAX_NEIGHBOURS: usize = 256;

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

    /// Whether so many handshake messages wait that cookies are due.
    pub fn is_loaded(&self) -> bool {
        self.handshakes.len() >= LOADED
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

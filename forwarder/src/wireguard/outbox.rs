//! What a tunnel wants done: datagrams to send, and what its owner must act on.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::HANDSHAKE_DS;
use crate::id::PeerId;

/// A datagram to send.
#[derive(Clone, Debug)]
pub struct Transmit {
    /// The peer it is for; `None` for a cookie reply, which goes back by the socket it came from.
    pub peer: Option<PeerId>,
    /// Where to.
    pub to: SocketAddr,
    /// The WireGuard message.
    pub payload: Vec<u8>,
}

impl Transmit {
    /// The outer header's DS byte. Cookie replies carry no mark, as the kernel's do not.
    pub fn ds(&self) -> u8 {
        if self.peer.is_some() { HANDSHAKE_DS } else { 0 }
    }
}

/// Something the owner must act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer's session slots changed: publish them to the workers.
    Sessions(PeerId),
    /// The peer's endpoint moved: publish it, look up its egress.
    Endpoint(PeerId),
    /// An empty message is due to the peer on its current session.
    Keepalive(PeerId),
    /// Initiations went unanswered for [`super::REKEY_ATTEMPT_TIME`]: drop what waits for the peer.
    GaveUp(PeerId),
}

impl Event {
    /// Whom it concerns.
    pub fn peer(self) -> PeerId {
        match self {
            Self::Sessions(peer) | Self::Endpoint(peer) | Self::Keepalive(peer) | Self::GaveUp(peer) => peer,
        }
    }
}

/// What is left for the owner, oldest first.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) transmits: VecDeque<Transmit>,
    pub(super) events: VecDeque<Event>,
    #[cfg(feature = "keylog")]
    pub(super) secrets: VecDeque<super::HandshakeSecrets>,
}

impl Outbox {
    /// Forgets what concerns a peer that is no more.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.transmits.retain(|transmit| transmit.peer != Some(peer));
        self.events.retain(|event| event.peer() != peer);
    }
}

//! A tunnel and its peers: handshakes, session slots, timers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::CryptoRng;

use super::Session;
use crate::clock::{Boottime, Wall};
use crate::id::{PeerId, TunnelId};

/// A Curve25519 private key; wiped when dropped, never printed.
pub struct PrivateKey(pub [u8; 32]);

/// A Curve25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// What a tunnel needs to know of a peer.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// The peer's name in all tables.
    pub id: PeerId,
    /// Its public key.
    pub public_key: PublicKey,
    /// The preshared key, all zero when there is none.
    pub preshared_key: [u8; 32],
    /// Where to send until authentic packets say otherwise.
    pub endpoint: Option<SocketAddr>,
    /// Interval of unasked keepalives.
    pub persistent_keepalive: Option<Duration>,
}

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

/// A peer's sessions (section 6.3): what to send with, and what to accept.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    /// The one before current; accepted only.
    pub previous: Option<Arc<Session>>,
    /// Sent with and accepted.
    pub current: Option<Arc<Session>>,
    /// A responder's new session until its first authentic data; accepted only.
    pub next: Option<Arc<Session>>,
}

/// Why a handshake message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not a message of type 1 to 3 with its exact length.
    Malformed,
    /// Its mac1 is wrong.
    Mac1,
    /// Under load and without a valid mac2: a cookie reply was queued or its rate was exceeded.
    CookieRequired,
    /// Under load and the source exceeded its rate.
    RateLimited,
    /// Decryption failed, or the static key is unknown.
    Unauthenticated,
    /// The timestamp is not greater than the greatest seen.
    Replayed,
    /// Another initiation of the peer came less than 20 ms before.
    TooSoon,
    /// No handshake waits for this response or cookie.
    Unexpected,
}

/// What `wg show` would tell of a peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Where packets go now.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was finished.
    pub last_handshake: Option<(Boottime, Wall)>,
    /// Bytes of UDP payload received, over all sessions.
    pub rx_bytes: u64,
    /// Bytes of UDP payload sent, over all sessions.
    pub tx_bytes: u64,
}

/// One tunnel: a private key and its peers.
pub struct Tunnel;

impl Tunnel {
    /// A tunnel without peers.
    pub fn new(_id: TunnelId, _key: PrivateKey, _now: Boottime, _rng: &mut dyn CryptoRng) -> Self {
        unimplemented!()
    }

    /// Adds a peer; `false` when its key is the tunnel's own or already there.
    pub fn add_peer(&mut self, _config: PeerConfig, _now: Boottime) -> bool {
        unimplemented!()
    }

    /// Handles a handshake message (types 1 to 3) that `source` sent.
    ///
    /// # Errors
    /// Why it was refused; nothing of the peer's state has changed then.
    pub fn receive(
        &mut self,
        _now: Boottime,
        _wall: Wall,
        _rng: &mut dyn CryptoRng,
        _source: SocketAddr,
        _message: &[u8],
        _under_load: bool,
    ) -> Result<(), Refusal> {
        unimplemented!()
    }

    /// Starts a handshake with the peer unless one is under way or its session is fresh: data waits.
    pub fn want_session(&mut self, _peer: PeerId, _now: Boottime, _wall: Wall, _rng: &mut dyn CryptoRng) {
        unimplemented!()
    }

    /// Reads the facts of all sessions and runs the timers that are due.
    pub fn handle_timeout(&mut self, _now: Boottime, _wall: Wall, _rng: &mut dyn CryptoRng) {
        unimplemented!()
    }

    /// When to call [`Self::handle_timeout`] next, and why. Facts are swept at least once a second
    /// while there is a session.
    pub fn poll_timeout(&self) -> Option<(Boottime, &'static str)> {
        unimplemented!()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        unimplemented!()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        unimplemented!()
    }

    /// The peer's sessions now.
    pub fn slots(&self, _peer: PeerId) -> Slots {
        unimplemented!()
    }

    /// The peer's endpoint, handshake and bytes.
    pub fn status(&self, _peer: PeerId) -> PeerStatus {
        unimplemented!()
    }
}

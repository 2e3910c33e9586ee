//! A tunnel and its peers: handshakes, session slots, timers.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::CryptoRng;
use zeroize::Zeroize;

use super::context::Context;
use super::crypto::{PrivateKey, PublicKey};
use super::door::{Door, Stopped};
use super::message::Handshake;
use super::noise::{self, Identity, PeerKeys};
use super::outbox::{Event, Outbox, Transmit};
use super::peer::Peer;
use super::shared::Shared;
use super::slots::Slots;
use crate::clock::{Boottime, Wall};
use crate::id::{PeerId, TunnelId};
use crate::sync::lock;

/// What a tunnel needs to know of a peer.
#[derive(Clone)]
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

impl Drop for PeerConfig {
    fn drop(&mut self) {
        self.preshared_key.zeroize();
    }
}

impl std::fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut fields = f.debug_struct("PeerConfig");
        fields.field("id", &self.id).field("public_key", &self.public_key);
        fields.field("endpoint", &self.endpoint).field("persistent_keepalive", &self.persistent_keepalive);
        fields.finish_non_exhaustive()
    }
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
    /// The timestamp is not greater than the greatest seen, or another tunnel of the same keys took
    /// the message.
    Replayed,
    /// Another initiation of the peer came less than 20 ms before.
    TooSoon,
    /// No handshake waits for this response or cookie.
    Unexpected,
}

impl From<Stopped> for Refusal {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Malformed => Self::Malformed,
            Stopped::Mac1 => Self::Mac1,
            Stopped::CookieRequired(_) => Self::CookieRequired,
            Stopped::RateLimited => Self::RateLimited,
        }
    }
}

/// What `wg show` would tell of a peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Where packets go now.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was finished.
    pub last_handshake: Option<(Boottime, Wall)>,
    /// Data messages received, empty ones included, over all sessions.
    pub rx_packets: u64,
    /// Bytes of UDP payload received, over all sessions.
    pub rx_bytes: u64,
    /// Data messages sent, empty ones included, over all sessions.
    pub tx_packets: u64,
    /// Bytes of UDP payload sent, over all sessions.
    pub tx_bytes: u64,
    /// Since when our initiations go unanswered and nothing else is heard, either.
    pub silent_since: Option<Boottime>,
}

/// One tunnel: a private key and its peers.
pub struct Tunnel {
    id: TunnelId,
    identity: Identity,
    door: Arc<Mutex<Door>>,
    shared: Arc<Shared>,
    peers: BTreeMap<PeerId, Peer>,
    by_key: HashMap<PublicKey, PeerId>,
    outbox: Outbox,
}

impl Tunnel {
    /// A tunnel without peers; an all-zero key stands for none. `shared` is the same for all tunnels of the process.
    pub fn new(
        id: TunnelId,
        key: &PrivateKey,
        shared: Arc<Shared>,
        now: Boottime,
        rng: &mut dyn CryptoRng,
    ) -> Self {
        let identity = identity(key, rng);
        Self {
            id,
            door: Arc::new(Mutex::new(Door::new(&identity.public, now, rng))),
            identity,
            shared,
            peers: BTreeMap::new(),
            by_key: HashMap::new(),
            outbox: Outbox::default(),
        }
    }

    /// Adds a peer; `false` when its key is the tunnel's own, already there or of small order.
    pub fn add_peer(&mut self, config: &PeerConfig, now: Boottime) -> bool {
        let key = config.public_key;
        if key == self.identity.public || self.by_key.contains_key(&key) {
            return false;
        }
        let Some(keys) = PeerKeys::new(&self.identity, key, &config.preshared_key) else { return false };
        self.by_key.insert(key, config.id);
        self.peers.insert(config.id, Peer::new(keys, config, now));
        true
    }

    /// Removes a peer with its sessions, and what was to be sent to it or told of it; `false` when there is none.
    pub fn remove_peer(&mut self, peer: PeerId) -> bool {
        let Some(removed) = self.peers.remove(&peer) else { return false };
        self.by_key.remove(&removed.public_key());
        self.outbox.forget(peer);
        true
    }

    /// Changes the tunnel's key: all sessions and handshakes end. What was seen of the peers stays: their
    /// greatest timestamps, endpoints and traffic.
    pub fn set_private_key(&mut self, key: &PrivateKey, now: Boottime, rng: &mut dyn CryptoRng) {
        self.identity = identity(key, rng);
        lock(&self.door).set_key(&self.identity.public, now, rng);
        for peer in self.peers.values_mut() {
            peer.set_identity(&self.identity, &mut self.outbox);
        }
    }

    /// All sessions and handshakes end, for lanes that still have them, too; nothing else is forgotten.
    pub fn end_sessions(&mut self) {
        for peer in self.peers.values_mut() {
            peer.end_sessions(&mut self.outbox);
        }
    }

    /// Changes a peer's preshared key, all zero for none; it holds from the next handshake.
    pub fn set_preshared_key(&mut self, peer: PeerId, key: &[u8; 32]) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.set_preshared_key(key);
        }
    }

    /// Sends to this address from now on, until authentic packets say otherwise.
    pub fn set_endpoint(&mut self, peer: PeerId, endpoint: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.set_endpoint(endpoint, &mut self.outbox);
        }
    }

    /// Changes the interval of unasked keepalives, counted from the last message.
    pub fn set_persistent_keepalive(&mut self, peer: PeerId, interval: Option<Duration>, now: Boottime) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.set_persistent_keepalive(interval, now);
        }
    }

    /// Whether the peer's endpoint moves with its messages. One without an endpoint gets its first one, anyway.
    pub fn set_roaming(&mut self, peer: PeerId, roaming: bool) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.set_roaming(roaming);
        }
    }

    /// The door, for whoever receives the messages: what it lets pass goes to [`Self::admitted`].
    pub fn door(&self) -> Arc<Mutex<Door>> {
        Arc::clone(&self.door)
    }

    /// Handles a handshake message (types 1 to 3) that `source` sent: door and all.
    ///
    /// # Errors
    /// Why it was refused; nothing of the peer's state has changed then.
    pub fn receive(
        &mut self,
        now: Boottime,
        wall: Wall,
        rng: &mut dyn CryptoRng,
        source: SocketAddr,
        message: &[u8],
        under_load: bool,
    ) -> Result<(), Refusal> {
        let admitted = {
            let mut door = lock(&self.door);
            door.admit(now, rng, source, message, under_load)
        };
        match admitted {
            Ok(message) => self.admitted(now, wall, rng, source, &message),
            Err(stopped) => {
                if let Stopped::CookieRequired(Some(reply)) = stopped {
                    let payload = reply.to_bytes().to_vec();
                    self.outbox.transmits.push_back(Transmit { peer: None, to: source, payload });
                }
                Err(stopped.into())
            }
        }
    }

    /// Handles a handshake message of `source` that the door has let pass.
    ///
    /// # Errors
    /// Why it was refused; nothing of the peer's state has changed then.
    pub fn admitted(
        &mut self,
        now: Boottime,
        wall: Wall,
        rng: &mut dyn CryptoRng,
        source: SocketAddr,
        message: &Handshake,
    ) -> Result<(), Refusal> {
        match message {
            Handshake::Initiation(initiation) => {
                let opened =
                    noise::open_initiation(&self.identity, initiation).ok_or(Refusal::Unauthenticated)?;
                let peer = *self.by_key.get(&opened.public).ok_or(Refusal::Unauthenticated)?;
                self.with(peer, now, wall, rng, |peer, cx| peer.initiation(cx, source, opened, initiation))
            }
            Handshake::Response(response) => {
                let peer = self.owner(response.receiver).ok_or(Refusal::Unexpected)?;
                self.with(peer, now, wall, rng, |peer, cx| peer.response(cx, source, response))
            }
            Handshake::CookieReply(reply) => {
                let peer = self.owner(reply.receiver).and_then(|id| self.peers.get_mut(&id));
                peer.ok_or(Refusal::Unexpected)?.cookie(now, reply)
            }
        }
    }

    /// Starts a handshake with the peer unless one is under way or its session is fresh: data waits.
    /// Initiations that were given up, or are about to be, are tried for the full time again.
    pub fn want_session(&mut self, peer: PeerId, now: Boottime, wall: Wall, rng: &mut dyn CryptoRng) {
        let _ = self.with(peer, now, wall, rng, |peer, cx| {
            peer.want_session(cx);
            Ok(())
        });
    }

    /// Reads the facts of all sessions and runs the timers that are due.
    pub fn handle_timeout(&mut self, now: Boottime, wall: Wall, rng: &mut dyn CryptoRng) {
        let Self { id, identity, shared, peers, outbox, .. } = self;
        let mut cx = Context { tunnel: *id, identity, shared, now, wall, rng, outbox };
        for peer in peers.values_mut() {
            peer.sweep(&mut cx);
        }
    }

    /// When to call [`Self::handle_timeout`] next, and why. Facts are swept at least once a second
    /// while there is a session, and every 10 ms while packets could wait for a peer's first data.
    pub fn poll_timeout(&self) -> Option<(Boottime, &'static str)> {
        self.peers.values().filter_map(Peer::next_timeout).min()
    }

    /// The next datagram to send. Act on the events first: a message may reveal an index that the
    /// workers must know by then.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.outbox.events.pop_front()
    }

    /// The secrets of the next handshake that has begun.
    #[cfg(feature = "keylog")]
    pub fn poll_secrets(&mut self) -> Option<super::HandshakeSecrets> {
        self.outbox.secrets.pop_front()
    }

    /// The peer's sessions now; none when there is no such peer.
    pub fn slots(&self, peer: PeerId) -> Slots {
        self.peers.get(&peer).map(Peer::slots).unwrap_or_default()
    }

    /// The peer's endpoint, handshake and traffic; `None` when there is no such peer.
    pub fn status(&self, peer: PeerId) -> Option<PeerStatus> {
        self.peers.get(&peer).map(Peer::status)
    }

    /// The peer whose handshake or session has that index of ours.
    fn owner(&self, index: u32) -> Option<PeerId> {
        self.shared.owner(index).filter(|(tunnel, _)| *tunnel == self.id).map(|(_, peer)| peer)
    }

    fn with(
        &mut self,
        peer: PeerId,
        now: Boottime,
        wall: Wall,
        rng: &mut dyn CryptoRng,
        work: impl FnOnce(&mut Peer, &mut Context<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let Self { id, identity, shared, peers, outbox, .. } = self;
        let peer = peers.get_mut(&peer).ok_or(Refusal::Unexpected)?;
        work(peer, &mut Context { tunnel: *id, identity, shared, now, wall, rng, outbox })
    }
}

/// Without a private key (all zero) the tunnel has one that nobody knows of: no peer is met until it gets its own.
fn identity(key: &PrivateKey, rng: &mut dyn CryptoRng) -> Identity {
    if key.is_zero() { Identity::new(&PrivateKey::generate(rng)) } else { Identity::new(key) }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod change_tests;

//! The handshake, `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (section 5.4), as values: no indices are
//! looked up here, no time is read, nothing is remembered. Secrets leave these functions in boxes only; the stack
//! that computed them is wiped, so that what is built next has none in its padding.
//!
//! ```text
//! initiator                                     responder
//! initiate() -> (Initiation, Initiated)  ---->  open_initiation() -> Opened
//!                                               Opened::identify(peer) -> (Received, timestamp)
//! Initiated::finish() -> SessionKeys     <----  Received::respond() -> (Response, SessionKeys)
//! ```

#[cfg(feature = "keylog")]
pub(super) mod keylog;

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use x25519_dalek::StaticSecret;

use super::crypto::{self, Point, PrivateKey, PublicKey, Secret, kdf, on_wiped_stack};
use super::message::{Initiation, Response};
use super::session::SessionKeys;
use super::tai64n::Tai64n;
use crate::aead::TAG_LEN;

const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// Our static key pair.
pub(super) struct Identity {
    secret: Box<StaticSecret>,
    pub(super) public: PublicKey,
}

impl Identity {
    pub(super) fn new(key: &PrivateKey) -> Self {
        on_wiped_stack(|| Self { secret: Box::new(key.secret()), public: key.public() })
    }
}

/// What we know of a peer beforehand.
pub(super) struct PeerKeys {
    pub(super) public: PublicKey,
    point: Point,
    preshared: Secret,
    /// DH of both static keys, computed once.
    static_static: Secret,
}

impl PeerKeys {
    /// `None` when the peer's key is of small order.
    pub(super) fn new(identity: &Identity, public: PublicKey, preshared: &[u8; 32]) -> Option<Self> {
        on_wiped_stack(|| {
            let point = Point::new(&public.0);
            let static_static = point.dh(&identity.secret)?;
            Some(Self { public, point, preshared: Secret::new(*preshared), static_static })
        })
    }

    /// Goes on with another key pair of ours. A key that was not of small order for one is of none.
    pub(super) fn set_identity(&mut self, identity: &Identity) {
        if let Some(static_static) = on_wiped_stack(|| self.point.dh(&identity.secret)) {
            self.static_static = static_static;
        }
    }

    pub(super) fn set_preshared(&mut self, preshared: &[u8; 32]) {
        *self.preshared = *preshared;
    }
}

/// An initiator that waits for the response.
pub(super) struct Initiated {
    state: Symmetric,
    ephemeral: Box<StaticSecret>,
}

/// Makes an initiation with a fresh `ephemeral`; `None` when the peer's key is of small order.
pub(super) fn initiate(
    identity: &Identity,
    peer: &PeerKeys,
    sender: u32,
    timestamp: Tai64n,
    ephemeral: Box<StaticSecret>,
) -> Option<(Initiation, Initiated)> {
    on_wiped_stack(|| {
        let mut state = Symmetric::new(&peer.public);
        let mut message = Initiation {
            sender,
            ephemeral: x25519_dalek::PublicKey::from(&*ephemeral).to_bytes(),
            sealed_static: [0; 48],
            sealed_timestamp: [0; 28],
        };
        state.mix_ephemeral(&message.ephemeral);
        let key = state.mix_dh(&ephemeral, &peer.point)?;
        state.seal(&key, &identity.public.0, &mut message.sealed_static);
        let key = state.mix_key(&peer.static_static);
        state.seal(&key, &timestamp.0, &mut message.sealed_timestamp);
        Some((message, Initiated { state, ephemeral }))
    })
}

impl Initiated {
    /// Takes the response; `None` when it does not belong to the initiation, which stays valid.
    pub(super) fn finish(
        &self,
        identity: &Identity,
        peer: &PeerKeys,
        response: &Response,
    ) -> Option<SessionKeys> {
        on_wiped_stack(|| {
            let mut state = self.state.clone();
            state.mix_ephemeral(&response.ephemeral);
            let ephemeral = Point::new(&response.ephemeral);
            state.mix_dh(&self.ephemeral, &ephemeral)?;
            state.mix_dh(&identity.secret, &ephemeral)?;
            let key = state.mix_preshared(&peer.preshared);
            state.open(&key, &response.sealed_empty, &mut [])?;
            let [send, receive] = state.split();
            Some(SessionKeys::new(&send, &receive))
        })
    }
}

/// An initiation whose sender is known, but not yet authenticated.
pub(super) struct Opened {
    state: Symmetric,
    ephemeral: Point,
    /// Who claims to have sent it.
    pub(super) public: PublicKey,
}

/// Opens an initiation up to its sender's static key.
pub(super) fn open_initiation(identity: &Identity, message: &Initiation) -> Option<Opened> {
    on_wiped_stack(|| {
        let mut state = Symmetric::new(&identity.public);
        state.mix_ephemeral(&message.ephemeral);
        let ephemeral = Point::new(&message.ephemeral);
        let key = state.mix_dh(&identity.secret, &ephemeral)?;
        let mut public = [0; 32];
        state.open(&key, &message.sealed_static, &mut public)?;
        Some(Opened { state, ephemeral, public: PublicKey(public) })
    })
}

impl Opened {
    /// Authenticates the sender, whose keys are given, and yields the initiation's timestamp.
    pub(super) fn identify(mut self, peer: &PeerKeys, message: &Initiation) -> Option<(Received, Tai64n)> {
        on_wiped_stack(|| {
            let key = self.state.mix_key(&peer.static_static);
            let mut timestamp = [0; 12];
            self.state.open(&key, &message.sealed_timestamp, &mut timestamp)?;
            let received = Received { state: self.state, ephemeral: self.ephemeral, sender: message.sender };
            Some((received, Tai64n(timestamp)))
        })
    }
}

/// An authentic initiation that waits for our response.
pub(super) struct Received {
    state: Symmetric,
    ephemeral: Point,
    /// The initiator's index.
    pub(super) sender: u32,
}

impl Received {
    /// Makes the response with a fresh `ephemeral`; `None` when the initiator's keys are of small order.
    pub(super) fn respond(
        mut self,
        peer: &PeerKeys,
        sender: u32,
        ephemeral: &StaticSecret,
    ) -> Option<(Response, SessionKeys)> {
        on_wiped_stack(|| {
            let mut message = Response {
                sender,
                receiver: self.sender,
                ephemeral: x25519_dalek::PublicKey::from(ephemeral).to_bytes(),
                sealed_empty: [0; 16],
            };
            self.state.mix_ephemeral(&message.ephemeral);
            self.state.mix_dh(ephemeral, &self.ephemeral)?;
            self.state.mix_dh(ephemeral, &peer.point)?;
            let key = self.state.mix_preshared(&peer.preshared);
            self.state.seal(&key, &[], &mut message.sealed_empty);
            let [receive, send] = self.state.split();
            Some((message, SessionKeys::new(&send, &receive)))
        })
    }
}

/// Noise's symmetric state: chaining key and transcript hash.
#[derive(Clone)]
struct Symmetric {
    chaining: Secret,
    hash: [u8; 32],
}

impl Symmetric {
    fn new(responder: &PublicKey) -> Self {
        let chaining = crypto::hash(&[CONSTRUCTION]);
        let hash = crypto::hash(&[&crypto::hash(&[&chaining, IDENTIFIER]), &responder.0]);
        Self { chaining: Secret::new(chaining), hash }
    }

    fn mix_hash(&mut self, data: &[u8]) {
        self.hash = crypto::hash(&[&self.hash, data]);
    }

    fn mix_ephemeral(&mut self, public: &[u8; 32]) {
        self.mix_hash(public);
        self.mix_key(public);
    }

    fn mix_key(&mut self, input: &[u8; 32]) -> Secret {
        let [chaining, key] = kdf(&self.chaining, input);
        self.chaining = chaining;
        key
    }

    /// Mixes in a DH; `None` when its result is all zero.
    fn mix_dh(&mut self, secret: &StaticSecret, public: &Point) -> Option<Secret> {
        Some(self.mix_key(&*public.dh(secret)?))
    }

    fn mix_preshared(&mut self, preshared: &Secret) -> Secret {
        let [chaining, transcript, key] = kdf(&self.chaining, &preshared[..]);
        self.chaining = chaining;
        self.mix_hash(&transcript[..]);
        key
    }

    /// Seals `text` into `sealed`, which is [`TAG_LEN`] longer.
    fn seal(&mut self, key: &Secret, text: &[u8], sealed: &mut [u8]) {
        let (body, tag) = sealed.split_at_mut(text.len());
        body.copy_from_slice(text);
        let cipher = ChaCha20Poly1305::new((&**key).into());
        let computed = cipher
            .encrypt_in_place_detached(&[0; 12].into(), &self.hash, body)
            .expect("a handshake field is far shorter than the cipher's limit");
        tag.copy_from_slice(&computed);
        self.mix_hash(sealed);
    }

    /// Opens `sealed` into `text`, which is [`TAG_LEN`] shorter.
    fn open(&mut self, key: &Secret, sealed: &[u8], text: &mut [u8]) -> Option<()> {
        let (body, tag) = sealed.split_last_chunk::<TAG_LEN>()?;
        text.copy_from_slice(body);
        let cipher = ChaCha20Poly1305::new((&**key).into());
        cipher.decrypt_in_place_detached(&[0; 12].into(), &self.hash, text, tag.into()).ok()?;
        self.mix_hash(sealed);
        Some(())
    }

    /// The transport keys: initiator to responder, responder to initiator.
    fn split(&self) -> [Secret; 2] {
        kdf(&self.chaining, &[])
    }
}

#[cfg(test)]
#[path = "noise_tests.rs"]
mod tests;

//! What a peer works with: time, randomness, and what all peers of a tunnel share.

use std::sync::Arc;
use std::time::Duration;

use rand::CryptoRng;
use x25519_dalek::StaticSecret;

use super::REKEY_TIMEOUT_JITTER;
use super::crypto::on_wiped_stack;
use super::noise::{Identity, PeerKeys};
use super::outbox::{Event, Outbox};
use super::shared::Shared;
use crate::clock::{Boottime, Wall};
use crate::id::TunnelId;

/// All that, for the length of one call.
pub(super) struct Context<'a> {
    pub(super) tunnel: TunnelId,
    pub(super) identity: &'a Identity,
    pub(super) shared: &'a Arc<Shared>,
    pub(super) now: Boottime,
    pub(super) wall: Wall,
    pub(super) rng: &'a mut dyn CryptoRng,
    pub(super) outbox: &'a mut Outbox,
}

impl Context<'_> {
    pub(super) fn event(&mut self, event: Event) {
        self.outbox.events.push_back(event);
    }

    /// A key for one handshake with the peer. Boxed, so that no move leaves a copy.
    #[allow(clippy::unnecessary_box_returns)]
    #[cfg_attr(not(feature = "keylog"), allow(unused_variables))]
    pub(super) fn ephemeral(&mut self, peer: &PeerKeys) -> Box<StaticSecret> {
        let ephemeral = on_wiped_stack(|| Box::new(StaticSecret::random_from_rng(&mut *self.rng)));
        #[cfg(feature = "keylog")]
        self.outbox.secrets.push_back(super::HandshakeSecrets::new(self.identity, peer, &ephemeral));
        ephemeral
    }

    /// What is added to [`super::REKEY_TIMEOUT`].
    pub(super) fn jitter(&mut self) -> Duration {
        REKEY_TIMEOUT_JITTER.mul_f64(f64::from(self.rng.next_u32()) / f64::from(u32::MAX))
    }
}

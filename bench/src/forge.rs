//! Handshake messages by the library's own protocol code, as many as are wanted: an initiator whose clock
//! runs ahead of every limit on its rate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use forwarder::clock::{self, Boottime};
use forwarder::id::{PeerId, TunnelId};
use forwarder::wireguard::{PeerConfig, PrivateKey, PublicKey, Shared, Tunnel};

/// Longer than an initiator waits between two initiations.
const STEP: Duration = Duration::from_secs(6);
const PEER: PeerId = PeerId(0);

/// One side of a tunnel with one peer, which is the gateway under test.
pub struct Initiator {
    /// The protocol.
    pub tunnel: Tunnel,
    now: Boottime,
    gateway: SocketAddr,
}

impl Initiator {
    /// An initiator with this key, towards a gateway whose public key is known.
    ///
    /// # Errors
    /// The gateway's key is unusable, or is the initiator's own.
    pub fn new(key: &PrivateKey, gateway: SocketAddr, public: PublicKey) -> anyhow::Result<Self> {
        let now = clock::boottime();
        let mut tunnel = Tunnel::new(TunnelId(0), key, Arc::<Shared>::default(), now, &mut rand::rng());
        let config = PeerConfig {
            id: PEER,
            public_key: public,
            preshared_key: [0; 32],
            endpoint: Some(gateway),
            persistent_keepalive: None,
        };
        ensure!(tunnel.add_peer(&config, now), "the gateway's public key is unusable");
        Ok(Self { tunnel, now, gateway })
    }

    /// A new initiation, with mac2 where the gateway has sent a cookie.
    ///
    /// # Errors
    /// None in practice: the endpoint is known, and the clock has gone on.
    pub fn initiation(&mut self) -> anyhow::Result<Vec<u8>> {
        self.now = self.now + STEP;
        self.tunnel.want_session(PEER, self.now, clock::wall(), &mut rand::rng());
        while self.tunnel.poll_event().is_some() {}
        let transmit = self.tunnel.poll_transmit().context("the initiator is silent")?;
        Ok(transmit.payload)
    }

    /// Takes the gateway's answer; whether it was one to the last initiation.
    pub fn answer(&mut self, message: &[u8]) -> bool {
        let (wall, rng) = (clock::wall(), &mut rand::rng());
        let taken = self.tunnel.receive(self.now, wall, rng, self.gateway, message, false).is_ok();
        while self.tunnel.poll_event().is_some() {}
        taken
    }
}

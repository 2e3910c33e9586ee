//! What it takes to read what is on the wire: cargo feature `keylog`.

use std::fmt;

use x25519_dalek::StaticSecret;

use super::super::crypto::{PublicKey, Secret};
use super::{Identity, PeerKeys};
use crate::config::key::encode;

/// One end's secrets of one handshake. With the wire they give away all that its session carries.
pub struct HandshakeSecrets {
    local_static: Secret,
    remote_static: PublicKey,
    ephemeral: Secret,
    preshared: Secret,
}

impl HandshakeSecrets {
    pub(in super::super) fn new(identity: &Identity, peer: &PeerKeys, ephemeral: &StaticSecret) -> Self {
        Self {
            local_static: Secret::new(identity.secret.to_bytes()),
            remote_static: peer.public,
            ephemeral: Secret::new(ephemeral.to_bytes()),
            preshared: peer.preshared.clone(),
        }
    }
}

/// In the format of Wireshark's WireGuard key log.
impl fmt::Display for HandshakeSecrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "LOCAL_STATIC_PRIVATE_KEY = {}", *encode(&self.local_static))?;
        writeln!(f, "REMOTE_STATIC_PUBLIC_KEY = {}", *encode(&self.remote_static.0))?;
        writeln!(f, "LOCAL_EPHEMERAL_PRIVATE_KEY = {}", *encode(&self.ephemeral))?;
        writeln!(f, "PRESHARED_KEY = {}", *encode(&self.preshared))
    }
}

//! What a caller can ask for, as values.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::wireguard::{PrivateKey, PublicKey};

/// A request for one tunnel.
#[derive(Debug)]
pub enum Request {
    /// `get=1`: the tunnel and its peers.
    Get,
    /// `set=1`: change it. Boxed, so that its keys stay where they were read.
    Set(Box<Set>),
}

/// What a `set=1` changes; `None` and `false` leave things as they are.
#[derive(Default)]
pub struct Set {
    /// `private_key`; all zero = none from now on.
    pub private_key: Option<PrivateKey>,
    /// `listen_port`; 0 = the kernel chooses.
    pub listen_port: Option<u16>,
    /// `fwmark`; 0 = none.
    pub fwmark: Option<u32>,
    /// `replace_peers`: peers that are not named go.
    pub replace_peers: bool,
    /// What becomes of single peers, in the order in which it is to happen.
    pub peers: Vec<PeerChange>,
}

/// What happens to one peer.
pub struct PeerChange {
    /// `public_key`.
    pub public_key: PublicKey,
    /// `remove`: the peer goes.
    pub remove: bool,
    /// `update_only`: nothing happens unless the peer is there already.
    pub update_only: bool,
    /// `preshared_key`; all zero = none. Boxed, since the list of peers moves when it grows.
    pub preshared_key: Option<Box<Zeroizing<[u8; 32]>>>,
    /// `endpoint`.
    pub endpoint: Option<SocketAddr>,
    /// `persistent_keepalive_interval`; zero = off.
    pub persistent_keepalive: Option<Duration>,
    /// `replace_allowed_ips`: prefixes that are not named go.
    pub replace_allowed_ips: bool,
    /// `allowed_ip` lines in their order.
    pub allowed_ips: Vec<PrefixChange>,
}

/// What happens to one of a peer's prefixes; host bits are cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixChange {
    /// `allowed_ip=PREFIX`: it is this peer's, and no other peer's of the tunnel.
    Add(IpNet),
    /// `allowed_ip=-PREFIX`: it is not this peer's.
    Remove(IpNet),
}

impl PeerChange {
    /// Adds the peer, or changes nothing of it.
    pub fn new(public_key: PublicKey) -> Self {
        Self {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// Without the private key.
impl fmt::Debug for Set {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Set")
            .field("listen_port", &self.listen_port)
            .field("fwmark", &self.fwmark)
            .field("replace_peers", &self.replace_peers)
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

/// Without the preshared key.
impl fmt::Debug for PeerChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerChange")
            .field("public_key", &self.public_key)
            .field("remove", &self.remove)
            .field("update_only", &self.update_only)
            .field("endpoint", &self.endpoint)
            .field("persistent_keepalive", &self.persistent_keepalive)
            .field("replace_allowed_ips", &self.replace_allowed_ips)
            .field("allowed_ips", &self.allowed_ips)
            .finish_non_exhaustive()
    }
}

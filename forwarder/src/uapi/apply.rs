//! A `set=1`, applied to a tunnel's configuration as the kernel applies it (`wg_set_device` in its
//! drivers/net/wireguard/netlink.c): the interface first, then peer by peer.
//!
//! One thing is better here: a peer that `replace_peers` takes away and the same request brings back
//! (`wg setconf`) is not a new one. Who compares the configurations finds it unchanged, so its sessions live.

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::request::{PeerChange, PrefixChange, Set};
use crate::config::{PeerSection, TunnelConfig};
use crate::wireguard::{PrivateKey, PublicKey};

/// Makes `tunnel` what `set` asks for.
pub fn apply(set: &Set, tunnel: &mut TunnelConfig) {
    if let Some(mark) = set.fwmark {
        tunnel.fwmark = mark;
    }
    if let Some(port) = set.listen_port {
        tunnel.listen_port = port;
        tunnel.listen_port_line = 0;
    }
    let former = if set.replace_peers { std::mem::take(&mut tunnel.peers) } else { Vec::new() };
    if let Some(key) = &set.private_key {
        tunnel.private_key = key.clone();
    }
    let own = public(&tunnel.private_key);
    tunnel.peers.retain(|peer| Some(peer.public_key) != own);
    for change in &set.peers {
        apply_peer(change, &mut tunnel.peers, &former, own);
    }
}

/// The tunnel's public key; `None` without a private one.
fn public(key: &PrivateKey) -> Option<PublicKey> {
    (!key.is_zero()).then(|| key.public())
}

fn apply_peer(
    change: &PeerChange,
    peers: &mut Vec<PeerSection>,
    former: &[PeerSection],
    own: Option<PublicKey>,
) {
    let present = peers.iter().position(|peer| peer.public_key == change.public_key);
    let index = match present {
        Some(index) if change.remove => {
            peers.remove(index);
            return;
        }
        Some(index) => index,
        // A peer with our own key is passed over in silence, so that one file can serve all of its peers.
        None if change.remove || change.update_only || Some(change.public_key) == own => return,
        None => {
            peers.push(new_peer(change.public_key, former));
            peers.len() - 1
        }
    };
    let peer = &mut peers[index];
    if let Some(key) = &change.preshared_key {
        peer.preshared_key.copy_from_slice(&key[..]);
    }
    if change.endpoint.is_some() {
        peer.endpoint = change.endpoint;
        peer.endpoint_name = None;
    }
    if let Some(interval) = change.persistent_keepalive {
        peer.persistent_keepalive = Some(interval).filter(|interval| !interval.is_zero());
    }
    if change.replace_allowed_ips {
        peer.allowed_ips.clear();
    }
    for prefix in &change.allowed_ips {
        match prefix {
            PrefixChange::Add(prefix) => give(*prefix, index, peers),
            PrefixChange::Remove(prefix) => peers[index].allowed_ips.retain(|own| own != prefix),
        }
    }
}

/// A peer that has nothing yet but the name that the file gave it.
fn new_peer(public_key: PublicKey, former: &[PeerSection]) -> PeerSection {
    let former = former.iter().find(|peer| peer.public_key == public_key);
    PeerSection {
        line: former.map_or(0, |peer| peer.line),
        friendly_name: former.and_then(|peer| peer.friendly_name.clone()),
        public_key,
        preshared_key: Zeroizing::new([0; 32]),
        allowed_ips: Vec::new(),
        endpoint: None,
        endpoint_name: None,
        persistent_keepalive: None,
    }
}

/// A prefix belongs to one peer of a tunnel: the one that asked last.
fn give(prefix: IpNet, to: usize, peers: &mut [PeerSection]) {
    for (index, peer) in peers.iter_mut().enumerate() {
        if index != to {
            peer.allowed_ips.retain(|own| *own != prefix);
        } else if !peer.allowed_ips.contains(&prefix) {
            peer.allowed_ips.push(prefix);
        }
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
pub(super) mod tests;

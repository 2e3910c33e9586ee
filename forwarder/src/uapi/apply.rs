//! A `set=1`, applied to a tunnel's configuration as the kernel applies it (`wg_set_device` in its
//! drivers/net/wireguard/netlink.c): the interface first, then peer by peer.
//!
//! One thing is better here: a peer that `replace_peers` takes away and the same request brings back
//! (`wg setconf`) is not a new one. Who compares the configurations finds it unchanged, so its sessions live.

use std::collections::HashMap;

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
    let mut draft = Draft::new(&mut tunnel.peers, &former, own);
    set.peers.iter().for_each(|change| draft.apply(change));
    draft.finish();
}

/// The tunnel's public key; `None` without a private one.
fn public(key: &PrivateKey) -> Option<PublicKey> {
    (!key.is_zero()).then(|| key.public())
}

/// A tunnel's peers while they change, and what finds them: there may be thousands.
struct Draft<'a> {
    peers: &'a mut Vec<PeerSection>,
    /// Where the peers stand that are there; the others are still among them.
    places: HashMap<PublicKey, usize>,
    /// The place of each prefix's peer. A prefix belongs to one peer of a tunnel: the one that asked last.
    /// Former owners still have it in their lists.
    owners: HashMap<IpNet, usize>,
    /// Peers that `replace_peers` took away.
    former: HashMap<PublicKey, &'a PeerSection>,
    own: Option<PublicKey>,
}

impl<'a> Draft<'a> {
    fn new(peers: &'a mut Vec<PeerSection>, former: &'a [PeerSection], own: Option<PublicKey>) -> Self {
        let places = peers.iter().zip(0..).map(|(peer, place)| (peer.public_key, place)).collect();
        let prefixes = peers.iter().zip(0..).flat_map(|(peer, place)| {
            let of_peer = peer.allowed_ips.iter();
            of_peer.map(move |prefix| (*prefix, place))
        });
        let owners = prefixes.collect();
        let former = former.iter().map(|peer| (peer.public_key, peer)).collect();
        Self { peers, places, owners, former, own }
    }

    fn apply(&mut self, change: &PeerChange) {
        let key = change.public_key;
        if change.remove {
            self.places.remove(&key);
            return;
        }
        let place = match self.places.get(&key) {
            Some(place) => *place,
            // A peer with our own key is passed over in silence, so that one file can serve all of its peers.
            None if change.update_only || Some(key) == self.own => return,
            None => self.add(key),
        };
        let peer = &mut self.peers[place];
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
            for prefix in std::mem::take(&mut peer.allowed_ips) {
                self.take(prefix, place);
            }
        }
        for prefix in &change.allowed_ips {
            match prefix {
                PrefixChange::Add(prefix) => self.give(*prefix, place),
                PrefixChange::Remove(prefix) => self.take(*prefix, place),
            }
        }
    }

    /// A peer that has nothing yet but the name that the file gave it.
    fn add(&mut self, public_key: PublicKey) -> usize {
        let former = self.former.get(&public_key);
        self.peers.push(PeerSection {
            line: former.map_or(0, |peer| peer.line),
            friendly_name: former.and_then(|peer| peer.friendly_name.clone()),
            public_key,
            preshared_key: Zeroizing::new([0; 32]),
            allowed_ips: Vec::new(),
            endpoint: None,
            endpoint_name: None,
            persistent_keepalive: None,
        });
        let place = self.peers.len() - 1;
        self.places.insert(public_key, place);
        place
    }

    fn give(&mut self, prefix: IpNet, place: usize) {
        if self.owners.insert(prefix, place) != Some(place) {
            self.peers[place].allowed_ips.push(prefix);
        }
    }

    fn take(&mut self, prefix: IpNet, place: usize) {
        if self.owners.get(&prefix) == Some(&place) {
            self.owners.remove(&prefix);
        }
    }

    /// Lets go of the peers and prefixes that are no more there.
    fn finish(mut self) {
        for (place, peer) in self.peers.iter_mut().enumerate() {
            // A prefix that came back to its peer is in the list twice.
            peer.allowed_ips.retain(|prefix| {
                let theirs = self.owners.get(prefix) == Some(&place);
                theirs && self.owners.remove(prefix).is_some()
            });
        }
        let mut place = 0..;
        self.peers.retain(|peer| self.places.get(&peer.public_key).copied() == place.next());
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
pub(super) mod tests;

//! What the tunnels of a process share: the session indices, and memory of the handshakes between the
//! same two key pairs, which may serve several tunnels.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use rand::CryptoRng;

use super::crypto::PublicKey;
use super::tai64n::Tai64n;
use crate::clock::Wall;
use crate::id::{PeerId, TunnelId};
use crate::sync::lock;

/// Accepted initiations that are remembered per pair of keys.
const REMEMBERED: usize = 64;

/// Shared by all tunnels; lives as long as the process, reloads included.
#[derive(Debug, Default)]
pub struct Shared {
    indices: Mutex<HashMap<u32, (TunnelId, PeerId)>>,
    pairs: Mutex<HashMap<(PublicKey, PublicKey), Pair>>,
    own: Mutex<HashSet<IpAddr>>,
}

impl Shared {
    /// Sets the addresses that no peer can have: ours, and broadcast addresses.
    pub fn set_own(&self, addresses: HashSet<IpAddr>) {
        *lock(&self.own) = addresses;
    }

    /// Whether no peer can have the address.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        lock(&self.own).contains(&address)
    }

    /// Takes an unpredictable index that no tunnel uses; it is free again when dropped.
    pub(super) fn allocate(self: &Arc<Self>, owner: (TunnelId, PeerId), rng: &mut dyn CryptoRng) -> Index {
        let mut indices = lock(&self.indices);
        loop {
            let value = rng.next_u32();
            if let std::collections::hash_map::Entry::Vacant(entry) = indices.entry(value) {
                entry.insert(owner);
                return Index { value, shared: Arc::clone(self) };
            }
        }
    }

    /// Whose index it is.
    pub(super) fn owner(&self, index: u32) -> Option<(TunnelId, PeerId)> {
        lock(&self.indices).get(&index).copied()
    }

    /// The timestamp for an initiation from `own` to `peer`: greater than all before.
    pub(super) fn timestamp(&self, own: PublicKey, peer: PublicKey, wall: Wall) -> Tai64n {
        let mut pairs = lock(&self.pairs);
        let pair = pairs.entry((own, peer)).or_default();
        *pair.sent.insert(Tai64n::after(pair.sent, wall))
    }

    /// Whether an authentic initiation from `peer` to `own` is new to all tunnels; it is remembered.
    pub(super) fn accept(
        &self,
        own: PublicKey,
        peer: PublicKey,
        timestamp: Tai64n,
        ephemeral: [u8; 32],
    ) -> bool {
        lock(&self.pairs).entry((own, peer)).or_default().accept(timestamp, ephemeral)
    }
}

/// Handshakes between one key of ours and one of a peer.
#[derive(Debug, Default)]
struct Pair {
    sent: Option<Tai64n>,
    /// The latest initiations.
    accepted: BTreeSet<(Tai64n, [u8; 32])>,
    /// The timestamp up to which initiations were forgotten: none of that age is accepted any more.
    forgotten: Option<Tai64n>,
}

impl Pair {
    fn accept(&mut self, timestamp: Tai64n, ephemeral: [u8; 32]) -> bool {
        if Some(timestamp) <= self.forgotten || !self.accepted.insert((timestamp, ephemeral)) {
            return false;
        }
        if self.accepted.len() > REMEMBERED {
            self.forgotten = self.accepted.pop_first().map(|(timestamp, _)| timestamp);
        }
        true
    }
}

/// An index in use.
#[derive(Debug)]
pub(super) struct Index {
    value: u32,
    shared: Arc<Shared>,
}

impl Index {
    pub(super) fn value(&self) -> u32 {
        self.value
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        lock(&self.shared.indices).remove(&self.value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    fn stamp(seconds: u64) -> Tai64n {
        Tai64n::after(None, Wall(Duration::from_secs(seconds)))
    }

    /// Section 5.4.2: an index names one handshake or session at a time, over all tunnels.
    #[test]
    fn indices_are_unique_and_freed() {
        let shared = Arc::new(Shared::default());
        let owner = (TunnelId(1), PeerId(2));
        // The same seed twice: the second must step over what the first took.
        let mut first = StdRng::seed_from_u64(1);
        let mut second = StdRng::seed_from_u64(1);
        let a: Vec<_> = (0..100).map(|_| shared.allocate(owner, &mut first)).collect();
        let b = shared.allocate(owner, &mut second);
        assert!(a.iter().all(|i| i.value() != b.value()));
        assert_eq!(shared.owner(b.value()), Some(owner));
        let value = b.value();
        drop(b);
        assert_eq!(shared.owner(value), None);
        drop(a);
        assert!(lock(&shared.indices).is_empty());
    }

    /// Section 5.1, over all tunnels of one key pair: what was forgotten stays refused.
    #[test]
    fn an_initiation_is_accepted_once_for_ever() {
        let mut pair = Pair::default();
        assert!(pair.accept(stamp(1), [1; 32]));
        assert!(pair.accept(stamp(1), [2; 32]), "two tunnels may initiate within one grain");
        assert!(!pair.accept(stamp(1), [1; 32]));
        for i in 0..200 {
            assert!(pair.accept(stamp(2 + i), [3; 32]));
        }
        assert_eq!(pair.accepted.len(), REMEMBERED);
        assert!((0..200).all(|i| !pair.accept(stamp(i), [3; 32])), "forgotten ones stay refused");
    }
}

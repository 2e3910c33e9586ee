//! Which tunnel and which peer has which id. Lanes and sessions hold ids, so what goes on keeps its own.

use std::collections::{HashMap, HashSet};

use super::Topology;
use crate::config::{PeerSection, TunnelConfig};
use crate::id::{PeerId, TunnelId};
use crate::wireguard::PublicKey;

/// Ids by position: of the tunnels' files, and of the `[Peer]` sections of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ids {
    pub tunnels: Vec<TunnelId>,
    pub peers: Vec<Vec<PeerId>>,
}

impl Ids {
    /// The ids of `new` after the topology `now`, which was made from `old`. A tunnel is known by its name, a
    /// peer by its tunnel and public key. Whoever is new gets an id that nobody has in `now`, so that no id
    /// goes from one to another at once.
    pub fn after(now: &Topology, old: &[TunnelConfig], new: &[TunnelConfig]) -> Self {
        let mut tunnels = free(now.tunnels.iter().map(|plan| plan.id.0), TunnelId);
        let mut peers = free(now.peers.keys().map(|id| id.0), PeerId);
        let mut ids = Self::default();
        for config in new {
            let known = now.tunnels.iter().zip(old).find(|(plan, _)| plan.name == config.name);
            let id = known.map(|(plan, _)| plan.id).or_else(|| tunnels.next());
            let before: HashMap<PublicKey, PeerId> = known.map_or_else(HashMap::new, |(plan, old)| {
                let keys = old.peers.iter().map(|section| section.public_key);
                keys.zip(plan.peers.iter().copied()).collect()
            });
            let peer = |section: &PeerSection| before.get(&section.public_key).copied();
            ids.tunnels.extend(id);
            ids.peers.push(config.peers.iter().filter_map(|s| peer(s).or_else(|| peers.next())).collect());
        }
        ids
    }
}

/// The ids that are not in use, the smallest first.
fn free<N, I>(used: impl Iterator<Item = N>, id: impl Fn(N) -> I) -> impl Iterator<Item = I>
where
    N: Copy + Eq + std::hash::Hash + TryFrom<u32>,
{
    let used: HashSet<N> = used.collect();
    (0..=u32::MAX).map_while(|n| N::try_from(n).ok()).filter(move |n| !used.contains(n)).map(id)
}

//! From allowed-IPs to groups (DESIGN rule 16): the peers that carry exactly the same prefix share its
//! traffic, if their public key is one, or if forwarder.toml names them as a group.

use std::collections::{BTreeMap, BTreeSet};

use forwarder_contract::MAX_PREFIXES;
use ipnet::IpNet;

use super::{GroupPlan, PeerPlan, TopologyError};
use crate::config::{NamedGroup, PeerSection, TunnelConfig, key};
use crate::id::{GroupId, MAX_PEER_IDS, PeerId, TunnelId};

/// Peers and groups, and what is wrong.
pub(super) struct Groups {
    pub peers: Vec<PeerPlan>,
    pub groups: Vec<GroupPlan>,
    pub errors: Vec<TopologyError>,
}

/// Names the peers and groups them by prefix. Groups are in order of their first prefix; ids are positions
/// among all files and sections.
pub(super) fn plan(tunnels: &[TunnelConfig], named_in: &[NamedGroup], remarks: &mut Vec<String>) -> Groups {
    let mut peers = peers(tunnels);
    let (named, mut errors) = named_groups(named_in, tunnels, &peers);
    let owners = owners(tunnels, &peers, remarks);
    errors.extend(too_many(tunnels.len(), peers.len(), owners.len()));

    // Prefixes with the same peers make one group.
    let mut by_peers: BTreeMap<&[PeerId], Vec<IpNet>> = BTreeMap::new();
    for (&prefix, owners) in &owners {
        if one_key(owners, tunnels, &peers) || named.iter().any(|g| owners.iter().all(|o| g.contains(o))) {
            by_peers.entry(owners).or_default().push(prefix);
        } else {
            let names: Vec<_> = owners.iter().map(|&o| peer_name(o, tunnels, &peers)).collect();
            errors.push(TopologyError::DifferentKeys { prefix, peers: names.join(", ") });
        }
    }
    let mut groups: Vec<_> =
        by_peers.into_iter().map(|(peers, prefixes)| GroupPlan { prefixes, peers: peers.to_vec() }).collect();
    groups.sort_by(|a, b| a.prefixes.cmp(&b.prefixes));
    for (group, id) in groups.iter().zip(0..) {
        for peer in &group.peers {
            peers[peer.index()].groups.push(GroupId(id));
        }
    }
    remarks.extend(idle(tunnels, &peers));
    remarks.extend(useless(named_in, &named, &groups));
    Groups { peers, groups, errors }
}

fn peers(tunnels: &[TunnelConfig]) -> Vec<PeerPlan> {
    let of = |(i, t): (usize, &TunnelConfig)| {
        let tunnel = TunnelId(i as u16);
        (0..t.peers.len()).map(move |section| PeerPlan { tunnel, section, groups: Vec::new() })
    };
    tunnels.iter().enumerate().flat_map(of).collect()
}

/// The peers of each prefix, in order of their tunnels. Within one tunnel the last peer that names a
/// prefix has it, as in WireGuard.
fn owners(
    tunnels: &[TunnelConfig],
    peers: &[PeerPlan],
    remarks: &mut Vec<String>,
) -> BTreeMap<IpNet, Vec<PeerId>> {
    let mut owners: BTreeMap<IpNet, Vec<PeerId>> = BTreeMap::new();
    for (plan, id) in peers.iter().zip(0..).map(|(p, i)| (p, PeerId(i))) {
        let prefixes: BTreeSet<_> = section(plan, tunnels).allowed_ips.iter().copied().collect();
        for prefix in prefixes {
            let of = owners.entry(prefix).or_default();
            if let Some(earlier) = of.pop_if(|o| peers[o.index()].tunnel == plan.tunnel) {
                let (earlier, later) = (peer_name(earlier, tunnels, peers), peer_name(id, tunnels, peers));
                remarks.push(format!("{prefix}: listed by {earlier} and again by {later}, which gets it"));
            }
            of.push(id);
        }
    }
    owners
}

/// What the groups of forwarder.toml stand for.
fn named_groups(
    groups: &[NamedGroup],
    tunnels: &[TunnelConfig],
    peers: &[PeerPlan],
) -> (Vec<BTreeSet<PeerId>>, Vec<TopologyError>) {
    let (mut named, mut errors) = (Vec::new(), Vec::new());
    for (i, group) in groups.iter().enumerate() {
        if groups[..i].iter().any(|g| g.name == group.name) {
            errors.push(TopologyError::SameGroup(group.name.clone()));
        }
        let mut members = BTreeSet::new();
        for text in &group.peers {
            match find_peer(&group.name, text, tunnels, peers) {
                Ok(peer) => _ = members.insert(peer),
                Err(error) => errors.push(error),
            }
        }
        named.push(members);
    }
    (named, errors)
}

/// `TUNNEL`, or `TUNNEL/PEER` with a friendly name or a public key (which may contain a slash).
fn find_peer(
    group: &str,
    text: &str,
    tunnels: &[TunnelConfig],
    peers: &[PeerPlan],
) -> Result<PeerId, TopologyError> {
    let missing = || TopologyError::NoSuchPeer { group: group.to_owned(), peer: text.to_owned() };
    let (tunnel, peer) = text.split_once('/').map_or((text, None), |(t, p)| (t, Some(p)));
    let of_tunnel = |p: &PeerPlan| tunnels[p.tunnel.index()].name == tunnel;
    let is_meant = |p: &PeerPlan| {
        let section = section(p, tunnels);
        let by_name = |peer| section.friendly_name.as_deref() == Some(peer);
        peer.is_none_or(|peer| by_name(peer) || *key::encode(&section.public_key.0) == peer)
    };
    let candidates = peers.iter().zip(0..).filter(|(p, _)| of_tunnel(p) && is_meant(p));
    match candidates.map(|(_, i)| PeerId(i)).collect::<Vec<_>>()[..] {
        [] => Err(missing()),
        [peer] => Ok(peer),
        ref several => Err(TopologyError::WhichPeer {
            group: group.to_owned(),
            tunnel: tunnel.to_owned(),
            count: several.len(),
        }),
    }
}

fn one_key(owners: &[PeerId], tunnels: &[TunnelConfig], peers: &[PeerPlan]) -> bool {
    let key = |o: &PeerId| section(&peers[o.index()], tunnels).public_key;
    owners.windows(2).all(|pair| key(&pair[0]) == key(&pair[1]))
}

fn section<'a>(peer: &PeerPlan, tunnels: &'a [TunnelConfig]) -> &'a PeerSection {
    &tunnels[peer.tunnel.index()].peers[peer.section]
}

/// `wg0/berlin`, or `wg0` and the start of the public key.
fn peer_name(id: PeerId, tunnels: &[TunnelConfig], peers: &[PeerPlan]) -> String {
    let peer = &peers[id.index()];
    format!("{}/{}", tunnels[peer.tunnel.index()].name, section(peer, tunnels).label())
}

fn idle(tunnels: &[TunnelConfig], peers: &[PeerPlan]) -> Vec<String> {
    let idle = peers.iter().zip(0..).filter(|(p, _)| p.groups.is_empty());
    let line = |(_, i)| format!("{} carries no prefix", peer_name(PeerId(i), tunnels, peers));
    idle.map(line).collect()
}

/// Named groups whose peers share no prefix: the naming changes nothing.
fn useless(names: &[NamedGroup], named: &[BTreeSet<PeerId>], groups: &[GroupPlan]) -> Vec<String> {
    let shared = |members: &BTreeSet<PeerId>| {
        groups.iter().any(|g| g.peers.len() > 1 && g.peers.iter().all(|p| members.contains(p)))
    };
    let lone = names.iter().zip(named).filter(|(_, members)| !shared(members));
    lone.map(|(group, _)| format!("group {}: its peers have no prefix in common", group.name)).collect()
}

fn too_many(tunnels: usize, peers: usize, prefixes: usize) -> Vec<TopologyError> {
    // Each prefix may be a group of its own, and groups are numbered by 16 bits.
    let most = usize::from(u16::MAX).min(MAX_PREFIXES as usize);
    // When all are replaced at once, old and new have ids.
    let limits = [
        ("tunnels", tunnels, usize::from(u16::MAX) / 2),
        ("peers", peers, MAX_PEER_IDS / 2),
        ("prefixes", prefixes, most),
    ];
    let over = limits.into_iter().filter(|(_, count, most)| count > most);
    over.map(|(what, count, most)| TopologyError::TooMany { what, count, most }).collect()
}

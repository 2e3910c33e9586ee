//! Snapshots computed from what the control thread knows; pure.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::egress;
use super::routes::Merged;
use crate::clock::Boottime;
use crate::config::TunnelConfig;
use crate::id::{InterfaceId, PeerId, TunnelId};
use crate::kernel::View;
use crate::pipeline::flow;
use crate::pipeline::snapshot::{Egress, Encap, FrameKey, Group, Host, Map, Path, Snapshot, Tunnel};
use crate::topology::Topology;
use crate::wireguard::{Session, Slots};

/// Pause of a path whose handshakes were given up.
const RETRY: Duration = Duration::from_secs(15);

/// What the control thread knows of a peer's path.
#[derive(Debug, Default)]
pub struct PathState {
    /// The peer's sessions.
    pub slots: Slots,
    /// The one that lanes seal with: the current one, as soon as every lane can open with it.
    pub sealing: Option<Arc<Session>>,
    /// Where its messages go.
    pub endpoint: Option<SocketAddr>,
    /// How they leave by a port.
    pub encap: Option<Encap>,
    /// The endpoint's route leads into our own TUN: nothing may be sent to it.
    pub looped: bool,
    /// When handshakes were given up, unanswered.
    pub given_up: Option<Boottime>,
}

impl PathState {
    /// Whether a given-up path is to be tried again now: no flow does it that goes by other paths.
    pub fn retries(&mut self, now: Boottime) -> bool {
        let due = self.given_up.is_some_and(|at| now.since(at) >= RETRY);
        if due {
            self.given_up = Some(now);
        }
        due
    }

    /// Whether the path is worth a share of its group's flows.
    pub fn is_healthy(&self, now: Boottime) -> bool {
        let sendable = self.sealing.as_ref().is_some_and(|session| session.sendable(now));
        sendable && self.encap.is_some() && self.given_up.is_none()
    }
}

/// What a snapshot is made of.
#[derive(Debug)]
pub struct World<'a> {
    /// The plan.
    pub topology: &'a Topology,
    /// The kernel's state.
    pub view: &'a View,
    /// Of both.
    pub routes: &'a Merged,
    /// The tunnels' inbound side, which changes only with the configuration.
    pub tunnels: &'a Arc<[Tunnel]>,
    /// The paths by [`PeerId`].
    pub paths: &'a [PathState],
    /// How flows spread over them.
    pub groups: &'a Arc<[Group]>,
    /// Whether opened packets may go out by another tunnel.
    pub transit: bool,
}

/// The tunnels' inbound side, by [`TunnelId`].
pub fn tunnels(
    topology: &Topology,
    configs: &[TunnelConfig],
    listen_port: impl Fn(TunnelId) -> u16,
) -> Arc<[Tunnel]> {
    let mut tunnels = Vec::new();
    for (position, (plan, config)) in topology.tunnels.iter().zip(configs).enumerate() {
        let peers = plan.peers.iter().zip(&config.peers);
        let allowed_ips =
            peers.flat_map(|(peer, section)| section.allowed_ips.iter().map(|net| (*net, *peer)));
        let allowed_ips = allowed_ips.collect();
        let addresses = config.addresses.iter().map(IpNet::addr).collect();
        if tunnels.len() <= plan.id.index() {
            tunnels.resize_with(plan.id.index() + 1, Tunnel::default);
        }
        let listen_port = listen_port(plan.id);
        let copy_dscp = plan.settings.copy_dscp;
        tunnels[plan.id.index()] =
            Tunnel { position, addresses, listen_port, allowed_ips, mtu: plan.mtu, copy_dscp };
    }
    tunnels.into()
}

/// How the flows of each group spread over its peers, some of whose paths are healthy. It takes long and
/// changes seldom: no handshake by itself changes it.
pub fn groups(topology: &Topology, healthy: &[bool]) -> Arc<[Group]> {
    let healthy = |peer: &PeerId| (*peer, healthy[peer.index()]);
    let mtu = |peer: &PeerId| {
        let tunnel = topology.peers.get(peer).and_then(|plan| topology.tunnel(plan.tunnel));
        tunnel.map_or(0, |tunnel| tunnel.mtu)
    };
    let groups = topology.groups.iter().map(|plan| Group {
        buckets: flow::buckets(&plan.peers.iter().map(healthy).collect::<Vec<_>>()),
        mtu: plan.peers.iter().map(mtu).min().unwrap_or(0),
    });
    groups.collect()
}

impl World<'_> {
    /// The workers' snapshot, in which packets leave as frames of our ports; and the slow path's, in
    /// which they leave by UDP sockets and the TUN.
    pub fn snapshots(&self, generation: u64) -> (Snapshot, Snapshot) {
        let sessions = Arc::new(self.paths.iter().flat_map(|p| sessions(&p.slots)).collect());
        let neighbours = Arc::new(self.neighbours());
        let snapshot = |routes, paths: Vec<Path>, interfaces, egresses| Snapshot {
            generation,
            interfaces: Arc::new(interfaces),
            routes: Arc::clone(routes),
            groups: Arc::clone(self.groups),
            paths: paths.into(),
            tunnels: Arc::clone(self.tunnels),
            sessions: Arc::clone(&sessions),
            egresses: Arc::new(egresses),
            neighbours: Arc::clone(&neighbours),
            transit: self.transit,
        };
        let fast = self.paths(|state| state.encap.clone());
        let reachable = |state: &PathState| state.endpoint.filter(|_| !state.looped);
        let slow = self.paths(|state| reachable(state).map(|to| Encap::Datagram { to }));
        let kernel = self.topology.interfaces.iter().map(|plan| (plan.interface, Egress::Kernel)).collect();
        (
            snapshot(&self.routes.fast, fast, self.interfaces(), self.egresses()),
            snapshot(&self.routes.slow, slow, Map::default(), kernel),
        )
    }

    fn paths(&self, encap: impl Fn(&PathState) -> Option<Encap>) -> Vec<Path> {
        let tunnel_of = |peer| self.topology.peers.get(&peer).map_or(TunnelId(0), |plan| plan.tunnel);
        let path = |(peer, state): (u32, &PathState)| Path {
            tunnel: tunnel_of(PeerId(peer)),
            session: state.sealing.clone(),
            encap: encap(state),
        };
        (0..).zip(self.paths).map(path).collect()
    }

    fn interfaces(&self) -> Map<FrameKey, InterfaceId> {
        let mut interfaces = Map::default();
        for plan in &self.topology.interfaces {
            for key in frame_keys(self.topology, self.view, plan.interface) {
                interfaces.insert(key, plan.interface);
            }
        }
        interfaces
    }

    fn egresses(&self) -> Map<InterfaceId, Egress> {
        let egress = |plan| egress::egress(self.topology, self.view, plan);
        self.topology.interfaces.iter().filter_map(|plan| Some((plan.interface, egress(plan)?))).collect()
    }

    fn neighbours(&self) -> Map<Host, [u8; 6]> {
        let ours = |id| self.topology.interfaces.iter().any(|plan| plan.interface == id);
        let known = self.view.neighbours.iter().filter(|n| ours(n.interface));
        known.map(|n| (Host::new(n.interface, n.address), n.mac)).collect()
    }
}

/// What names the frames of an interface on each of its ports.
pub fn frame_keys(topology: &Topology, view: &View, interface: InterfaceId) -> Vec<FrameKey> {
    let plan = topology.interfaces.iter().find(|plan| plan.interface == interface);
    let (Some(plan), Some(link)) = (plan, view.link(interface)) else { return Vec::new() };
    let vlan = |i: usize| plan.vlans.get(i).copied().unwrap_or(0);
    let key = |port| FrameKey { port, outer_vlan: vlan(0), inner_vlan: vlan(1), mac: link.mac };
    plan.ports.iter().map(|port| key(*port)).collect()
}

fn sessions(slots: &Slots) -> impl Iterator<Item = (u32, Arc<Session>)> {
    let all = [&slots.previous, &slots.current, &slots.next];
    all.into_iter().flatten().map(|s| (s.local_index, Arc::clone(s))).collect::<Vec<_>>().into_iter()
}

//! Snapshots computed from what the control thread knows; pure.

use std::net::{IpAddr, SocketAddr};
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
use crate::pipeline::snapshot::{
    Egress, Encap, FrameKey, Group, Hop, Map, Neighbours, Path, Router, Snapshot, Tunnel,
};
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
        let snapshot = |routes, paths: Vec<Path>, interfaces, hops| Snapshot {
            generation,
            interfaces: Arc::new(interfaces),
            routes: Arc::clone(routes),
            groups: Arc::clone(self.groups),
            paths: paths.into(),
            tunnels: Arc::clone(self.tunnels),
            sessions: Arc::clone(&sessions),
            hops,
            neighbours: Arc::clone(&neighbours),
            transit: self.transit,
        };
        let fast = self.paths(|state| state.encap.clone());
        let reachable = |state: &PathState| state.endpoint.filter(|_| !state.looped);
        let slow = self.paths(|state| reachable(state).map(|to| Encap::Datagram { to }));
        let frames = self.egresses();
        let by_ports = |interface| frames.get(&interface).cloned().unwrap_or(Egress::Kernel);
        (
            snapshot(&self.routes.fast, fast, self.interfaces(), self.hops(&neighbours, by_ports)),
            snapshot(&self.routes.slow, slow, Map::default(), self.hops(&neighbours, |_| Egress::Kernel)),
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

    fn hops(&self, neighbours: &Neighbours, egress: impl Fn(InterfaceId) -> Egress) -> Arc<[Hop]> {
        let hop = |&(interface, router): &(InterfaceId, Option<IpAddr>)| Hop {
            interface,
            router: router.map(|address| {
                let mac = neighbours.get(interface, address).copied();
                Router { address, mac }
            }),
            egress: egress(interface),
        };
        self.routes.hops.iter().map(hop).collect()
    }

    fn neighbours(&self) -> Neighbours {
        let ours = |id| self.topology.interfaces.iter().any(|plan| plan.interface == id);
        let known = self.view.neighbours.iter().filter(|n| ours(n.interface));
        known.map(|n| (n.interface, n.address, n.mac)).collect()
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

#[cfg(test)]
mod tests {
    use arrayvec::ArrayVec;

    use super::*;
    use crate::id::PortId;
    use crate::kernel::{Link, Neighbour};
    use crate::topology::{InterfacePlan, Mode, PortPlan};

    const LAN: InterfaceId = InterfaceId(2);

    fn topology() -> Topology {
        let port = PortPlan {
            interface: LAN,
            name: "lan".into(),
            bond: None,
            queues: 1,
            mode: Mode::Copy,
            chunk: 2048,
        };
        let interface = InterfacePlan {
            interface: LAN,
            name: "lan".into(),
            vlans: ArrayVec::new(),
            ports: vec![PortId(0)],
        };
        Topology { ports: vec![port], interfaces: vec![interface], ..Topology::default() }
    }

    /// Workers send to a router by its MAC address, as soon as that is known; the slow path leaves it to the kernel.
    #[test]
    fn hops_have_what_is_known_of_them() {
        let [known, unknown] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse::<IpAddr>().unwrap());
        let link = Link { mac: [2; 6], mtu: 1500, up: true, carrier: true, ..Link::new(LAN) };
        let neighbour = Neighbour { interface: LAN, address: known, mac: [4; 6] };
        let view = View { links: vec![link], neighbours: vec![neighbour], ..View::default() };
        let hops = vec![(LAN, None), (LAN, Some(known)), (LAN, Some(unknown)), (InterfaceId(3), None)];
        let world = World {
            topology: &topology(),
            view: &view,
            routes: &Merged { hops, ..Merged::default() },
            tunnels: &Arc::default(),
            paths: &[],
            groups: &Arc::default(),
            transit: false,
        };
        let (fast, slow) = world.snapshots(1);
        let router = |address, mac| Some(Router { address, mac });
        let routers: Vec<_> = fast.hops.iter().map(|hop| hop.router).collect();
        assert_eq!(routers, [None, router(known, Some([4; 6])), router(unknown, None), None]);
        let by_ports =
            |hop: &Hop| matches!(&hop.egress, Egress::Ethernet { ports, .. } if **ports == [PortId(0)]);
        assert_eq!(fast.hops.iter().map(by_ports).collect::<Vec<_>>(), [true, true, true, false]);
        assert_eq!(fast.neighbours.get(LAN, known), Some(&[4; 6]));
        assert!(slow.hops.len() == 4 && slow.hops.iter().all(|hop| matches!(hop.egress, Egress::Kernel)));
    }
}

//! The gateway as the control thread has it: what it is made from, and what it knows of its peers.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::CryptoRng;

use super::egress::{self, Obstacle};
use super::handle::Handle;
use super::names::Names;
use super::plan;
use super::routes::Merged;
use super::snapshots::{self, PathState};
use crate::clock::{self, Boottime, Wall};
use crate::config::{Settings, TunnelConfig};
use crate::id::{InterfaceId, PeerId, TunnelId};
use crate::kernel::View;
use crate::kernel::netlink::{Changed, Kernel};
use crate::pipeline::snapshot::{Group, Tunnel};
use crate::port::udp::UdpSockets;
use crate::publish::Publisher;
use crate::topology::{Topology, TunnelPlan};
use crate::wireguard::{self, PeerStatus};
use crate::xdp::Program;

/// What the gateway is made from. Only [`Gateway::reconfigure`] changes it: never ports, workers and TUN.
#[derive(Debug)]
pub struct Plan {
    /// The topology.
    pub topology: Topology,
    /// The tunnels' files, in the order of the topology's tunnels.
    pub configs: Vec<TunnelConfig>,
    /// forwarder.toml.
    pub settings: Settings,
    /// Our TUN.
    pub tun: InterfaceId,
    /// The tunnels' inbound side.
    pub tunnels: Arc<[Tunnel]>,
    /// What the tunnels share.
    pub shared: Arc<wireguard::Shared>,
}

impl Plan {
    /// Where a peer's configuration is: its tunnel's place, and its section's place in that.
    pub(super) fn section(&self, peer: PeerId) -> Option<(usize, usize)> {
        let plan = self.topology.peers.get(&peer)?;
        let tunnel = self.topology.tunnels.iter().position(|tunnel| tunnel.id == plan.tunnel)?;
        Some((tunnel, plan.section))
    }

    /// What messages call a peer: `wg0/berlin`, or `wg0/` and the start of its key.
    pub(super) fn label(&self, peer: PeerId) -> String {
        let named = self.section(peer).and_then(|(tunnel, section)| {
            let config = self.configs.get(tunnel)?;
            Some(format!("{}/{}", config.name, config.peers.get(section)?.label()))
        });
        named.unwrap_or_else(|| format!("peer {peer}"))
    }
}

/// Everything that the control thread owns.
pub struct Gateway {
    /// What it is made from.
    pub plan: Plan,
    /// The way to the kernel's tables.
    pub kernel: Kernel,
    /// Those tables, as last read.
    pub view: View,
    /// The tunnels' protocol state.
    pub tunnels: BTreeMap<TunnelId, wireguard::Tunnel>,
    /// The ports' XDP programs, by [`PortId`](crate::id::PortId).
    pub programs: Vec<Program>,
    /// The tunnels' UDP sockets.
    pub sockets: Arc<UdpSockets>,
    /// What lanes ask for.
    pub handle: Arc<Handle>,
    /// The way to the lanes; the last lane is the slow path.
    pub publisher: Publisher,
    pub(super) paths: Vec<PathState>,
    pub(super) obstacles: Vec<Option<Obstacle>>,
    pub(super) routes: Merged,
    pub(super) healthy: Vec<bool>,
    /// Of the healthy paths.
    pub(super) groups: Arc<[Group]>,
    pub(super) generation: u64,
    pub(super) stale: Stale,
    pub(super) names: Names,
    pub(super) keepalives: Vec<PeerId>,
    pub(super) neighbours_used: Boottime,
    /// The kernel's tables are not read again before.
    pub(super) view_due: Boottime,
    /// Where the keys of handshakes are written.
    #[cfg(feature = "keylog")]
    pub keylog: Option<super::keylog::Keylog>,
}

/// What must be done before the turn's messages leave.
#[derive(Debug)]
pub(super) struct Stale {
    /// These of the kernel's tables changed.
    pub(super) view: Changed,
    /// The programs' maps must be written.
    pub(super) maps: bool,
    /// Paths must be resolved again.
    pub(super) paths: bool,
    /// Snapshots must be published.
    pub(super) snapshots: bool,
}

impl Gateway {
    /// A gateway that has not published anything yet; its first turn does.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        plan: Plan,
        kernel: Kernel,
        view: View,
        tunnels: BTreeMap<TunnelId, wireguard::Tunnel>,
        programs: Vec<Program>,
        sockets: Arc<UdpSockets>,
        handle: Arc<Handle>,
        publisher: Publisher,
    ) -> Self {
        let mut this = Self {
            plan,
            kernel,
            view,
            tunnels,
            programs,
            sockets,
            handle,
            publisher,
            paths: Vec::new(),
            obstacles: Vec::new(),
            routes: Merged::default(),
            healthy: Vec::new(),
            groups: Arc::default(),
            generation: 0,
            stale: Stale { view: Changed::empty(), maps: true, paths: true, snapshots: true },
            names: Names::default(),
            keepalives: Vec::new(),
            neighbours_used: Boottime::default(),
            view_due: Boottime::default(),
            #[cfg(feature = "keylog")]
            keylog: None,
        };
        this.make_room();
        this.regroup();
        this.open_doors();
        this
    }

    /// Computes how flows spread over the healthy paths; after a change of the topology, too.
    pub(super) fn regroup(&mut self) {
        self.groups = snapshots::groups(&self.plan.topology, &self.healthy);
        self.stale.snapshots = true;
    }

    /// Lets handshake messages come to the tunnels that there are, and to no other.
    pub(super) fn open_doors(&self) {
        self.handle.set_doors(self.tunnels.iter().map(|(id, tunnel)| (*id, tunnel.door())).collect());
    }

    /// Room for the state of every peer, by its id.
    pub(super) fn make_room(&mut self) {
        let ids = self.plan.topology.peers.keys().next_back().map_or(0, |last| last.index() + 1);
        let ids = ids.max(self.paths.len());
        self.paths.resize_with(ids, PathState::default);
        self.obstacles.resize(ids, None);
        self.healthy.resize(ids, false);
    }

    /// The tunnels as they are configured now.
    pub fn configs(&self) -> &[TunnelConfig] {
        &self.plan.configs
    }

    /// A tunnel by its name: its plan, and what it is made from.
    pub(super) fn named(&self, tunnel: &str) -> Option<(&TunnelPlan, &TunnelConfig)> {
        let mut tunnels = self.plan.topology.tunnels.iter().zip(&self.plan.configs);
        tunnels.find(|(plan, _)| plan.name == tunnel)
    }

    /// Starts a handshake with every peer whose endpoint is known, so that the first packets find
    /// their tunnels up.
    pub fn greet(&mut self, rng: &mut dyn CryptoRng) {
        self.greet_these(self.peers(), rng);
    }

    pub(super) fn greet_these(&mut self, peers: impl IntoIterator<Item = PeerId>, rng: &mut dyn CryptoRng) {
        let (now, wall) = (clock::boottime(), clock::wall());
        for peer in peers {
            if self.status(peer).is_some_and(|s| s.endpoint.is_some()) {
                self.want_session(peer, now, wall, rng);
            }
        }
    }

    /// Begins anew with every peer: who was away, and may have used its nonces meanwhile, must not use them again.
    pub fn end_sessions(&mut self, rng: &mut dyn CryptoRng) {
        self.tunnels.values_mut().for_each(wireguard::Tunnel::end_sessions);
        self.greet(rng);
    }

    /// Whether the port may transmit now.
    pub fn transmits(&self, port: usize) -> bool {
        egress::usable(&self.view, &self.plan.topology.ports[port])
    }

    /// Notes that the kernel's tables changed.
    pub fn note(&mut self, changed: Changed) {
        self.stale.view |= changed;
    }

    /// When the next turn is due even if nothing happens.
    pub fn deadline(&self) -> Option<Boottime> {
        self.tunnels.values().filter_map(|t| t.poll_timeout().map(|(at, _)| at)).min()
    }

    pub(super) fn peers(&self) -> impl Iterator<Item = PeerId> + use<> {
        self.plan.topology.peers.keys().copied().collect::<Vec<_>>().into_iter()
    }

    pub(super) fn tunnel_of(&self, peer: PeerId) -> Option<TunnelId> {
        self.plan.topology.peers.get(&peer).map(|plan| plan.tunnel)
    }

    pub(super) fn status(&self, peer: PeerId) -> Option<PeerStatus> {
        self.tunnels.get(&self.tunnel_of(peer)?)?.status(peer)
    }

    /// The mark of a tunnel's outer packets, 0 = none.
    pub(super) fn fwmark(&self, tunnel: TunnelId) -> u32 {
        let mut tunnels = self.plan.topology.tunnels.iter().zip(&self.plan.configs);
        tunnels.find(|(plan, _)| plan.id == tunnel).map_or(0, |(_, config)| plan::fwmark(config))
    }

    /// The peers of all groups that `peer` belongs to, itself included.
    pub(super) fn siblings(&self, peer: PeerId) -> Vec<PeerId> {
        let groups = self.plan.topology.peers.get(&peer).map(|plan| &plan.groups);
        let of = |group: &crate::id::GroupId| self.plan.topology.groups[group.index()].peers.clone();
        groups.into_iter().flatten().flat_map(of).collect()
    }

    pub(super) fn tunnel(&mut self, peer: PeerId) -> Option<&mut wireguard::Tunnel> {
        self.tunnels.get_mut(&self.plan.topology.peers.get(&peer)?.tunnel)
    }

    pub(super) fn want_session(&mut self, peer: PeerId, now: Boottime, wall: Wall, rng: &mut dyn CryptoRng) {
        if let Some(tunnel) = self.tunnel(peer) {
            tunnel.want_session(peer, now, wall, rng);
        }
    }
}

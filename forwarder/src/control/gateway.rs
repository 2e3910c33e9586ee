//! The control thread's loop: handshakes, timers, the kernel's changes; then publish, then send.
//!
//! Every turn ends in the same order: sessions and paths are published before any message that
//! reveals them leaves.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use rand::CryptoRng;

use super::egress::{self, Obstacle};
use super::handle::{Admitted, Handle};
use super::names::Names;
use super::plan;
use super::routes::Merged;
use super::snapshots::{self, PathState, World};
use crate::clock::{self, Boottime, Wall};
use crate::config::{Settings, TunnelConfig};
use crate::id::{InterfaceId, PeerId, TunnelId};
use crate::kernel::View;
use crate::kernel::netlink::{Changed, Kernel};
use crate::pipeline::control::Injected;
use crate::pipeline::snapshot::{Group, Tunnel};
use crate::port::udp::UdpSockets;
use crate::publish::Publisher;
use crate::topology::{Topology, TunnelPlan};
use crate::wireguard::{self, Event, PeerStatus, Transmit};
use crate::xdp::Program;

/// The lane that sends what the control thread injects.
const INJECTING_LANE: usize = 0;
/// Handshake messages that one turn takes: a flood must not hold up timers, and answers leave between turns.
const HANDSHAKES_PER_TURN: usize = 64;
/// How long messages are held back for a lane that does not take its snapshot; it may be descheduled.
const PUBLISHED_WITHIN: Duration = Duration::from_millis(100);
/// How often next hops are confirmed through the kernel, so that a silent change of MAC is noticed.
const NEIGHBOUR_INTERVAL: Duration = Duration::from_secs(15);

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
    /// The ports' XDP programs, by [`PortId`].
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

    /// One turn: read what came, act, publish, send.
    pub async fn turn(&mut self, rng: &mut dyn CryptoRng) {
        self.look_up_names();
        self.receive(rng);
        self.run_timers(rng);
        self.ask_neighbours().await;
        self.collect_events();
        self.refresh_view().await;
        self.resolve_paths().await;
        self.look_at_health();
        self.publish();
        self.publisher.settled(PUBLISHED_WITHIN).await;
        self.seal_with_new_sessions();
        self.publish();
        #[cfg(feature = "keylog")]
        self.log_keys();
        self.send();
        self.publisher.reclaim();
    }

    /// Handshake messages and wanted sessions.
    fn receive(&mut self, rng: &mut dyn CryptoRng) {
        let (now, wall) = (clock::boottime(), clock::wall());
        for _ in 0..HANDSHAKES_PER_TURN {
            let Some(Admitted { tunnel: id, source, message }) = self.handle.next_handshake() else { break };
            // Its tunnel may be gone by now.
            let Some(tunnel) = self.tunnels.get_mut(&id) else { continue };
            if let Err(refusal) = tunnel.admitted(now, wall, rng, source, &message) {
                let name = self.plan.topology.tunnel(id).map_or("", |plan| &plan.name);
                tracing::debug!("{name}: refused a handshake message of {source}: {refusal:?}");
            }
        }
        self.handle.wake_if_any();
        // One path of a group wants a session: its siblings are to share the load, so they all do.
        let wanted: Vec<PeerId> =
            self.peers().filter(|peer| self.handle.take_session_wanted(*peer)).collect();
        let retried = self.peers().filter(|peer| self.paths[peer.index()].retries(now));
        let retried: Vec<PeerId> = retried.collect();
        let wanted: Vec<_> = wanted.into_iter().chain(retried).collect();
        for peer in wanted.into_iter().flat_map(|peer| self.siblings(peer)).collect::<Vec<_>>() {
            self.want_session(peer, now, wall, rng);
        }
    }

    fn run_timers(&mut self, rng: &mut dyn CryptoRng) {
        let (now, wall) = (clock::boottime(), clock::wall());
        for tunnel in self.tunnels.values_mut() {
            if tunnel.poll_timeout().is_some_and(|(at, _)| at <= now) {
                tunnel.handle_timeout(now, wall, rng);
            }
        }
    }

    /// Has the kernel look for next hops that lanes miss, and confirm those in use.
    async fn ask_neighbours(&mut self) {
        let mut wanted = Vec::new();
        while let Some(next_hop) = self.handle.next_neighbour() {
            if !wanted.contains(&next_hop) {
                wanted.push(next_hop);
            }
        }
        if clock::boottime().since(self.neighbours_used) >= NEIGHBOUR_INTERVAL {
            self.neighbours_used = clock::boottime();
            let ours = |id| self.plan.topology.interfaces.iter().any(|plan| plan.interface == id);
            let known = self.view.neighbours.iter().filter(|n| ours(n.interface));
            wanted.extend(known.map(|n| (n.interface, n.address)));
        }
        for (interface, address) in wanted {
            self.use_neighbour(interface, address).await;
        }
    }

    pub(super) async fn use_neighbour(&self, interface: InterfaceId, address: IpAddr) {
        if let Err(error) = self.kernel.use_neighbour(interface, address).await {
            tracing::debug!("cannot ask for the MAC address of {address}: {error}");
        }
    }

    fn collect_events(&mut self) {
        let mut silent = Vec::new();
        for tunnel in self.tunnels.values_mut() {
            while let Some(event) = tunnel.poll_event() {
                match event {
                    Event::Sessions(peer) => {
                        let path = &mut self.paths[peer.index()];
                        path.slots = tunnel.slots(peer);
                        path.given_up = None;
                        self.stale.snapshots = true;
                    }
                    Event::Endpoint(_) => self.stale.paths = true,
                    Event::Keepalive(peer) => self.keepalives.push(peer),
                    Event::GaveUp(peer) => silent.push(peer),
                }
            }
        }
        for peer in silent {
            self.paths[peer.index()].given_up = Some(clock::boottime());
            tracing::warn!("{}", self.silence(peer));
        }
    }

    /// What the operator should know of a peer that answers no handshake.
    pub(super) fn silence(&self, peer: PeerId) -> String {
        let others = self.siblings(peer).iter().any(|other| *other != peer && self.healthy[other.index()]);
        let meanwhile = if others { "; its flows go by other tunnels" } else { "" };
        let label = self.plan.label(peer);
        format!("{label} answers no handshake: check its Endpoint, the keys, and UDP in between{meanwhile}")
    }

    /// Keys are written before the message that they read is sent.
    #[cfg(feature = "keylog")]
    fn log_keys(&mut self) {
        let secrets = self.tunnels.values_mut().flat_map(|t| std::iter::from_fn(|| t.poll_secrets()));
        let Some(keylog) = &mut self.keylog else { return secrets.for_each(drop) };
        secrets.for_each(|secrets| keylog.write(&secrets));
        keylog.warn(clock::boottime());
    }

    fn publish(&mut self) {
        if !std::mem::take(&mut self.stale.snapshots) {
            return;
        }
        self.generation += 1;
        let world = World {
            topology: &self.plan.topology,
            view: &self.view,
            routes: &self.routes,
            tunnels: &self.plan.tunnels,
            paths: &self.paths,
            groups: &self.groups,
            transit: self.plan.settings.transit,
        };
        let (fast, slow) = world.snapshots(self.generation);
        let workers = self.plan.topology.cores.len();
        let fast = Arc::new(fast);
        for worker in 0..workers {
            self.publisher.publish(worker, Arc::clone(&fast));
        }
        self.publisher.publish(workers, Arc::new(slow));
    }

    /// Sends handshake messages and keepalives: by the path's own port where there is one, so that a
    /// dead port is a dead tunnel; else by the tunnel's UDP socket.
    fn send(&mut self) {
        let mut transmits = Vec::new();
        for (id, tunnel) in &mut self.tunnels {
            transmits.extend(std::iter::from_fn(|| tunnel.poll_transmit()).map(|transmit| (*id, transmit)));
        }
        for (tunnel, transmit) in transmits {
            self.send_handshake(tunnel, &transmit);
        }
        let workers = self.plan.topology.cores.len();
        for peer in std::mem::take(&mut self.keepalives) {
            let by_port = self.paths[peer.index()].encap.is_some();
            let lane = if by_port { INJECTING_LANE } else { workers };
            self.inject(lane, Injected::Keepalive(peer));
        }
    }

    fn send_handshake(&mut self, tunnel: TunnelId, transmit: &Transmit) {
        let path = transmit.peer.map(|peer| (peer, &self.paths[peer.index()]));
        if path.is_some_and(|(_, path)| path.looped) {
            return;
        }
        let by_port = path.filter(|(_, path)| path.encap.is_some() && path.endpoint == Some(transmit.to));
        if let (Some((peer, _)), Ok(payload)) = (by_port, ArrayVec::try_from(&transmit.payload[..])) {
            return self.inject(INJECTING_LANE, Injected::Message { peer, payload });
        }
        if let Err(error) = self.sockets.send_to(tunnel, transmit.to, transmit.ds(), &transmit.payload) {
            tracing::debug!("cannot send a handshake message to {}: {error}", transmit.to);
        }
    }

    fn inject(&self, lane: usize, message: Injected) {
        if !self.publisher.inject(lane, message) {
            tracing::warn!(
                "a lane takes no messages: a handshake or keepalive is lost, and will be repeated"
            );
        }
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
    fn siblings(&self, peer: PeerId) -> Vec<PeerId> {
        let groups = self.plan.topology.peers.get(&peer).map(|plan| &plan.groups);
        let of = |group: &crate::id::GroupId| self.plan.topology.groups[group.index()].peers.clone();
        groups.into_iter().flatten().flat_map(of).collect()
    }

    pub(super) fn tunnel(&mut self, peer: PeerId) -> Option<&mut wireguard::Tunnel> {
        self.tunnels.get_mut(&self.plan.topology.peers.get(&peer)?.tunnel)
    }

    fn want_session(&mut self, peer: PeerId, now: Boottime, wall: Wall, rng: &mut dyn CryptoRng) {
        if let Some(tunnel) = self.tunnel(peer) {
            tunnel.want_session(peer, now, wall, rng);
        }
    }
}

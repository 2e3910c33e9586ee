//! The control thread's loop: handshakes, timers, the kernel's changes; then publish, then send.
//!
//! Every turn ends in the same order: sessions and paths are published before any message that
//! reveals them leaves.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use forwarder_contract::{Interface, InterfaceKey, Listener};
use rand::CryptoRng;

use super::egress::{self, Obstacle};
use super::handle::Handle;
use super::routes;
use super::snapshots::{self, PathState, World};
use crate::clock::{self, Boottime};
use crate::id::{InterfaceId, PeerId, PortId, TunnelId};
use crate::kernel::View;
use crate::kernel::netlink::{Changed, Kernel};
use crate::pipeline::control::Injected;
use crate::pipeline::snapshot::{Encap, Routes, Tunnel};
use crate::port::udp::UdpSockets;
use crate::publish::Publisher;
use crate::topology::Topology;
use crate::wireguard::{self, Event, Transmit};
use crate::xdp::{Program, XdpError};

/// DS byte of handshake messages: DSCP AF41, as the kernel marks them.
const HANDSHAKE_TOS: u8 = 0x88;
/// The lane that sends what the control thread injects.
const INJECTING_LANE: usize = 0;
/// How long messages are held back for a lane that does not take its snapshot; it may be descheduled.
const PUBLISHED_WITHIN: Duration = Duration::from_millis(100);
/// How often next hops are confirmed through the kernel, so that a silent change of MAC is noticed.
const NEIGHBOUR_INTERVAL: Duration = Duration::from_secs(15);

/// What never changes while the gateway runs.
#[derive(Debug)]
pub struct Plan {
    /// The topology.
    pub topology: Topology,
    /// Our TUN.
    pub tun: InterfaceId,
    /// The tunnels' inbound side.
    pub tunnels: Arc<[Tunnel]>,
    /// The mark of each tunnel's outer packets, 0 = none.
    pub fwmarks: Vec<u32>,
    /// Whether opened packets may go out by another tunnel.
    pub transit: bool,
}

/// Everything that the control thread owns.
pub struct Gateway {
    /// What never changes.
    pub plan: Plan,
    /// The way to the kernel's tables.
    pub kernel: Kernel,
    /// Those tables, as last read.
    pub view: View,
    /// The tunnels' protocol state.
    pub tunnels: Vec<wireguard::Tunnel>,
    /// The ports' XDP programs, by [`PortId`].
    pub programs: Vec<Program>,
    /// The tunnels' UDP sockets.
    pub sockets: Arc<UdpSockets>,
    /// What lanes ask for.
    pub handle: Arc<Handle>,
    /// The way to the lanes; the last lane is the slow path.
    pub publisher: Publisher,
    paths: Vec<PathState>,
    obstacles: Vec<Option<Obstacle>>,
    routes: Arc<Routes>,
    generation: u64,
    stale: Stale,
    keepalives: Vec<PeerId>,
    neighbours_used: Boottime,
}

/// What must be done before the turn's messages leave.
#[derive(Debug)]
struct Stale {
    /// These of the kernel's tables changed.
    view: Changed,
    /// Paths must be resolved again.
    paths: bool,
    /// Snapshots must be published.
    snapshots: bool,
}

impl Gateway {
    /// A gateway that has not published anything yet; its first turn does.
    #[allow(clippy::too_many_arguments)]
    pub fn new(
        plan: Plan,
        kernel: Kernel,
        view: View,
        tunnels: Vec<wireguard::Tunnel>,
        programs: Vec<Program>,
        sockets: Arc<UdpSockets>,
        handle: Arc<Handle>,
        publisher: Publisher,
    ) -> Self {
        let peers = plan.topology.peers.len();
        Self {
            plan,
            kernel,
            view,
            tunnels,
            programs,
            sockets,
            handle,
            publisher,
            paths: (0..peers).map(|_| PathState::default()).collect(),
            obstacles: vec![None; peers],
            routes: Arc::default(),
            generation: 0,
            stale: Stale { view: Changed::all(), paths: true, snapshots: true },
            keepalives: Vec::new(),
            neighbours_used: Boottime::default(),
        }
    }

    /// Starts a handshake with every peer whose endpoint is known, so that the first packets find
    /// their tunnels up.
    pub fn greet(&mut self, rng: &mut dyn CryptoRng) {
        let (now, wall) = (clock::boottime(), clock::wall());
        for peer in self.peers() {
            if self.tunnel(peer).status(peer).is_some_and(|s| s.endpoint.is_some()) {
                self.tunnel(peer).want_session(peer, now, wall, rng);
            }
        }
    }

    /// Reads the state of the bonds' slaves, which the kernel does not always announce.
    ///
    /// # Errors
    /// When the kernel refuses to be read.
    pub async fn look_at_bonds(&mut self) -> anyhow::Result<()> {
        let mut bonds: Vec<InterfaceId> =
            self.plan.topology.ports.iter().filter_map(|port| port.bond).collect();
        bonds.dedup();
        for bond in bonds {
            for slave in self.kernel.slaves(bond).await? {
                let known = self.view.links.iter_mut().find(|link| link.id == slave.id);
                if let Some(known) = known.filter(|known| **known != slave) {
                    *known = slave;
                    self.stale.paths = true;
                }
            }
        }
        Ok(())
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
        self.tunnels.iter().filter_map(|t| t.poll_timeout().map(|(at, _)| at)).min()
    }

    /// One turn: read what came, act, publish, send.
    ///
    /// # Errors
    /// When the kernel refuses to be read or a map to be written: the gateway cannot go on then.
    pub async fn turn(&mut self, rng: &mut dyn CryptoRng) -> anyhow::Result<()> {
        self.receive(rng);
        self.run_timers(rng);
        self.ask_neighbours().await;
        self.collect_events();
        self.refresh_view().await?;
        self.resolve_paths().await;
        self.publish();
        self.publisher.settled(PUBLISHED_WITHIN).await;
        self.send();
        self.publisher.reclaim();
        Ok(())
    }

    /// Handshake messages and wanted sessions.
    fn receive(&mut self, rng: &mut dyn CryptoRng) {
        let (now, wall) = (clock::boottime(), clock::wall());
        while let Some((handshake, loaded)) = self.handle.next_handshake() {
            let tunnel = &mut self.tunnels[handshake.tunnel.index()];
            let outcome = tunnel.receive(now, wall, rng, handshake.source, &handshake.message, loaded);
            if let Err(refusal) = outcome {
                let name = &self.plan.topology.tunnels[handshake.tunnel.index()].name;
                tracing::debug!("{name}: refused a handshake message of {}: {refusal:?}", handshake.source);
            }
        }
        // One path of a group wants a session: its siblings are to share the load, so they all do.
        let wanted: Vec<PeerId> =
            self.peers().filter(|peer| self.handle.take_session_wanted(*peer)).collect();
        for peer in wanted.into_iter().flat_map(|peer| self.siblings(peer)).collect::<Vec<_>>() {
            self.tunnel(peer).want_session(peer, now, wall, rng);
        }
    }

    fn run_timers(&mut self, rng: &mut dyn CryptoRng) {
        let (now, wall) = (clock::boottime(), clock::wall());
        for tunnel in &mut self.tunnels {
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
        let now = clock::boottime();
        if now.since(self.neighbours_used) >= NEIGHBOUR_INTERVAL {
            self.neighbours_used = now;
            let ours = |id| self.plan.topology.interfaces.iter().any(|plan| plan.interface == id);
            let known = self.view.neighbours.iter().filter(|n| ours(n.interface));
            wanted.extend(known.map(|n| (n.interface, n.address)));
        }
        for (interface, address) in wanted {
            self.use_neighbour(interface, address).await;
        }
    }

    async fn use_neighbour(&self, interface: InterfaceId, address: IpAddr) {
        if let Err(error) = self.kernel.use_neighbour(interface, address).await {
            tracing::debug!("cannot ask for the MAC address of {address}: {error}");
        }
    }

    fn collect_events(&mut self) {
        for tunnel in &mut self.tunnels {
            while let Some(event) = tunnel.poll_event() {
                match event {
                    Event::Sessions(peer) => {
                        self.paths[peer.index()].slots = tunnel.slots(peer);
                        self.stale.snapshots = true;
                    }
                    Event::Endpoint(_) => self.stale.paths = true,
                    Event::Keepalive(peer) => self.keepalives.push(peer),
                    Event::GaveUp(peer) => {
                        tracing::warn!("peer {peer}: no answer to handshakes, giving up until data waits");
                    }
                }
            }
        }
    }

    async fn refresh_view(&mut self) -> anyhow::Result<()> {
        let changed = std::mem::replace(&mut self.stale.view, Changed::empty());
        if changed.is_empty() {
            return Ok(());
        }
        self.kernel.refresh(&mut self.view, changed).await?;
        // Neighbours stand in no map; what else changed may.
        if changed != Changed::NEIGHBOURS {
            self.routes = Arc::new(routes::merge(&self.view, &self.plan.topology, self.plan.tun));
            self.write_maps()?;
        }
        self.stale.paths = true;
        self.stale.snapshots = true;
        Ok(())
    }

    /// Tells every XDP program which frames are ours now.
    fn write_maps(&mut self) -> Result<(), XdpError> {
        let steering = routes::steering(&self.routes);
        let listeners = self.listeners();
        for (port, program) in (0..).map(PortId).zip(&mut self.programs) {
            program.set_steering(&steering)?;
            program.set_listeners(&listeners)?;
            program.set_interfaces(&interfaces(&self.plan, &self.view, port))?;
        }
        Ok(())
    }

    /// Every local address with every listen port.
    fn listeners(&self) -> Vec<Listener> {
        let address = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let ports = self.plan.tunnels.iter().map(|t| t.listen_port.to_be());
        let listener = |port_be| {
            let at = move |a: &crate::kernel::Address| Listener {
                address: address(a.address.addr()),
                port_be,
                padding: [0; 2],
            };
            self.view.addresses.iter().map(at)
        };
        ports.flat_map(listener).collect()
    }

    /// Looks up how each peer's messages leave.
    async fn resolve_paths(&mut self) {
        if !std::mem::take(&mut self.stale.paths) {
            return;
        }
        for peer in self.peers() {
            let tunnel = self.plan.topology.peers[peer.index()].tunnel;
            let endpoint = self.tunnels[tunnel.index()].status(peer).and_then(|s| s.endpoint);
            let outcome = self.resolve(tunnel, endpoint).await;
            if let Some(Obstacle::Neighbour(interface, address)) = outcome.as_ref().err() {
                self.use_neighbour(*interface, *address).await;
            }
            let (encap, obstacle) = match outcome {
                Ok(encap) => (encap, None),
                Err(obstacle) => (None, Some(obstacle)),
            };
            self.report_obstacle(peer, obstacle);
            let path = &mut self.paths[peer.index()];
            path.endpoint = endpoint;
            path.encap = encap;
        }
        self.stale.snapshots = true;
    }

    async fn resolve(
        &self,
        tunnel: TunnelId,
        endpoint: Option<std::net::SocketAddr>,
    ) -> Result<Option<Encap>, Obstacle> {
        let Some(remote) = endpoint else { return Ok(None) };
        let resolved = self.kernel.resolve(remote.ip(), self.plan.fwmarks[tunnel.index()]).await;
        let resolved = resolved.map_err(|error| Obstacle::Unroutable(error.to_string()))?;
        let port = self.plan.tunnels[tunnel.index()].listen_port;
        egress::encap(&self.plan.topology, &self.view, self.plan.tun, tunnel, port, remote, &resolved)
            .map(Some)
    }

    /// Says once what stands in a path's way, and once that it is gone.
    fn report_obstacle(&mut self, peer: PeerId, obstacle: Option<Obstacle>) {
        let known = &mut self.obstacles[peer.index()];
        if *known == obstacle {
            return;
        }
        let tunnel = self.plan.topology.peers[peer.index()].tunnel;
        let name = &self.plan.topology.tunnels[tunnel.index()].name;
        match &obstacle {
            // Neighbours come and go; only their lasting absence is news, and packets count it.
            Some(Obstacle::Neighbour(..)) => {
                tracing::debug!("{name}: {}", obstacle_text(&self.view, obstacle.as_ref()));
            }
            Some(_) => tracing::warn!("{name}: {}", obstacle_text(&self.view, obstacle.as_ref())),
            None => tracing::info!("{name}: path is up"),
        }
        *known = obstacle;
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
            transit: self.plan.transit,
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
        for tunnel in 0..self.tunnels.len() {
            while let Some(transmit) = self.tunnels[tunnel].poll_transmit() {
                self.send_handshake(TunnelId(tunnel as u16), &transmit);
            }
        }
        let workers = self.plan.topology.cores.len();
        for peer in std::mem::take(&mut self.keepalives) {
            let by_port = self.paths[peer.index()].encap.is_some();
            let lane = if by_port { INJECTING_LANE } else { workers };
            self.publisher.inject(lane, Injected::Keepalive(peer));
        }
    }

    fn send_handshake(&mut self, tunnel: TunnelId, transmit: &Transmit) {
        let path = transmit.peer.map(|peer| (peer, &self.paths[peer.index()]));
        let by_port = path.filter(|(_, path)| path.encap.is_some() && path.endpoint == Some(transmit.to));
        if let (Some((peer, _)), Ok(payload)) = (by_port, ArrayVec::try_from(&transmit.payload[..])) {
            self.publisher.inject(INJECTING_LANE, Injected::Message { peer, payload });
            return;
        }
        // Cookie replies carry no mark.
        let tos = if transmit.peer.is_some() { HANDSHAKE_TOS } else { 0 };
        if let Err(error) = self.sockets.send_to(tunnel, transmit.to, tos, &transmit.payload) {
            tracing::debug!("cannot send a handshake message to {}: {error}", transmit.to);
        }
    }

    fn peers(&self) -> impl Iterator<Item = PeerId> + use<> {
        (0..self.plan.topology.peers.len() as u32).map(PeerId)
    }

    /// The peers of all groups that `peer` belongs to, itself included.
    fn siblings(&self, peer: PeerId) -> Vec<PeerId> {
        let groups = &self.plan.topology.peers[peer.index()].groups;
        let of = |group: &crate::id::GroupId| self.plan.topology.groups[group.index()].peers.clone();
        groups.iter().flat_map(of).collect()
    }

    fn tunnel(&mut self, peer: PeerId) -> &mut wireguard::Tunnel {
        &mut self.tunnels[self.plan.topology.peers[peer.index()].tunnel.index()]
    }
}

/// The interface map of the program on `port`.
fn interfaces(plan: &Plan, view: &View, port: PortId) -> Vec<(InterfaceKey, Interface)> {
    let entries = plan.topology.interfaces.iter().flat_map(|interface| {
        let keys = snapshots::frame_keys(&plan.topology, view, interface.interface);
        let here = keys.into_iter().filter(move |key| key.port == port);
        here.map(|key| {
            let wire = InterfaceKey {
                outer_vlan: key.outer_vlan,
                inner_vlan: key.inner_vlan,
                mac: key.mac,
                padding: [0; 2],
            };
            (wire, Interface { ifindex: interface.interface.0, tunnel_mtu: u32::from(plan.topology.tun_mtu) })
        })
    });
    entries.collect()
}

fn obstacle_text(view: &View, obstacle: Option<&Obstacle>) -> String {
    let name = |id: &InterfaceId| view.link(*id).map_or_else(|| id.to_string(), |link| link.name.clone());
    match obstacle {
        None => "path is up".into(),
        Some(Obstacle::Neighbour(id, address)) => format!("waiting for the MAC address of {address} on {}", name(id)),
        Some(Obstacle::Loop) => {
            "the endpoint's route leads into our own TUN: add a route to the endpoint by the WAN, or set FwMark".into()
        }
        Some(Obstacle::Elsewhere(id)) => {
            format!("the endpoint's route leaves by {0}, which has no port here: add --iface {0}", name(id))
        }
        Some(Obstacle::Down(id)) => format!("every port of {} is down", name(id)),
        Some(Obstacle::Unroutable(why)) => why.clone(),
    }
}

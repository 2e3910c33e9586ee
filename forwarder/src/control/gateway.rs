//! The control thread's loop: handshakes, timers, the kernel's changes; then publish, then send.
//!
//! Every turn ends in the same order: sessions and paths are published before any message that
//! reveals them leaves.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use rand::CryptoRng;

use super::egress::{self, Obstacle};
use super::handle::{Admitted, Handle};
use super::routes::Merged;
use super::snapshots::{self, PathState, World};
use crate::clock::{self, Boottime};
use crate::id::{InterfaceId, PeerId, TunnelId};
use crate::kernel::View;
use crate::kernel::netlink::{Changed, Kernel};
use crate::pipeline::control::Injected;
use crate::pipeline::snapshot::{Group, Tunnel};
use crate::port::udp::UdpSockets;
use crate::publish::Publisher;
use crate::topology::Topology;
use crate::wireguard::{self, Event, Transmit};
use crate::xdp::Program;

/// DS byte of handshake messages: DSCP AF41, as the kernel marks them.
const HANDSHAKE_TOS: u8 = 0x88;
/// The lane that sends what the control thread injects.
const INJECTING_LANE: usize = 0;
/// Handshake messages that one turn takes: a flood must not hold up timers, and answers leave between turns.
const HANDSHAKES_PER_TURN: usize = 64;
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
    /// What the tunnels share.
    pub shared: Arc<wireguard::Shared>,
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
    pub(super) paths: Vec<PathState>,
    pub(super) obstacles: Vec<Option<Obstacle>>,
    pub(super) routes: Merged,
    pub(super) healthy: Vec<bool>,
    /// Of the healthy paths.
    pub(super) groups: Arc<[Group]>,
    pub(super) generation: u64,
    pub(super) stale: Stale,
    pub(super) keepalives: Vec<PeerId>,
    pub(super) neighbours_used: Boottime,
    /// The kernel's tables are not read again before.
    pub(super) view_due: Boottime,
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
        tunnels: Vec<wireguard::Tunnel>,
        programs: Vec<Program>,
        sockets: Arc<UdpSockets>,
        handle: Arc<Handle>,
        publisher: Publisher,
    ) -> Self {
        let peers = plan.topology.peers.len();
        let mut this = Self {
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
            routes: Merged::default(),
            healthy: vec![false; peers],
            groups: Arc::default(),
            generation: 0,
            stale: Stale { view: Changed::empty(), maps: true, paths: true, snapshots: true },
            keepalives: Vec::new(),
            neighbours_used: Boottime::default(),
            view_due: Boottime::default(),
        };
        this.regroup();
        this.open_doors();
        this
    }

    /// Computes how flows spread over the healthy paths; after a change of the topology, too.
    pub(super) fn regroup(&mut self) {
        self.groups = snapshots::groups(&self.plan.topology, &self.healthy);
        self.stale.snapshots = true;
    }

    /// Lets handshake messages come to the tunnels that there are.
    pub(super) fn open_doors(&self) {
        let door = |(tunnel, id)| (TunnelId(id), wireguard::Tunnel::door(tunnel));
        self.handle.set_doors(self.tunnels.iter().zip(0..).map(door).collect());
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
    pub async fn turn(&mut self, rng: &mut dyn CryptoRng) {
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
        self.send();
        self.publisher.reclaim();
    }

    /// Handshake messages and wanted sessions.
    fn receive(&mut self, rng: &mut dyn CryptoRng) {
        let (now, wall) = (clock::boottime(), clock::wall());
        for _ in 0..HANDSHAKES_PER_TURN {
            let Some(Admitted { tunnel, source, message }) = self.handle.next_handshake() else { break };
            let outcome = self.tunnels[tunnel.index()].admitted(now, wall, rng, source, &message);
            if let Err(refusal) = outcome {
                let name = &self.plan.topology.tunnels[tunnel.index()].name;
                tracing::debug!("{name}: refused a handshake message of {source}: {refusal:?}");
            }
        }
        self.handle.wake_if_any();
        // One path of a group wants a session: its siblings are to share the load, so they all do.
        let wanted: Vec<PeerId> =
            self.peers().filter(|peer| self.handle.take_session_wanted(*peer)).collect();
        let retried =
            self.peers().zip(&mut self.paths).filter_map(|(peer, path)| path.retries(now).then_some(peer));
        let wanted: Vec<_> = wanted.into_iter().chain(retried).collect();
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
        for (tunnel, id) in self.tunnels.iter_mut().zip(0_u16..) {
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
                    Event::GaveUp(peer) => {
                        self.paths[peer.index()].given_up = Some(clock::boottime());
                        let name = &self.plan.topology.tunnels[usize::from(id)].name;
                        tracing::warn!(
                            "{name}: peer {peer} answers no handshake; its flows go by other tunnels"
                        );
                    }
                }
            }
        }
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
        if let Err(error) = self.sockets.send_to(tunnel, transmit.to, HANDSHAKE_TOS, &transmit.payload) {
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

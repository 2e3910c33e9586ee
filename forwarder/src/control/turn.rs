//! A turn of the control thread: handshakes, timers, the kernel's changes; then publish, then send.
//!
//! Every turn ends in the same order: sessions and paths are published before any message that
//! reveals them leaves.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use rand::CryptoRng;

use super::gateway::Gateway;
use super::handle::Admitted;
use super::snapshots::World;
use crate::clock;
use crate::id::{InterfaceId, PeerId, TunnelId};
use crate::pipeline::control::Injected;
use crate::wireguard::{Event, Transmit};

/// The lane that sends what the control thread injects.
const INJECTING_LANE: usize = 0;
/// Handshake messages that one turn takes: a flood must not hold up timers, and answers leave between turns.
const HANDSHAKES_PER_TURN: usize = 64;
/// How long messages are held back for a lane that does not take its snapshot; it may be descheduled.
pub(super) const PUBLISHED_WITHIN: Duration = Duration::from_millis(100);
/// How often next hops are confirmed through the kernel, so that a silent change of MAC is noticed.
const NEIGHBOUR_INTERVAL: Duration = Duration::from_secs(15);

impl Gateway {
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
}

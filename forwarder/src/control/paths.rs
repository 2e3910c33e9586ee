//! How each peer's messages leave, and whether its path is worth a share of the traffic.

use std::net::SocketAddr;
use std::sync::Arc;

use super::egress::{self, Obstacle};
use super::gateway::Gateway;
use crate::clock;
use crate::id::{InterfaceId, PeerId, TunnelId};
use crate::kernel::View;
use crate::pipeline::snapshot::Encap;
use crate::wireguard::Session;

impl Gateway {
    /// Looks up how each peer's messages leave.
    pub(super) async fn resolve_paths(&mut self) {
        if !std::mem::take(&mut self.stale.paths) {
            return;
        }
        for peer in self.peers() {
            let Some(tunnel) = self.tunnel_of(peer) else { continue };
            let endpoint = self.status(peer).and_then(|s| s.endpoint);
            let outcome = self.resolve(tunnel, endpoint).await;
            if let Some(Obstacle::Neighbour(interface, address)) = outcome.as_ref().err() {
                self.use_neighbour(*interface, *address).await;
            }
            let (encap, obstacle) = match outcome {
                Ok(encap) => (encap, None),
                Err(obstacle) => (None, Some(obstacle)),
            };
            let looped = obstacle == Some(Obstacle::Loop);
            self.report_obstacle(peer, obstacle);
            let path = &mut self.paths[peer.index()];
            (path.endpoint, path.encap, path.looped) = (endpoint, encap, looped);
        }
        self.stale.snapshots = true;
    }

    async fn resolve(
        &self,
        tunnel: TunnelId,
        endpoint: Option<SocketAddr>,
    ) -> Result<Option<Encap>, Obstacle> {
        let (Some(remote), Some(inbound)) = (endpoint, self.plan.tunnels.get(tunnel.index())) else {
            return Ok(None);
        };
        let resolved = self.kernel.resolve(remote.ip(), self.fwmark(tunnel)).await;
        let resolved = resolved.map_err(|error| Obstacle::Unroutable(error.to_string()))?;
        egress::encap(&self.plan.topology, &self.view, self.plan.tun, inbound, remote, &resolved).map(Some)
    }

    /// Says once what stands in a path's way, and once that it is gone.
    fn report_obstacle(&mut self, peer: PeerId, obstacle: Option<Obstacle>) {
        let known = &mut self.obstacles[peer.index()];
        if *known == obstacle {
            return;
        }
        let name = self.plan.label(peer);
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

    /// Paths come to harm without an event, too: sessions expire.
    pub(super) fn look_at_health(&mut self) {
        let now = clock::boottime();
        let healthy: Vec<bool> = self.paths.iter().map(|path| path.is_healthy(now)).collect();
        if healthy != self.healthy {
            self.healthy = healthy;
            self.regroup();
        }
    }

    /// A message sealed with a session confirms it, and the peer may answer at once: every lane had to
    /// know the session's index before.
    pub(super) fn seal_with_new_sessions(&mut self) {
        for path in &mut self.paths {
            let index = |session: &Option<Arc<Session>>| session.as_ref().map(|session| session.local_index);
            if index(&path.sealing) != index(&path.slots.current) {
                path.sealing.clone_from(&path.slots.current);
                self.stale.snapshots = true;
            }
        }
        self.look_at_health();
    }
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
        Some(Obstacle::Down(id)) => format!("{} is down, or all of its ports are", name(id)),
        Some(Obstacle::Unroutable(why)) => why.clone(),
    }
}

//! What the tunnels' control sockets ask for.

use std::collections::HashMap;
use std::net::SocketAddr;

use nix::errno::Errno;
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::gateway::Gateway;
use super::plan;
use super::reconfigure::ReconfigureError;
use crate::config::{Problem, TunnelConfig};
use crate::id::PeerId;
use crate::port::udp::UdpError;
use crate::topology::TunnelPlan;
use crate::uapi::server::Answer;
use crate::uapi::{Device, Request, Set, apply, describe};
use crate::wireguard::PublicKey;

impl Gateway {
    /// Does what a caller asks of a tunnel, and answers.
    ///
    /// # Errors
    /// [`Errno::ENODEV`] when there is no such tunnel, else why it cannot be changed; nothing has changed then.
    pub async fn answer(&mut self, tunnel: &str, request: &Request, rng: &mut dyn CryptoRng) -> Answer {
        // Its socket may have outlived it.
        let (plan, config) = self.named(tunnel).ok_or(Errno::ENODEV)?;
        match request {
            Request::Get => Ok(self.describe(plan, config)),
            Request::Set(set) => self.set(tunnel, set, rng).await.map(|()| Zeroizing::default()),
        }
    }

    fn describe(&self, plan: &TunnelPlan, config: &TunnelConfig) -> Zeroizing<String> {
        describe(&Device {
            config,
            listen_port: self.sockets.port(plan.id).unwrap_or(0),
            fwmark: plan::fwmark(config),
            peers: plan.peers.iter().map(|peer| self.status(*peer)).collect(),
        })
    }

    async fn set(&mut self, tunnel: &str, set: &Set, rng: &mut dyn CryptoRng) -> Result<(), Errno> {
        let mut configs = self.configs().to_vec();
        for config in configs.iter_mut().filter(|config| config.name == tunnel) {
            apply(set, config);
        }
        if let Err(error) = self.reconfigure(configs, rng).await {
            tracing::warn!("{tunnel}: its control socket asked for a change that cannot be made: {error}");
            return Err(errno(&error));
        }
        // Peers may have roamed away from an endpoint that is configured already.
        let (plan, config) = self.named(tunnel).ok_or(Errno::ENODEV)?;
        let keys = config.peers.iter().map(|section| section.public_key);
        let peers: HashMap<PublicKey, PeerId> = keys.zip(plan.peers.iter().copied()).collect();
        for change in &set.peers {
            if let (Some(endpoint), Some(peer)) = (change.endpoint, peers.get(&change.public_key)) {
                self.set_endpoint(*peer, endpoint);
            }
        }
        Ok(())
    }

    fn set_endpoint(&mut self, peer: PeerId, endpoint: SocketAddr) {
        if self.status(peer).is_some_and(|status| status.endpoint != Some(endpoint))
            && let Some(tunnel) = self.tunnel(peer)
        {
            tunnel.set_endpoint(peer, endpoint);
        }
    }
}

/// The number that says it best; the log has the sentence.
fn errno(error: &ReconfigureError) -> Errno {
    match error {
        ReconfigureError::Config(errors)
            if errors.iter().any(|error| matches!(error.problem, Problem::SamePort { .. })) =>
        {
            Errno::EADDRINUSE
        }
        ReconfigureError::Config(_) | ReconfigureError::Topology(_) => Errno::EINVAL,
        ReconfigureError::Socket(UdpError::InUse { .. }) | ReconfigureError::SamePort { .. } => {
            Errno::EADDRINUSE
        }
        ReconfigureError::Socket(_) => Errno::EIO,
        ReconfigureError::Listeners { .. } => Errno::ENOSPC,
        ReconfigureError::Kernel(error) => error.errno().unwrap_or(Errno::EIO),
        ReconfigureError::Busy => Errno::EBUSY,
    }
}

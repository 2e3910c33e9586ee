//! What the tunnels' control sockets ask for.

use std::net::SocketAddr;

use nix::errno::Errno;
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::gateway::Gateway;
use super::plan;
use super::reconfigure::ReconfigureError;
use crate::config::{Problem, TunnelConfig};
use crate::port::udp::UdpError;
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
        let config = self.configs().iter().find(|config| config.name == tunnel).ok_or(Errno::ENODEV)?;
        match request {
            Request::Get => Ok(self.describe(config)),
            Request::Set(set) => self.set(tunnel, set, rng).await.map(|()| Zeroizing::default()),
        }
    }

    fn describe(&self, config: &TunnelConfig) -> Zeroizing<String> {
        let status = |key| self.peer_status(&config.name, key);
        describe(&Device {
            config,
            listen_port: self.listen_port(&config.name).unwrap_or(0),
            fwmark: plan::fwmark(config),
            peers: config.peers.iter().map(|peer| status(peer.public_key)).collect(),
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
        for change in &set.peers {
            if let Some(endpoint) = change.endpoint {
                self.set_endpoint(tunnel, change.public_key, endpoint);
            }
        }
        Ok(())
    }

    fn set_endpoint(&mut self, tunnel: &str, key: PublicKey, endpoint: SocketAddr) {
        let Some(peer) = self.peer(tunnel, key) else { return };
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

//! Changing a running gateway. Whatever can fail comes first, and is taken back when something fails:
//!
//! 1. compare, check, and compute the topology: nothing is touched
//! 2. UDP sockets for new ports
//! 3. fail-closed routes, the TUN's addresses, routes and rules: what is new
//! 4. the sockets' marks, and the rules for marks that are no more; from here on nothing fails
//! 5. the tunnels' protocol state, their doors, and then the sockets: until those are read, the kernel holds what
//!    comes to a new one
//! 6. a turn: the XDP programs' maps are written, then snapshots are published
//! 7. routes and addresses: what is no more
//!
//! Peers that do not differ keep their ids, and so their sessions and packets.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use forwarder_contract::MAX_LISTENERS;
use rand::CryptoRng;

use super::change::{Change, PeerWhat, What, changes};
use super::gateway::Gateway;
use super::plan::{self, fwmark, peer_config, socket};
use super::routing::{self, Wanted};
use super::snapshots::{self, PathState};
use crate::clock;
use crate::config::{self, ConfigError, PeerSection, Settings, TunnelConfig};
use crate::id::{PeerId, TunnelId};
use crate::kernel;
use crate::kernel::netlink::Changed;
use crate::port::udp::{Pair, UdpError};
use crate::topology::{Topology, TopologyError};
use crate::wireguard::{self, PublicKey};

/// How long every lane may take to leave its older snapshots.
const QUIET_WITHIN: Duration = Duration::from_secs(1);

/// Why a gateway was not changed. One line; all is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum ReconfigureError {
    /// Mistakes in the configuration.
    #[error("{}", line(.0))]
    Config(Vec<ConfigError>),
    /// What stands in the way of a plan.
    #[error("{}", line(.0))]
    Topology(Vec<TopologyError>),
    /// A UDP port is taken.
    #[error(transparent)]
    Socket(#[from] UdpError),
    /// Two tunnels on one port, of which the kernel chose one.
    #[error("{tunnel}: UDP port {port} is that of {other}: choose another ListenPort")]
    SamePort {
        /// The tunnel.
        tunnel: String,
        /// The port.
        port: u16,
        /// Who has it.
        other: String,
    },
    /// The XDP programs' maps are too small.
    #[error(
        "{needed} pairs of local address and listen port, at most {MAX_LISTENERS} are supported: use fewer tunnels or addresses"
    )]
    Listeners {
        /// What there would be.
        needed: usize,
    },
    /// The kernel refuses.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The last change is not through yet.
    #[error("a worker has not taken the last change for {QUIET_WITHIN:?}: try again")]
    Busy,
}

fn line<E: Display>(errors: &[E]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Gateway {
    /// Makes the running gateway what these configurations say, changing only what differs.
    ///
    /// # Errors
    /// Why it cannot be done; nothing has changed then.
    pub async fn reconfigure(
        &mut self,
        configs: Vec<TunnelConfig>,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), ReconfigureError> {
        self.reconfigure_with(self.plan.settings.clone(), configs, rng).await
    }

    /// The same, with other settings: of groups and transit.
    ///
    /// # Errors
    /// Why it cannot be done; nothing has changed then.
    pub(super) async fn reconfigure_with(
        &mut self,
        settings: Settings,
        configs: Vec<TunnelConfig>,
        rng: &mut dyn CryptoRng,
    ) -> Result<(), ReconfigureError> {
        let changes = changes(&self.plan.configs, &configs);
        if changes.is_empty()
            && order(&self.plan.configs) == order(&configs)
            && settings == self.plan.settings
        {
            return Ok(());
        }
        let clashes = config::clashes(&configs);
        if !clashes.is_empty() {
            return Err(ReconfigureError::Config(clashes));
        }
        self.quiet().await?;
        let topology = self.plan.topology.with_tunnels(&self.plan.configs, &configs, &settings, &self.view);
        let topology = topology.map_err(ReconfigureError::Topology)?;
        let sockets = self.sockets_for(&topology, &configs)?;
        self.count_listeners(&configs)?;
        let now = Wanted::new(&self.plan.configs, self.plan.topology.tun_mtu);
        let next = Wanted::new(&configs, topology.tun_mtu);
        routing::extend(&self.kernel, &now, &next, self.plan.tun).await?;
        // Those that are about to go, too: until then the slow path sends by them.
        set_marks(&topology, &configs, &self.sockets.bound());
        set_marks(&topology, &configs, &sockets);
        routing::withdraw_rules(&self.kernel, &now, &next).await;

        for change in &changes {
            tracing::info!("{change}");
        }
        let known: HashSet<&String> = self.plan.topology.remarks.iter().collect();
        for remark in topology.remarks.iter().filter(|remark| !known.contains(remark)) {
            tracing::info!("note: {remark}");
        }
        self.forget(&topology);
        self.plan.topology = topology;
        let old = std::mem::replace(&mut self.plan.configs, configs);
        self.plan.settings = settings;
        let listen_port = |tunnel| sockets.get(&tunnel).map_or(0, |pair| pair.port());
        self.plan.tunnels = snapshots::tunnels(&self.plan.topology, &self.plan.configs, listen_port);
        self.make_room();
        for change in &changes {
            self.apply(change, rng);
        }
        for plan in &self.plan.topology.tunnels {
            let Some(tunnel) = self.tunnels.get_mut(&plan.id) else { continue };
            plan.peers.iter().for_each(|peer| tunnel.set_roaming(*peer, plan.settings.roaming));
        }
        drop(old);
        self.names.forget_others(&self.plan.configs);
        self.regroup();
        self.take_routes();
        self.open_doors();
        self.sockets.replace(sockets);
        self.stale.maps = true;
        self.stale.paths = true;
        self.note(Changed::all());
        self.turn(rng).await;
        routing::withdraw(&self.kernel, &now, &next, self.plan.tun).await;
        Ok(())
    }

    /// Waits until no lane does anything by an older snapshot: ids that nobody has may be used again, then.
    async fn quiet(&self) -> Result<(), ReconfigureError> {
        const LOOK: Duration = Duration::from_millis(1);
        for _ in 0..QUIET_WITHIN.as_millis() {
            if self.publisher.is_quiet() {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(ReconfigureError::Busy)
    }

    /// Sockets for all tunnels: those that they have, unless the port changes.
    fn sockets_for(
        &self,
        topology: &Topology,
        configs: &[TunnelConfig],
    ) -> Result<BTreeMap<TunnelId, Arc<Pair>>, ReconfigureError> {
        let bound = self.sockets.bound();
        let mut sockets: BTreeMap<TunnelId, Arc<Pair>> = BTreeMap::new();
        for (plan, config) in topology.tunnels.iter().zip(configs) {
            let before = self.plan.configs.iter().find(|old| old.name == config.name);
            let same = before.filter(|old| old.listen_port == config.listen_port);
            let pair = match same.and_then(|_| bound.get(&plan.id)) {
                Some(pair) => Arc::clone(pair),
                None => self.sockets.bind(&socket(config))?,
            };
            if let Some((other, _)) = sockets.iter().find(|(_, other)| other.port() == pair.port()) {
                let other = topology.tunnel(*other).map_or_else(String::new, |plan| plan.name.clone());
                return Err(ReconfigureError::SamePort {
                    tunnel: config.name.clone(),
                    port: pair.port(),
                    other,
                });
            }
            sockets.insert(plan.id, pair);
        }
        Ok(sockets)
    }

    fn count_listeners(&self, configs: &[TunnelConfig]) -> Result<(), ReconfigureError> {
        let others = self.view.addresses.iter().filter(|a| a.interface != self.plan.tun).count();
        let addresses = others + configs.iter().map(|config| config.addresses.len()).sum::<usize>();
        let needed = addresses * configs.len();
        if needed > MAX_LISTENERS as usize { Err(ReconfigureError::Listeners { needed }) } else { Ok(()) }
    }

    /// Forgets the tunnels and peers that `next` has no more; the last lane that lets go of their sessions wipes
    /// the keys.
    fn forget(&mut self, next: &Topology) {
        for peer in self.peers().filter(|peer| !next.peers.contains_key(peer)) {
            if let Some(tunnel) = self.tunnel(peer) {
                tunnel.remove_peer(peer);
            }
            self.paths[peer.index()] = PathState::default();
            self.obstacles[peer.index()] = None;
            self.healthy[peer.index()] = false;
            self.keepalives.retain(|due| *due != peer);
            self.handle.take_session_wanted(peer);
            self.names.forget(peer);
        }
        self.tunnels.retain(|id, _| next.tunnel(*id).is_some());
    }

    /// Brings a change to the protocol state.
    fn apply(&mut self, change: &Change, rng: &mut dyn CryptoRng) {
        let now = clock::boottime();
        let plans = self.plan.topology.tunnels.iter().zip(&self.plan.configs);
        let Some((plan, config)) = plans.into_iter().find(|(plan, _)| plan.name == change.tunnel) else {
            return;
        };
        let places = || plan.peers.iter().copied().zip(&config.peers);
        match &change.what {
            What::Added => {
                let tunnel = plan::tunnel(plan, config, &self.plan.shared, rng);
                places().for_each(|(id, section)| self.names.follow(id, section.endpoint_name.as_ref()));
                let peers = plan.peers.clone();
                self.tunnels.insert(plan.id, tunnel);
                self.greet_these(peers, rng);
            }
            What::PrivateKey => {
                let peers = plan.peers.clone();
                if let Some(tunnel) = self.tunnels.get_mut(&plan.id) {
                    tunnel.set_private_key(&config.private_key, now, rng);
                }
                for peer in &peers {
                    self.paths[peer.index()].sealing = None;
                }
                self.greet_these(peers, rng);
            }
            What::Peer { key, what, .. } => {
                let place = places().find(|(_, section)| section.public_key == *key);
                let tunnel = self.tunnels.get_mut(&plan.id);
                let (Some((id, section)), Some(tunnel)) = (place, tunnel) else { return };
                apply_to_peer(tunnel, id, section, what);
                if matches!(what, PeerWhat::Added | PeerWhat::Endpoint) {
                    self.names.follow(id, section.endpoint_name.as_ref());
                }
                if *what == PeerWhat::Added {
                    self.greet_these(vec![id], rng);
                }
            }
            What::Removed | What::ListenPort(_) | What::FwMark(_) | What::Interface => {}
        }
    }
}

fn set_marks(topology: &Topology, configs: &[TunnelConfig], sockets: &BTreeMap<TunnelId, Arc<Pair>>) {
    for (plan, config) in topology.tunnels.iter().zip(configs) {
        let marked = sockets.get(&plan.id).map(|pair| pair.set_mark(fwmark(config)));
        if let Some(Err(error)) = marked {
            tracing::warn!("{}: cannot set FwMark: {error}", plan.name);
        }
    }
}

fn apply_to_peer(tunnel: &mut wireguard::Tunnel, id: PeerId, section: &PeerSection, what: &PeerWhat) {
    let now = clock::boottime();
    match what {
        PeerWhat::Added => _ = tunnel.add_peer(&peer_config(id, section), now),
        PeerWhat::PresharedKey => tunnel.set_preshared_key(id, &section.preshared_key),
        PeerWhat::Endpoint => {
            if let Some(endpoint) = section.endpoint {
                tunnel.set_endpoint(id, endpoint);
            }
        }
        PeerWhat::PersistentKeepalive => {
            tunnel.set_persistent_keepalive(id, section.persistent_keepalive, now);
        }
        PeerWhat::Removed | PeerWhat::AllowedIps => {}
    }
}

/// The order of tunnels and sections, by which plans are stored.
fn order(configs: &[TunnelConfig]) -> Vec<(&str, Vec<PublicKey>)> {
    let keys = |config: &TunnelConfig| config.peers.iter().map(|peer| peer.public_key).collect();
    configs.iter().map(|config| (config.name.as_str(), keys(config))).collect()
}

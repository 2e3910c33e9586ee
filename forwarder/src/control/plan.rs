//! What shall run: the operator's files, the kernel's state and the NICs' facts, and the topology computed
//! from them. Changes nothing.

use std::sync::Arc;

use anyhow::Context as _;
use rand::CryptoRng;

use crate::clock;
use crate::config::{self, ConfigError, Loaded, PeerSection, RunOptions, Settings, Table, TunnelConfig};
use crate::id::PeerId;
use crate::kernel::netlink::Kernel;
use crate::kernel::{Link, TABLE_TUNNEL, View, nic};
use crate::port::udp::TunnelSocket;
use crate::topology::{self, Inputs, NicFacts, Topology, TopologyError, TunnelPlan};
use crate::wireguard::{PeerConfig, Shared, Tunnel};
use crate::xdp::query;

/// The plan and what it was made from.
pub struct Planned {
    /// The plan.
    pub topology: Topology,
    /// The tunnels' files.
    pub configs: Vec<TunnelConfig>,
    /// forwarder.toml.
    pub settings: Settings,
    /// The kernel's state.
    pub view: View,
}

/// The operator's files.
pub struct Files {
    /// forwarder.toml.
    pub settings: Settings,
    /// The tunnels' files.
    pub loaded: Loaded,
}

/// Reads the operator's files.
///
/// # Errors
/// Every mistake in them.
pub fn files(options: &RunOptions) -> Result<Files, Vec<ConfigError>> {
    let settings = Settings::load(options.settings.as_deref());
    let loaded = config::load(&options.configs);
    match (settings, loaded) {
        (Ok(settings), Ok(loaded)) => Ok(Files { settings, loaded }),
        (settings, loaded) => {
            Err(settings.err().into_iter().chain(loaded.err().unwrap_or_default()).collect())
        }
    }
}

/// The devices that `--iface` makes ports.
///
/// # Errors
/// What is wrong with the names.
pub fn ports(options: &RunOptions, view: &View) -> Result<Vec<Link>, Vec<TopologyError>> {
    let ports = topology::port_devices(&options.interfaces, view)?;
    Ok(ports.into_iter().filter_map(|id| view.link(id)).cloned().collect())
}

/// Asks the ports' NICs for their facts.
///
/// # Errors
/// A device that does not answer.
pub async fn nics(kernel: &Kernel, ports: &[Link]) -> anyhow::Result<Vec<NicFacts>> {
    let mut nics = Vec::new();
    for port in ports {
        let can = query::features(port.id.0)
            .with_context(|| format!("{}: cannot ask for its XDP features", port.name))?;
        nics.push(nic::facts(kernel, port, can.native, can.zero_copy).await?);
    }
    Ok(nics)
}

/// Computes the topology.
///
/// # Errors
/// Everything that stands in its way.
pub fn topology(
    options: &RunOptions,
    files: &Files,
    view: &View,
    nics: &[NicFacts],
) -> Result<Topology, Vec<TopologyError>> {
    let cores = core_affinity::get_core_ids().unwrap_or_default();
    let cores: Vec<usize> = cores.into_iter().map(|core| core.id).collect();
    let inputs = Inputs {
        interfaces: &options.interfaces,
        tunnels: &files.loaded.tunnels,
        settings: &files.settings,
        view,
        nics,
        cores: &cores,
        workers: options.workers,
    };
    let mut topology = topology::compute(&inputs)?;
    topology.remarks.extend_from_slice(&files.loaded.remarks);
    Ok(topology)
}

/// What the tunnels' UDP sockets need.
pub fn sockets(configs: &[TunnelConfig]) -> Vec<TunnelSocket> {
    configs.iter().map(socket).collect()
}

/// What a tunnel's UDP sockets need.
pub fn socket(config: &TunnelConfig) -> TunnelSocket {
    TunnelSocket {
        file: config.file.display().to_string(),
        port: config.listen_port,
        fwmark: Some(fwmark(config)).filter(|&mark| mark != 0),
    }
}

/// A tunnel's protocol state as it begins, with all its peers.
pub fn tunnel(
    place: &TunnelPlan,
    config: &TunnelConfig,
    shared: &Arc<Shared>,
    rng: &mut dyn CryptoRng,
) -> Tunnel {
    let now = clock::boottime();
    let mut tunnel = Tunnel::new(place.id, &config.private_key, Arc::clone(shared), now, rng);
    for (id, section) in place.peers.iter().zip(&config.peers) {
        tunnel.add_peer(&peer_config(*id, section), now);
        tunnel.set_roaming(*id, place.settings.roaming);
    }
    tunnel
}

/// What the protocol needs to know of a peer.
pub fn peer_config(id: PeerId, section: &PeerSection) -> PeerConfig {
    PeerConfig {
        id,
        public_key: section.public_key,
        preshared_key: *section.preshared_key,
        endpoint: section.endpoint,
        persistent_keepalive: section.persistent_keepalive,
    }
}

/// The mark of a tunnel's outer packets: its own, or wg-quick's (the table's number) when it carries a `/0`.
pub fn fwmark(config: &TunnelConfig) -> u32 {
    let carries_default = config.peers.iter().flat_map(|p| &p.allowed_ips).any(|p| p.prefix_len() == 0);
    match (config.fwmark, config.table) {
        (0, Table::Auto) if carries_default => TABLE_TUNNEL,
        (mark, _) => mark,
    }
}

//! The topology as a value: workers, ports, queues, tunnels, groups, interfaces. Computed purely from
//! the configuration and what the kernel and the NICs say, and printed before anything is attached.

mod display;
mod endpoints;
mod error;
mod groups;
mod ports;

pub use error::TopologyError;
pub use ports::port_devices;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;

use arrayvec::ArrayVec;
use ipnet::IpNet;

use crate::config::{Settings, TunnelConfig, TunnelSettings};
use crate::id::{GroupId, InterfaceId, PeerId, PortId, TunnelId};
use crate::kernel::{RouteKind, View};

/// All that the topology depends on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `--iface`.
    pub interfaces: &'a [String],
    /// The tunnels; [`TunnelId`] is the position.
    pub tunnels: &'a [TunnelConfig],
    /// forwarder.toml.
    pub settings: &'a Settings,
    /// The kernel's devices and routes.
    pub view: &'a View,
    /// Facts of (at least) the [`port_devices`].
    pub nics: &'a [NicFacts],
    /// The cores that this process may use (`sched_getaffinity`).
    pub cores: &'a [usize],
    /// `--workers`.
    pub workers: Option<NonZeroUsize>,
}

/// Computes the plan.
///
/// # Errors
/// Everything that stands in its way.
pub fn compute(inputs: &Inputs) -> Result<Topology, Vec<TopologyError>> {
    let mut remarks = Vec::new();
    let (ports, interfaces, mut errors) = ports::plan(inputs, &mut remarks);
    let groups = groups::plan(inputs, &mut remarks);
    let cores = ports::worker_cores(inputs, &ports, &mut remarks);
    errors.extend(groups.errors);
    errors.extend(nameless(inputs));
    errors.extend(endpoints::loops(inputs.tunnels, inputs.view, &mut remarks));
    errors.extend(endpoints::marks(inputs.tunnels));
    if inputs.cores.is_empty() {
        errors.push(TopologyError::NoCores);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let tunnels = tunnels(inputs, &interfaces, &groups.peers, &mut remarks);
    let tun_mtu = tunnels.iter().map(|t| t.mtu).min().unwrap_or(DEFAULT_TUNNEL_MTU);
    Ok(Topology {
        cores,
        ports,
        interfaces,
        tunnels,
        peers: groups.peers,
        groups: groups.groups,
        tun_mtu,
        remarks,
    })
}

/// What a NIC can do and what runs on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicFacts {
    /// The device.
    pub interface: InterfaceId,
    /// RX queues in use (combined channels, or the larger of RX and TX).
    pub queues: u32,
    /// Kernel driver, or "unknown".
    pub driver: String,
    /// Native XDP.
    pub native: bool,
    /// AF_XDP zero-copy.
    pub zero_copy: bool,
}

/// How a port's sockets are bound and its program attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Native program, driver's rings mapped.
    ZeroCopy,
    /// Native program, the kernel copies.
    Copy,
    /// Generic (SKB) program, the kernel copies.
    Generic,
}

/// The whole plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Topology {
    /// Cores of the workers, by worker number.
    pub cores: Vec<usize>,
    /// The ports, by [`PortId`].
    pub ports: Vec<PortPlan>,
    /// The layer-3 interfaces whose frames we take: those named by `--iface`, and VLANs on them.
    pub interfaces: Vec<InterfacePlan>,
    /// The tunnels, by [`TunnelId`].
    pub tunnels: Vec<TunnelPlan>,
    /// The peers of all tunnels, by [`PeerId`].
    pub peers: Vec<PeerPlan>,
    /// The groups, by [`GroupId`].
    pub groups: Vec<GroupPlan>,
    /// MTU of the TUN: the smallest of the tunnels', in bytes.
    pub tun_mtu: u16,
    /// What the operator should know: "eth0 has one queue, so there is one worker".
    pub remarks: Vec<String>,
}

/// A port.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PortPlan {
    /// The device.
    pub interface: InterfaceId,
    /// Its name.
    pub name: String,
    /// The bond that it belongs to.
    pub bond: Option<InterfaceId>,
    /// RX queues; worker `w` owns every queue `q` with `q % workers == w` and sends on queue `w`.
    pub queues: u32,
    /// How it is attached.
    pub mode: Mode,
    /// UMEM chunk, in bytes.
    pub chunk: u32,
}

/// A layer-3 interface.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct InterfacePlan {
    /// The interface.
    pub interface: InterfaceId,
    /// Its name.
    pub name: String,
    /// VLAN ids, outer first.
    #[serde(serialize_with = "as_slice")]
    pub vlans: ArrayVec<u16, 2>,
    /// The ports that carry its frames.
    pub ports: Vec<PortId>,
}

/// A tunnel.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TunnelPlan {
    /// Its file's name: `wg0`.
    pub name: String,
    /// Its peers.
    pub peers: Vec<PeerId>,
    /// Largest IP packet, in bytes, by wg-quick's rule.
    pub mtu: u16,
    /// What forwarder.toml says of it.
    pub settings: TunnelSettings,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PeerPlan {
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// Its position among the tunnel's `[Peer]` sections.
    pub section: usize,
    /// The groups that it belongs to.
    pub groups: Vec<GroupId>,
}

/// A group: the peers that carry exactly these prefixes.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct GroupPlan {
    /// The prefixes.
    pub prefixes: Vec<IpNet>,
    /// The peers, in order of their tunnels.
    pub peers: Vec<PeerId>,
}

impl Topology {
    /// The queues of `port` that belong to a worker. Each queue has one owner, and the first is the one
    /// that the worker sends on.
    pub fn queues_of(&self, worker: usize, port: &PortPlan) -> impl Iterator<Item = u32> + use<> {
        (worker as u32..port.queues).step_by(self.cores.len())
    }

    /// The groups whose prefixes contain `address`, the most specific first.
    pub fn group_of(&self, address: IpAddr) -> Option<GroupId> {
        let specific =
            |g: &GroupPlan| g.prefixes.iter().filter(|p| p.contains(&address)).map(IpNet::prefix_len).max();
        let best =
            self.groups.iter().enumerate().filter_map(|(i, g)| Some((specific(g)?, i))).max_by_key(|b| b.0);
        best.map(|(_, i)| GroupId(i as u16))
    }
}

/// What WireGuard adds around an inner packet over IPv6, in bytes; wg-quick reserves it over IPv4, too.
const OVERHEAD_V6: u32 = 80;
/// The same over IPv4.
const OVERHEAD_V4: u32 = 60;
/// wg-quick's choice when nothing is known of the egress.
const DEFAULT_TUNNEL_MTU: u16 = 1420;

/// Settings of tunnels that there are not.
fn nameless(inputs: &Inputs) -> impl Iterator<Item = TopologyError> {
    let is_there = |name: &String| inputs.tunnels.iter().any(|tunnel| tunnel.name == *name);
    let missing = inputs.settings.tunnels.keys().filter(move |name| !is_there(name));
    missing.cloned().map(TopologyError::NoSuchTunnel)
}

fn tunnels(
    inputs: &Inputs,
    interfaces: &[InterfacePlan],
    peers: &[PeerPlan],
    remarks: &mut Vec<String>,
) -> Vec<TunnelPlan> {
    let plan = |(i, config): (usize, &TunnelConfig)| {
        let id = TunnelId(i as u16);
        let own = peers.iter().zip(0..).filter(|(p, _)| p.tunnel == id).map(|(_, n)| PeerId(n));
        TunnelPlan {
            name: config.name.clone(),
            peers: own.collect(),
            mtu: tunnel_mtu(config, inputs.view, interfaces, remarks),
            settings: inputs.settings.tunnels.get(&config.name).copied().unwrap_or_default(),
        }
    };
    inputs.tunnels.iter().enumerate().map(plan).collect()
}

/// wg-quick's rule: `MTU`, else the egress MTU less 80, else 1420. The smallest egress counts, and a
/// larger `MTU` is lowered to it: wg-quick lets the kernel fragment the outer packet, we do not.
fn tunnel_mtu(
    config: &TunnelConfig,
    view: &View,
    interfaces: &[InterfacePlan],
    remarks: &mut Vec<String>,
) -> u16 {
    let mut mtu = config.mtu;
    for endpoint in config.peers.iter().filter_map(|p| p.endpoint) {
        let Some(egress) = egress(view, endpoint.ip()).and_then(|id| view.link(id)) else {
            remarks.push(format!("{}: no route to {endpoint} yet", config.name));
            continue;
        };
        if !interfaces.iter().any(|i| i.interface == egress.id) {
            remarks.push(format!(
                "{}: {endpoint} is reached by {}, which no --iface covers: add --iface {}",
                config.name, egress.name, egress.name
            ));
        }
        let most = clamped(egress.mtu.saturating_sub(overhead(endpoint)));
        let by_rule = clamped(egress.mtu.saturating_sub(OVERHEAD_V6));
        match (config.mtu, mtu) {
            (Some(wanted), _) if wanted > most => {
                remarks.push(format!(
                    "{}: MTU {wanted} does not fit {}'s MTU {}, {most} is used",
                    config.name, egress.name, egress.mtu
                ));
                mtu = mtu.map(|m| m.min(most));
            }
            (Some(_), _) => {}
            (None, smallest) => mtu = Some(smallest.map_or(by_rule, |m| m.min(by_rule))),
        }
    }
    mtu.unwrap_or(DEFAULT_TUNNEL_MTU)
}

fn clamped(mtu: u32) -> u16 {
    u16::try_from(mtu).unwrap_or(u16::MAX)
}

fn overhead(endpoint: SocketAddr) -> u32 {
    if endpoint.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 }
}

/// The device by which `address` is reached: longest prefix, then smallest metric, over `main` and
/// `default`, without policy rules.
fn egress(view: &View, address: IpAddr) -> Option<InterfaceId> {
    let unicast = view.routes.iter().filter(|r| r.kind == RouteKind::Unicast && r.prefix.contains(&address));
    unicast.max_by_key(|r| (r.prefix.prefix_len(), std::cmp::Reverse(r.metric)))?.interface
}

fn as_slice<S: serde::Serializer>(vlans: &ArrayVec<u16, 2>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(vlans)
}

#[cfg(test)]
mod tests;

//! The topology as a value: workers, ports, queues, tunnels, groups, interfaces. Computed purely from
//! the configuration and what the kernel and the NICs say, and printed before anything is attached.

mod display;
mod endpoints;
mod error;
mod groups;
mod ids;
mod ports;

pub use error::TopologyError;
use ids::Ids;
pub use ports::port_devices;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;
use ipnet::IpNet;

use crate::config::{Settings, TunnelConfig, TunnelSettings};
use crate::id::{GroupId, InterfaceId, PeerId, PortId, TunnelId};
use crate::kernel::{PROTOCOL, RouteKind, View};

/// All that the topology depends on.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `--iface`.
    pub interfaces: &'a [String],
    /// The tunnels.
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
    pub workers: Option<usize>,
}

impl Inputs<'_> {
    /// The most workers that the operator wants.
    fn workers(&self) -> Option<usize> {
        self.workers.or(self.settings.workers)
    }
}

/// Computes the plan.
///
/// # Errors
/// Everything that stands in its way.
pub fn compute(inputs: &Inputs) -> Result<Topology, Vec<TopologyError>> {
    let mut remarks = Vec::new();
    let (ports, interfaces, mut errors) = ports::plan(inputs, &mut remarks);
    let cores = ports::worker_cores(inputs, &ports, &mut remarks);
    let machine = Topology { cores, ports, interfaces, ..Topology::default() };
    let topology = machine.with_tunnels(&[], inputs.tunnels, inputs.settings, inputs.view);
    errors.extend(topology.as_ref().err().cloned().into_iter().flatten());
    if inputs.cores.is_empty() {
        errors.push(TopologyError::NoCores);
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    topology.map(|topology| Topology { remarks: [remarks, topology.remarks].concat(), ..topology })
}

impl Topology {
    /// The plan for the tunnels `new` on the same ports and workers, where this one is for `old`. What goes on
    /// keeps its id; the id of what ends goes to nobody else.
    ///
    /// # Errors
    /// Everything that stands in its way.
    pub fn with_tunnels(
        &self,
        old: &[TunnelConfig],
        new: &[TunnelConfig],
        settings: &Settings,
        view: &View,
    ) -> Result<Self, Vec<TopologyError>> {
        let mut remarks = Vec::new();
        let plan = groups::plan(new, &settings.groups, &mut remarks);
        let mut errors = plan.errors;
        errors.extend(nameless(new, settings));
        errors.extend(endpoints::loops(new, view, &mut remarks));
        errors.extend(endpoints::marks(new));
        if !errors.is_empty() {
            return Err(errors);
        }
        // Groups were planned by position.
        let ids = Ids::after(self, old, new);
        let peer_ids = ids.peers.concat();
        let peers = plan.peers.into_iter().zip(&peer_ids);
        let peers = peers.map(|(p, id)| (*id, PeerPlan { tunnel: ids.tunnels[p.tunnel.index()], ..p }));
        let groups = plan.groups.into_iter().map(|g| {
            let peers = g.peers.iter().map(|position| peer_ids[position.index()]);
            GroupPlan { peers: peers.collect(), ..g }
        });
        let (groups, peers) = (groups.collect(), peers.collect());
        let tunnels = ids.tunnels.iter().zip(ids.peers).zip(new).map(|((id, peers), config)| TunnelPlan {
            id: *id,
            name: config.name.clone(),
            peers,
            mtu: tunnel_mtu(config, view, &self.interfaces, &mut remarks),
            settings: settings.tunnels.get(&config.name).copied().unwrap_or_default(),
        });
        let tunnels: Vec<_> = tunnels.collect();
        let tun_mtu = tunnels.iter().map(|t| t.mtu).min().unwrap_or(DEFAULT_TUNNEL_MTU);
        let (cores, ports) = (self.cores.clone(), self.ports.clone());
        let interfaces = self.interfaces.clone();
        Ok(Self { cores, ports, interfaces, tunnels, peers, groups, tun_mtu, remarks })
    }
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
    /// Cores of the workers, by worker number. Without workers the slow path is the whole datapath.
    pub cores: Vec<usize>,
    /// The ports, by [`PortId`]. Without workers there are none.
    pub ports: Vec<PortPlan>,
    /// The layer-3 interfaces whose frames we take: those named by `--iface`, and VLANs on them. Without workers
    /// there are none.
    pub interfaces: Vec<InterfacePlan>,
    /// The tunnels, in order of their files.
    pub tunnels: Vec<TunnelPlan>,
    /// The peers of all tunnels.
    pub peers: BTreeMap<PeerId, PeerPlan>,
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
    /// Its id.
    pub id: TunnelId,
    /// Its file's name: `wg0`.
    pub name: String,
    /// Its peers, in order of their sections.
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

    /// The tunnel of that id.
    pub fn tunnel(&self, id: TunnelId) -> Option<&TunnelPlan> {
        self.tunnels.iter().find(|plan| plan.id == id)
    }

    /// The name of the tunnel of a peer, for messages.
    pub fn tunnel_name(&self, peer: PeerId) -> &str {
        let plan = self.peers.get(&peer).and_then(|plan| self.tunnel(plan.tunnel));
        plan.map_or("", |plan| &plan.name)
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
fn nameless(tunnels: &[TunnelConfig], settings: &Settings) -> impl Iterator<Item = TopologyError> {
    let is_there = |name: &String| tunnels.iter().any(|tunnel| tunnel.name == *name);
    let missing = settings.tunnels.keys().filter(move |name| !is_there(name));
    missing.cloned().map(TopologyError::NoSuchTunnel)
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
        let by_ports = !interfaces.is_empty();
        if by_ports && !interfaces.iter().any(|i| i.interface == egress.id) {
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
/// `default`, without policy rules and our own routes.
fn egress(view: &View, address: IpAddr) -> Option<InterfaceId> {
    let others = view.routes.iter().filter(|r| r.protocol != PROTOCOL && r.prefix.contains(&address));
    let unicast = others.filter(|r| r.kind == RouteKind::Unicast);
    unicast.max_by_key(|r| (r.prefix.prefix_len(), std::cmp::Reverse(r.metric)))?.interface
}

fn as_slice<S: serde::Serializer>(vlans: &ArrayVec<u16, 2>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(vlans)
}

#[cfg(test)]
mod tests;

//! The topology as a value: workers, ports, queues, tunnels, groups, interfaces. Computed purely from
//! the configuration and what the kernel and the NICs say, and printed before anything is attached.

use std::net::IpAddr;

use arrayvec::ArrayVec;
use ipnet::IpNet;

use crate::id::{GroupId, InterfaceId, PeerId, PortId, TunnelId};

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfacePlan {
    /// The interface.
    pub interface: InterfaceId,
    /// Its name.
    pub name: String,
    /// VLAN ids, outer first.
    pub vlans: ArrayVec<u16, 2>,
    /// The ports that carry its frames.
    pub ports: Vec<PortId>,
}

/// A tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelPlan {
    /// Its file's name: `wg0`.
    pub name: String,
    /// Its peers.
    pub peers: Vec<PeerId>,
    /// Largest IP packet, in bytes, by wg-quick's rule.
    pub mtu: u16,
}

/// A peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerPlan {
    /// Its tunnel.
    pub tunnel: TunnelId,
    /// Its position among the tunnel's `[Peer]` sections.
    pub section: usize,
    /// The groups that it belongs to.
    pub groups: Vec<GroupId>,
}

/// A group: the peers that carry exactly these prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupPlan {
    /// The prefixes.
    pub prefixes: Vec<IpNet>,
    /// The peers, in order of their tunnels.
    pub peers: Vec<PeerId>,
}

impl Topology {
    /// The groups whose prefixes contain `address`, the most specific first.
    pub fn group_of(&self, address: IpAddr) -> Option<GroupId> {
        let specific =
            |g: &GroupPlan| g.prefixes.iter().filter(|p| p.contains(&address)).map(IpNet::prefix_len).max();
        let best =
            self.groups.iter().enumerate().filter_map(|(i, g)| Some((specific(g)?, i))).max_by_key(|b| b.0);
        best.map(|(_, i)| GroupId(i as u16))
    }
}

//! What a lane knows of the world: an immutable value that the control thread publishes.
//!
//! Workers and the slow path get the same groups and sessions; they differ in routes and in [`Encap`] and
//! [`Egress`], that is, in how a packet leaves.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;

pub use super::neighbours::{Mac, Neighbours};
pub use super::prefixes::Prefixes;
use crate::id::{GroupId, HopId, InterfaceId, PeerId, PortId, TunnelId};
use crate::wireguard::Session;

/// A map for the packet path: std's table with a fast keyed hash. The key is drawn per process, so that
/// frames cannot be made to collide.
pub type Map<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;

/// Longest Ethernet header: two VLAN tags.
pub const MAX_ETHERNET_LEN: usize = 14 + 8;

/// Longest outer header: Ethernet, IPv6, UDP.
pub const MAX_ENCAP_LEN: usize = MAX_ETHERNET_LEN + 40 + 8;

/// Everything a lane needs to carry packets. The default carries none.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts publications; a lane compares it to see that something changed.
    pub generation: u64,
    /// Frames' (port, VLAN tags, destination MAC) -> interface.
    pub interfaces: Arc<Map<FrameKey, InterfaceId>>,
    /// Inner destinations (and sources) -> where they belong.
    pub routes: Arc<Routes>,
    /// Groups by [`GroupId`].
    pub groups: Arc<[Group]>,
    /// Paths by [`PeerId`]: each peer has one. Where there is no peer of that id, no group names it.
    pub paths: Arc<[Path]>,
    /// Tunnels by [`TunnelId`].
    pub tunnels: Arc<[Tunnel]>,
    /// Sessions by the index that the peer uses for them.
    pub sessions: Arc<Map<u32, Arc<Session>>>,
    /// How plain packets leave, by [`HopId`].
    pub hops: Arc<[Hop]>,
    /// MAC addresses of the hosts on our interfaces.
    pub neighbours: Arc<Neighbours>,
    /// Whether opened packets may go out by another tunnel.
    pub transit: bool,
}

/// What names the layer-3 interface of an Ethernet frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FrameKey {
    /// The port that received it.
    pub port: PortId,
    /// Outer VLAN id, or 0.
    pub outer_vlan: u16,
    /// Inner VLAN id, or 0.
    pub inner_vlan: u16,
    /// Destination MAC address.
    pub mac: Mac,
}

/// The kernel's FIB with the groups' prefixes merged in.
pub type Routes = Prefixes<Route>;

/// Where an inner address belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Behind a group of peers.
    Tunnel(GroupId),
    /// The kernel's own (local addresses, broadcast, multicast) or a route that only it can follow.
    Kernel,
    /// On or behind a layer-3 interface that has a port of ours.
    Hop(HopId),
    /// Unreachable, blackhole, prohibit.
    Unreachable,
}

/// Peers that carry the same prefixes, and which of them takes which flow.
#[derive(Debug, Clone)]
pub struct Group {
    /// Inner 5-tuple hash modulo the length -> the peer whose path carries it. Never empty; only
    /// healthy paths stand here unless none is.
    pub buckets: Box<[PeerId]>,
    /// Largest IP packet that fits into the group's tunnels, in bytes.
    pub mtu: u16,
}

/// How sealed packets reach a peer.
#[derive(Debug, Clone)]
pub struct Path {
    /// The tunnel of the peer.
    pub tunnel: TunnelId,
    /// The session to seal with; `None` while there is none: packets wait.
    pub session: Option<Arc<Session>>,
    /// How they leave; `None` while the egress is unknown or down: packets wait.
    pub encap: Option<Encap>,
}

/// How a WireGuard message leaves.
#[derive(Debug, Clone)]
pub enum Encap {
    /// As an Ethernet frame on a port. Lengths, IPv4 id, checksums and ECN are filled in per packet.
    Frame {
        /// The port.
        port: PortId,
        /// Ethernet header, VLAN tags, IP and UDP header.
        header: ArrayVec<u8, MAX_ENCAP_LEN>,
        /// Offset of the IP header in `header`.
        ip: u8,
    },
    /// As a datagram of the tunnel's UDP socket.
    Datagram {
        /// Where to.
        to: std::net::SocketAddr,
    },
}

/// What a tunnel's file says of packets, and its position; the default stands where there is no tunnel of that id.
#[derive(Debug, Default)]
pub struct Tunnel {
    /// Its position among the tunnels that there are: ids have holes when others are gone.
    pub position: usize,
    /// The gateway's own addresses in the tunnel. Peers may take them from this tunnel only.
    pub addresses: Box<[IpAddr]>,
    /// UDP port that its messages must have come to.
    pub listen_port: u16,
    /// Inner source -> the peer that may send it.
    pub allowed_ips: Prefixes<PeerId>,
    /// Largest IP packet of the tunnel, in bytes: padding stops there.
    pub mtu: u16,
    /// DSCP is copied from inner to outer headers and back.
    pub copy_dscp: bool,
}

/// Where a route of [`Route::Hop`] leads.
#[derive(Debug, Clone)]
pub struct Hop {
    /// The interface that its packets leave by, and come in by.
    pub interface: InterfaceId,
    /// The router to send to; `None` when the destination is on the link.
    pub router: Option<Router>,
    /// How packets leave.
    pub egress: Egress,
}

/// A router on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Router {
    /// Its IP address.
    pub address: IpAddr,
    /// Its MAC address; `None` while it is not known: packets wait.
    pub mac: Option<Mac>,
}

/// How plain packets leave by a layer-3 interface.
#[derive(Debug, Clone)]
pub enum Egress {
    /// As Ethernet frames.
    Ethernet {
        /// The ports that carry the interface's frames now: one, or a bond's usable slaves. A tunnel uses
        /// the one at its position modulo the length. Empty when all are down.
        ports: ArrayVec<PortId, 16>,
        /// Source MAC address and VLAN tags. The destination and the type are filled in per packet.
        header: ArrayVec<u8, MAX_ETHERNET_LEN>,
        /// Largest IP packet, in bytes.
        mtu: u16,
    },
    /// Through the kernel's TUN (the slow path: the kernel forwards).
    Kernel,
}

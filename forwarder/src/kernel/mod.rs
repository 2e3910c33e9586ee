//! The kernel's network state as a value, and the few changes that we make to it.
//!
//! [`View`] is plain data: topology and snapshots are computed from it purely. [`netlink::Kernel`]
//! reads it, tells when it changed and is the one interface through which everything is changed.

pub mod absence;
pub mod capabilities;
mod error;
pub mod guard;
pub mod netlink;
pub mod nic;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::id::InterfaceId;
pub use error::{Cause, Error};

/// The kernel's network state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Network devices.
    pub links: Vec<Link>,
    /// Addresses of the devices.
    pub addresses: Vec<Address>,
    /// Routes of the tables `main`, `local`, `default` and [`TABLE_TUNNEL`], both families.
    pub routes: Vec<Route>,
    /// Neighbours that have a MAC address.
    pub neighbours: Vec<Neighbour>,
}

impl View {
    /// The device of that name or altname.
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name || l.altnames.iter().any(|a| a == name))
    }

    /// The device of that index.
    pub fn link(&self, id: InterfaceId) -> Option<&Link> {
        self.links.iter().find(|l| l.id == id)
    }

    /// The devices enslaved to `master`, in order of their index.
    pub fn slaves(&self, master: InterfaceId) -> impl Iterator<Item = &Link> {
        self.links.iter().filter(move |l| l.master == Some(master))
    }
}

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub id: InterfaceId,
    /// Its name.
    pub name: String,
    /// Its other names.
    pub altnames: Vec<String>,
    /// Its MAC address; zero when it has none.
    pub mac: [u8; 6],
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Has a carrier.
    pub carrier: bool,
    /// The bond or bridge that it belongs to.
    pub master: Option<InterfaceId>,
    /// What it is.
    pub kind: LinkKind,
    /// As a slave of a bond: what the bond thinks of it.
    pub slave: Option<SlaveState>,
}

impl Link {
    /// A plain device of that index, which is down, and of which nothing else is known.
    pub fn new(id: InterfaceId) -> Self {
        Self {
            id,
            name: String::new(),
            altnames: Vec::new(),
            mac: [0; 6],
            mtu: 0,
            up: false,
            carrier: false,
            master: None,
            kind: LinkKind::Plain,
            slave: None,
        }
    }
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A plain device: a NIC, veth, ...
    Plain,
    /// The loopback.
    Loopback,
    /// A bond.
    Bond(BondMode),
    /// A VLAN on another device.
    Vlan {
        /// VLAN id.
        id: u16,
        /// The device below.
        lower: InterfaceId,
        /// 802.1ad (service tag) rather than 802.1Q.
        service: bool,
    },
    /// Anything that carries no frames of its own for us: bridge, TUN, wireguard, ...
    Other(String),
}

/// Mode of a bond, by the kernel's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BondMode {
    /// balance-rr (0).
    RoundRobin,
    /// active-backup (1).
    ActiveBackup,
    /// balance-xor (2).
    Xor,
    /// broadcast (3).
    Broadcast,
    /// 802.3ad, LACP (4).
    Lacp,
    /// balance-tlb (5).
    Tlb,
    /// balance-alb (6).
    Alb,
}

/// What a bond thinks of a slave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlaveState {
    /// Link monitoring says up.
    pub mii_up: bool,
    /// The bond uses it (state "active", not "backup").
    pub active: bool,
    /// 802.3ad aggregator, 0 otherwise.
    pub aggregator: u16,
    /// 802.3ad actor's operational state; 0x30 = collecting and distributing, 0x3f = fully up.
    pub actor_state: u8,
    /// 802.3ad partner's operational state.
    pub partner_state: u16,
    /// The device's own MAC address (a bond gives its slaves one in common).
    pub permanent_mac: [u8; 6],
}

/// An address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The device.
    pub interface: InterfaceId,
    /// Address and prefix length.
    pub address: IpNet,
}

/// A route. Of a multipath route, `interface` and `gateway` are those of its first next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Destination.
    pub prefix: IpNet,
    /// What it does.
    pub kind: RouteKind,
    /// Device it leaves by.
    pub interface: Option<InterfaceId>,
    /// Router it is sent to.
    pub gateway: Option<IpAddr>,
    /// Smaller wins.
    pub metric: u32,
    /// Table number: [`TABLE_MAIN`], 255 local, 253 default, or any other.
    pub table: u32,
    /// Who installed it; [`PROTOCOL`] is us.
    pub protocol: u8,
}

/// Our number in the `protocol` field of routes and rules.
pub const PROTOCOL: u8 = 151;

/// The table `main`.
pub const TABLE_MAIN: u32 = 254;

/// The table of a `/0`, as wg-quick numbers it: [`DefaultRules`] have it looked into before `main`'s.
pub const TABLE_TUNNEL: u32 = 51820;

/// Metric of the fail-closed routes: the worst, so that any other route to the prefix wins.
pub const GUARD_METRIC: u32 = u32::MAX;

impl Route {
    /// A route of ours through a device without routers behind it, such as a TUN.
    pub fn through(prefix: IpNet, interface: InterfaceId, metric: u32, table: u32) -> Self {
        let kind = RouteKind::Unicast;
        let interface = Some(interface);
        Self { prefix: prefix.trunc(), kind, interface, gateway: None, metric, table, protocol: PROTOCOL }
    }

    /// A fail-closed route of ours: without a better one, packets to the prefix are refused.
    pub fn unreachable(prefix: IpNet, table: u32) -> Self {
        let kind = RouteKind::Unreachable;
        let (prefix, metric, protocol) = (prefix.trunc(), GUARD_METRIC, PROTOCOL);
        Self { prefix, kind, interface: None, gateway: None, metric, table, protocol }
    }

    /// Our route to `prefix` by a device.
    pub fn unicast(prefix: IpNet, interface: InterfaceId, table: u32) -> Self {
        let (prefix, interface) = (prefix.trunc(), Some(interface));
        Self {
            prefix,
            kind: RouteKind::Unicast,
            interface,
            gateway: None,
            metric: 0,
            table,
            protocol: PROTOCOL,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == RouteKind::Unreachable {
            f.write_str("unreachable ")?;
        }
        write!(f, "{}", self.prefix)?;
        self.gateway.map_or(Ok(()), |g| write!(f, " via {g}"))?;
        write!(f, " metric {} table {}", self.metric, self.table)
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of a prefix.
    pub fn of(prefix: &IpNet) -> Self {
        if prefix.addr().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// Its address "any".
    pub fn unspecified(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}

/// wg-quick's rules for a peer that carries `/0`: `not fwmark MARK table TABLE`, and before it
/// `table main suppress_prefixlength 0`. The TUN's default route stands in that table, and so does the
/// fail-closed one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRules {
    /// Family of the `/0`.
    pub family: Family,
    /// Firewall mark of our own encrypted packets.
    pub mark: u32,
    /// Table of the default route.
    pub table: u32,
}

impl fmt::Display for DefaultRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not fwmark {:#x} table {} ({:?})", self.mark, self.table, self.family)
    }
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteKind {
    /// Forwards.
    Unicast,
    /// Delivers here.
    Local,
    /// Broadcast, multicast or anycast: the kernel's business.
    Special,
    /// Unreachable, blackhole, prohibit, throw.
    Unreachable,
}

/// A neighbour whose MAC address is known (reachable, stale, delay, probe, permanent, noarp).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The device that it is on.
    pub interface: InterfaceId,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address.
    pub mac: [u8; 6],
}

/// The kernel's answer to "how would a packet to there leave?" (`ip route get`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The device.
    pub interface: InterfaceId,
    /// The next hop: the router, or the destination itself.
    pub next_hop: IpAddr,
    /// The source address that the kernel would choose.
    pub source: IpAddr,
}

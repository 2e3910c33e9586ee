//! The lab's names and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// One of the two sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The site with the lower addresses.
    A,
    /// The other one.
    B,
}

impl Side {
    /// 'a' or 'b', in names.
    pub fn letter(self) -> char {
        match self {
            Side::A => 'a',
            Side::B => 'b',
        }
    }

    /// The core that a measured gateway has to itself, counted round where there are fewer.
    pub fn core(self) -> usize {
        usize::from(self.number()) - 1
    }

    /// 1 or 2, in addresses.
    pub fn number(self) -> u8 {
        match self {
            Side::A => 1,
            Side::B => 2,
        }
    }
}

/// The gateways' i-th slave.
pub fn slave(index: u8) -> String {
    format!("wan{index}")
}

/// The UDP port of the i-th tunnel, at both ends.
pub fn listen_port(index: u8) -> u16 {
    51820 + u16::from(index)
}

/// A gateway's underlay address on the i-th network, of 24 or 64 bits.
pub fn underlay(family: Family, side: Side, index: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 200, index, side.number()).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x200, index.into(), 0, 0, 0, 0, side.number().into()).into(),
    }
}

/// A gateway's link-local address on the first underlay network, besides the one that the kernel gives it.
pub fn link_local(side: Side) -> Ipv6Addr {
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, side.number().into())
}

/// A gateway's own address inside the i-th tunnel.
pub fn tunnel(side: Side, index: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, index, side.number())
}

/// A host of a site's LAN, of 24 bits: 1 is the gateway, 10 the LAN host.
pub fn lan4(side: Side, host: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, side.number(), host)
}

/// A host of a site's LAN, of 64 bits.
pub fn lan6(side: Side, host: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 0x192, 0x168, side.number().into(), 0, 0, 0, host.into())
}

/// The prefixes that a site's tunnels lead to from the other site.
pub fn lan_prefixes(side: Side) -> [String; 2] {
    [format!("{}/24", lan4(side, 0)), format!("{}/64", lan6(side, 0))]
}

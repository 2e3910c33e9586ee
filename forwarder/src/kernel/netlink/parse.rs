//! Netlink messages into the plain types of [`crate::kernel`]. Pure, so that bonds are tested without one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    BondPortState, InfoBond, InfoBondPort, InfoData, InfoKind, InfoPortData, InfoVlan, LinkAttribute,
    LinkFlags, LinkInfo, LinkLayerType, LinkMessage, MiiStatus, Prop, VlanProtocol,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType, RouteVia,
};

use crate::id::InterfaceId;
use crate::kernel::{Address, BondMode, Link, LinkKind, Neighbour, Resolved, Route, RouteKind, SlaveState};

/// A device.
pub fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        kind: link_kind(message),
        ..Link::new(InterfaceId(message.header.index))
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::PropList(properties) => {
                link.altnames.extend(properties.iter().filter_map(altname));
            }
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().unwrap_or_default(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(master) => link.master = Some(InterfaceId(*master)),
            LinkAttribute::LinkInfo(info) => link.slave = info.iter().find_map(slave),
            _ => {}
        }
    }
    link
}

/// An address of the families we know.
pub fn address(message: &AddressMessage) -> Option<Address> {
    // On a point-to-point device `Address` is the peer's and `Local` ours.
    let local = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    let any = message.attributes.iter().find_map(|a| match a {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    let address = IpNet::new(local.or(any)?, message.header.prefix_len).ok()?;
    Some(Address { interface: InterfaceId(message.header.index), address })
}

/// A route; none for what is not a route of the FIB (cached clones, other families).
pub fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    let (mut metric, mut table) = (0, u32::from(header.table));
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Priority(n) => metric = *n,
            RouteAttribute::Table(n) => table = *n,
            _ => {}
        }
    }
    let kind = route_kind(header.kind);
    // IPv6 shows its unreachable routes on the loopback; they leave by no device.
    let (interface, gateway) =
        if kind == RouteKind::Unreachable { (None, None) } else { next_hop(&message.attributes) };
    let prefix = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some(Route { prefix, kind, interface, gateway, metric, table, protocol: header.protocol.into() })
}

/// The answer to "how would a packet to `to` leave?".
pub fn resolved(message: &RouteMessage, to: IpAddr) -> Option<Resolved> {
    let (interface, gateway) = next_hop(&message.attributes);
    let source = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::PrefSource(address) => ip(address),
        _ => None,
    })?;
    Some(Resolved { interface: interface?, next_hop: gateway.unwrap_or(to), source })
}

/// A neighbour, if its MAC address is known and may be used.
pub fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    use NeighbourState as S;
    let usable = [S::Reachable, S::Stale, S::Delay, S::Probe, S::Permanent, S::Noarp];
    if !usable.contains(&message.header.state) {
        return None;
    }
    let address = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    })?;
    let mac = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(mac) => mac.as_slice().try_into().ok(),
        _ => None,
    })?;
    Some(Neighbour { interface: InterfaceId(message.header.ifindex), address, mac })
}

fn link_kind(message: &LinkMessage) -> LinkKind {
    if message.header.flags.contains(LinkFlags::Loopback) {
        return LinkKind::Loopback;
    }
    let info = message.attributes.iter().find_map(|a| match a {
        LinkAttribute::LinkInfo(info) => Some(info.as_slice()),
        _ => None,
    });
    let info = info.unwrap_or_default();
    let kind = info.iter().find_map(|i| match i {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    });
    let data = info.iter().find_map(|i| match i {
        LinkInfo::Data(data) => Some(data),
        _ => None,
    });
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    match (kind, data) {
        (Some(InfoKind::Bond), Some(InfoData::Bond(data))) => {
            data.iter().find_map(bond_mode).map(LinkKind::Bond)
        }
        (Some(InfoKind::Vlan), Some(InfoData::Vlan(data))) => vlan(data, &message.attributes),
        // A TAP is a device of kind "tun" that carries Ethernet.
        (None | Some(InfoKind::Veth | InfoKind::Tun | InfoKind::Netdevsim), _) if ethernet => {
            Some(LinkKind::Plain)
        }
        _ => None,
    }
    .unwrap_or_else(|| {
        LinkKind::Other(kind.map_or_else(|| message.header.link_layer_type.to_string(), ToString::to_string))
    })
}

fn bond_mode(attribute: &InfoBond) -> Option<BondMode> {
    use rtnetlink::packet_route::link::BondMode as M;
    let InfoBond::Mode(mode) = attribute else { return None };
    Some(match mode {
        M::BalanceRr => BondMode::RoundRobin,
        M::ActiveBackup => BondMode::ActiveBackup,
        M::BalanceXor => BondMode::Xor,
        M::Broadcast => BondMode::Broadcast,
        M::Ieee8023Ad => BondMode::Lacp,
        M::BalanceTlb => BondMode::Tlb,
        M::BalanceAlb => BondMode::Alb,
        _ => return None,
    })
}

/// A VLAN on a device of this namespace; the index of one elsewhere would name a stranger here.
fn vlan(data: &[InfoVlan], attributes: &[LinkAttribute]) -> Option<LinkKind> {
    if attributes.iter().any(|a| matches!(a, LinkAttribute::LinkNetNsId(_))) {
        return None;
    }
    let lower = attributes.iter().find_map(|a| match a {
        LinkAttribute::Link(index) => Some(InterfaceId(*index)),
        _ => None,
    })?;
    let id = data.iter().find_map(|d| match d {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let service = data.iter().any(|d| matches!(d, InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)));
    Some(LinkKind::Vlan { id, lower, service })
}

fn altname(property: &Prop) -> Option<String> {
    match property {
        Prop::AltIfName(name) => Some(name.clone()),
        _ => None,
    }
}

fn slave(info: &LinkInfo) -> Option<SlaveState> {
    let LinkInfo::PortData(InfoPortData::BondPort(attributes)) = info else { return None };
    let mut state = SlaveState {
        mii_up: false,
        active: false,
        aggregator: 0,
        actor_state: 0,
        partner_state: 0,
        permanent_mac: [0; 6],
    };
    for attribute in attributes {
        match attribute {
            InfoBondPort::MiiStatus(status) => state.mii_up = *status == MiiStatus::Up,
            InfoBondPort::BondPortState(s) => state.active = *s == BondPortState::Active,
            InfoBondPort::AdAggregatorId(id) => state.aggregator = *id,
            InfoBondPort::AdActorOperPortState(s) => state.actor_state = s.bits(),
            InfoBondPort::AdPartnerOperPortState(s) => state.partner_state = s.bits().into(),
            InfoBondPort::PermHwaddr(mac) => {
                state.permanent_mac = mac.as_slice().try_into().unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(state)
}

fn route_kind(kind: RouteType) -> RouteKind {
    match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local => RouteKind::Local,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw => {
            RouteKind::Unreachable
        }
        _ => RouteKind::Special,
    }
}

/// Device and router. Of a multipath route, those of its first next hop.
fn next_hop(attributes: &[RouteAttribute]) -> (Option<InterfaceId>, Option<IpAddr>) {
    let (mut interface, mut gateway) = (None, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(InterfaceId(*index)),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            // An IPv4 route through an IPv6 router (RFC 8950).
            RouteAttribute::Via(RouteVia::Inet6(address)) => gateway = Some(IpAddr::V6(*address)),
            RouteAttribute::MultiPath(hops) => {
                if let Some(hop) = hops.first() {
                    gateway = next_hop(&hop.attributes).1;
                    interface = Some(InterfaceId(hop.interface_index));
                }
            }
            _ => {}
        }
    }
    (interface, gateway)
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_core::{Emitable, Parseable};
    use rtnetlink::packet_route::link::{InfoPortKind, LacpState};

    /// The message as it comes over the wire.
    fn received(attributes: Vec<LinkAttribute>) -> Link {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes = attributes;
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        link(&LinkMessage::parse(bytes.as_slice()).expect("well-formed"))
    }

    fn info(kind: InfoKind, data: InfoData) -> LinkAttribute {
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])
    }

    #[test]
    fn a_bonds_mode() {
        use rtnetlink::packet_route::link::BondMode as M;
        for (told, mode) in [
            (M::Ieee8023Ad, LinkKind::Bond(BondMode::Lacp)),
            (M::ActiveBackup, LinkKind::Bond(BondMode::ActiveBackup)),
            (M::Other(9), LinkKind::Other("bond".into())),
        ] {
            let bond = received(vec![info(InfoKind::Bond, InfoData::Bond(vec![InfoBond::Mode(told)]))]);
            assert_eq!(bond.kind, mode);
        }
    }

    #[test]
    fn a_slaves_lacp_state() {
        let port = InfoPortData::BondPort(vec![
            InfoBondPort::MiiStatus(MiiStatus::Up),
            InfoBondPort::BondPortState(BondPortState::Active),
            InfoBondPort::AdAggregatorId(2),
            InfoBondPort::AdActorOperPortState(LacpState::from_bits_retain(0x3f)),
            InfoBondPort::AdPartnerOperPortState(LacpState::from_bits_retain(0x0f)),
            InfoBondPort::PermHwaddr(vec![2, 0, 0, 0, 0, 9]),
        ]);
        let slave = received(vec![
            LinkAttribute::Controller(3),
            LinkAttribute::LinkInfo(vec![LinkInfo::PortKind(InfoPortKind::Bond), LinkInfo::PortData(port)]),
        ]);
        assert_eq!((slave.kind, slave.master), (LinkKind::Plain, Some(InterfaceId(3))));
        let expected = SlaveState {
            mii_up: true,
            active: true,
            aggregator: 2,
            actor_state: 0x3f,
            partner_state: 0x0f,
            permanent_mac: [2, 0, 0, 0, 0, 9],
        };
        assert_eq!(slave.slave, Some(expected));
    }

    #[test]
    fn a_vlan_whose_lower_device_is_here() {
        let data = vec![InfoVlan::Id(100), InfoVlan::Protocol(VlanProtocol::Ieee8021Ad)];
        let mut attributes = vec![LinkAttribute::Link(3), info(InfoKind::Vlan, InfoData::Vlan(data))];
        let kind = LinkKind::Vlan { id: 100, lower: InterfaceId(3), service: true };
        assert_eq!(received(attributes.clone()).kind, kind);
        attributes.push(LinkAttribute::LinkNetNsId(1));
        assert_eq!(received(attributes).kind, LinkKind::Other("vlan".into()));
    }

    #[test]
    fn a_tap_is_plain_and_a_nic_is_plain() {
        assert_eq!(received(vec![info(InfoKind::Tun, InfoData::Tun(Vec::new()))]).kind, LinkKind::Plain);
        assert_eq!(received(vec![LinkAttribute::IfName("eth0".into())]).kind, LinkKind::Plain);
    }
}

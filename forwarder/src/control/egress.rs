//! How packets leave: which ports of an interface are usable, and the outer headers of a path.

use std::net::SocketAddr;

use arrayvec::ArrayVec;

use crate::id::{InterfaceId, PortId};
use crate::kernel::{BondMode, Link, LinkKind, Resolved, View};
use crate::pipeline::snapshot::{Egress, Encap, Tunnel};
use crate::topology::{InterfacePlan, PortPlan, Topology};

/// 802.3ad port state: collecting and distributing.
const COLLECTING_DISTRIBUTING: u8 = 0x30;

/// What stands between a peer's endpoint and an outer header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The MAC address of the next hop is not known yet.
    Neighbour(InterfaceId, std::net::IpAddr),
    /// The route leads into our own TUN.
    Loop,
    /// The route leaves by an interface without a port of ours.
    Elsewhere(InterfaceId),
    /// Every port of the interface is down.
    Down(InterfaceId),
    /// The kernel has no route.
    Unroutable(String),
}

/// The outer headers for a tunnel's messages to `remote`, given the kernel's answer how they would leave.
///
/// On a bond the tunnel's position picks the usable slave, so that parallel tunnels use different slaves. Without
/// ports the kernel makes the headers and picks.
///
/// # Errors
/// What is missing.
pub fn encap(
    topology: &Topology,
    view: &View,
    tun: InterfaceId,
    tunnel: &Tunnel,
    remote: SocketAddr,
    resolved: &Resolved,
) -> Result<Encap, Obstacle> {
    let interface = resolved.interface;
    if interface == tun {
        return Err(Obstacle::Loop);
    }
    if topology.ports.is_empty() {
        let carries = view.link(interface).is_some_and(|link| link.up && link.carrier);
        return if carries { Ok(Encap::Datagram { to: remote }) } else { Err(Obstacle::Down(interface)) };
    }
    let plan = topology.interfaces.iter().find(|plan| plan.interface == interface);
    let plan = plan.ok_or(Obstacle::Elsewhere(interface))?;
    let ports = usable_ports(topology, view, plan);
    if ports.is_empty() {
        return Err(Obstacle::Down(interface));
    }
    let next_hop = resolved.next_hop;
    let neighbour = view.neighbours.iter().find(|n| n.interface == interface && n.address == next_hop);
    let neighbour = neighbour.ok_or(Obstacle::Neighbour(interface, next_hop))?;
    let port = ports[tunnel.position % ports.len()];
    let source = SocketAddr::new(resolved.source, tunnel.listen_port);
    let mac = view.link(interface).map_or([0; 6], |link| link.mac);
    let header = Encap::frame(port, mac, neighbour.mac, &plan.vlans, source, remote);
    header.ok_or_else(|| Obstacle::Unroutable(format!("the kernel would send to {remote} from {source}")))
}

/// How plain packets leave by an interface now.
pub fn egress(topology: &Topology, view: &View, plan: &InterfacePlan) -> Option<Egress> {
    let link = view.link(plan.interface)?;
    let mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
    Egress::ethernet(usable_ports(topology, view, plan), link.mac, &plan.vlans, mtu)
}

/// The interface's ports that may transmit now, in their order.
pub fn usable_ports(topology: &Topology, view: &View, plan: &InterfacePlan) -> ArrayVec<PortId, 16> {
    let usable = |id: &&PortId| usable(view, &topology.ports[id.index()]);
    plan.ports.iter().filter(usable).copied().take(16).collect()
}

/// Whether a port may transmit now: it is up and, on a bond, the bond itself would use it.
pub fn usable(view: &View, port: &PortPlan) -> bool {
    let Some(link) = view.link(port.interface) else { return false };
    let mode = port.bond.and_then(|bond| view.link(bond)).map(|bond| &bond.kind);
    link.up
        && link.carrier
        && match mode {
            Some(LinkKind::Bond(mode)) => transmits(link, *mode),
            _ => true,
        }
}

/// Whether the bond itself would send by this slave.
fn transmits(link: &Link, mode: BondMode) -> bool {
    let Some(slave) = link.slave else { return false };
    let distributes = |state: u8| state & COLLECTING_DISTRIBUTING == COLLECTING_DISTRIBUTING;
    match mode {
        BondMode::Lacp => {
            slave.active && distributes(slave.actor_state) && distributes(slave.partner_state as u8)
        }
        BondMode::ActiveBackup => slave.active && slave.mii_up,
        _ => slave.mii_up,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{TunnelConfig, TunnelSettings, wg_quick};
    use crate::control::snapshots;
    use crate::id::TunnelId;
    use crate::kernel::{Neighbour, SlaveState};
    use crate::topology::{Mode, TunnelPlan};

    fn config() -> TunnelConfig {
        let text = "[Interface]\nPrivateKey = 6AgToMKAU6mHoSgHQnIUKXvMhZ5vwcNuSj1T3KHfZ1Q=\n";
        wg_quick::parse("wg0", Path::new("wg0.conf"), text.as_bytes()).unwrap()
    }

    fn slave(active: bool, actor_state: u8, partner_state: u16) -> Link {
        Link {
            name: "eth1".into(),
            mac: [2; 6],
            mtu: 1500,
            up: true,
            carrier: true,
            master: Some(InterfaceId(2)),
            slave: Some(SlaveState {
                mii_up: true,
                active,
                aggregator: 1,
                actor_state,
                partner_state,
                permanent_mac: [2; 6],
            }),
            ..Link::new(InterfaceId(3))
        }
    }

    #[test]
    fn lacp_slaves_transmit_only_while_both_ends_collect_and_distribute() {
        assert!(transmits(&slave(true, 0x3f, 0x3f), BondMode::Lacp));
        assert!(!transmits(&slave(true, 0x3f, 0x0f), BondMode::Lacp));
        assert!(!transmits(&slave(true, 0x1f, 0x3f), BondMode::Lacp));
        assert!(!transmits(&slave(false, 0x3f, 0x3f), BondMode::Lacp));
    }

    #[test]
    fn only_the_active_slave_of_an_active_backup_bond_transmits() {
        assert!(transmits(&slave(true, 0, 0), BondMode::ActiveBackup));
        assert!(!transmits(&slave(false, 0, 0), BondMode::ActiveBackup));
        assert!(transmits(&slave(false, 0, 0), BondMode::RoundRobin));
    }

    /// Ids are not dense after a reload; tunnels that follow each other use different slaves all the same.
    #[test]
    fn parallel_tunnels_use_different_slaves_whatever_their_ids() {
        let link = |id: u32| Link { id: InterfaceId(id), ..slave(true, 0, 0) };
        let port = |id: u32| PortPlan {
            interface: InterfaceId(id),
            name: format!("eth{id}"),
            bond: None,
            queues: 1,
            mode: Mode::Copy,
            chunk: 2048,
        };
        let bond = InterfacePlan {
            interface: InterfaceId(2),
            name: "bond0".into(),
            vlans: ArrayVec::new(),
            ports: vec![PortId(0), PortId(1)],
        };
        let plan = |id| TunnelPlan {
            id: TunnelId(id),
            name: format!("wg{id}"),
            peers: vec![],
            mtu: 1420,
            settings: TunnelSettings::default(),
        };
        let topology = Topology {
            ports: vec![port(3), port(4)],
            interfaces: vec![bond],
            tunnels: vec![plan(0), plan(2)],
            ..Topology::default()
        };
        let tunnels = snapshots::tunnels(&topology, &[config(), config()], |_| 51820);
        let next_hop = "192.0.2.2".parse().unwrap();
        let neighbour = Neighbour { interface: InterfaceId(2), address: next_hop, mac: [4; 6] };
        let links = vec![link(2), link(3), link(4)];
        let view = View { links, neighbours: vec![neighbour], ..View::default() };
        let source = "192.0.2.1".parse().unwrap();
        let resolved = Resolved { interface: InterfaceId(2), next_hop, source };
        let port = |id: usize| {
            let remote = SocketAddr::new(next_hop, 51820);
            match encap(&topology, &view, InterfaceId(9), &tunnels[id], remote, &resolved) {
                Ok(Encap::Frame { port, .. }) => port,
                other => panic!("{other:?}"),
            }
        };
        assert_ne!(port(0), port(2));
    }

    /// Where an endpoint cannot be reached its path has no share of the flows, without ports, too.
    #[test]
    fn without_ports_messages_are_datagrams_while_the_link_is_there() {
        let remote: SocketAddr = "192.0.2.2:51820".parse().unwrap();
        let [wan, tun] = [2, 9].map(InterfaceId);
        let encap = |interface, up, carrier| {
            let view = View { links: vec![Link { up, carrier, ..Link::new(wan) }], ..View::default() };
            let resolved =
                Resolved { interface, next_hop: remote.ip(), source: "192.0.2.1".parse().unwrap() };
            encap(&Topology::default(), &view, tun, &Tunnel::default(), remote, &resolved)
        };
        assert!(matches!(encap(wan, true, true), Ok(Encap::Datagram { to }) if to == remote));
        assert_eq!(encap(wan, true, false).err(), Some(Obstacle::Down(wan)));
        assert_eq!(encap(wan, false, false).err(), Some(Obstacle::Down(wan)));
        assert_eq!(encap(tun, true, true).err(), Some(Obstacle::Loop));
    }
}

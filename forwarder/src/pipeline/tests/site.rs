//! The two sites: addresses, keys, and the snapshot of a gateway.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{LAN, LAN_PORT, MTU, PATHS};
use crate::clock::Boottime;
use crate::id::{GroupId, HopId, InterfaceId, PeerId, PortId, TunnelId};
use crate::pipeline::flow;
use crate::pipeline::snapshot::{
    Egress, Encap, FrameKey, Group, Hop, Map, Path, Prefixes, Route, Router, Routes, Snapshot, Tunnel,
};
use crate::wireguard::{Role, Session, SessionId, SessionKeys};

/// How a world is built.
#[derive(Clone, Copy)]
pub(super) struct Plan {
    /// IPv6 between the gateways.
    pub(super) ipv6: bool,
    /// VLAN ids of the LANs, outer first.
    pub(super) lan_vlans: &'static [u16],
    /// VLAN ids of the wires.
    pub(super) wire_vlans: &'static [u16],
    /// Transmit frames per port.
    pub(super) tx: usize,
    /// Transmit frames of the TUN.
    pub(super) tun_tx: usize,
    /// Sealed messages leave by UDP sockets.
    pub(super) datagrams: bool,
    /// DSCP is copied.
    pub(super) copy_dscp: bool,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            ipv6: false,
            lan_vlans: &[],
            wire_vlans: &[],
            tx: 512,
            tun_tx: 512,
            datagrams: false,
            copy_dscp: false,
        }
    }
}

/// 1 is site A, 2 is site B.
#[derive(Clone, Copy)]
pub(super) struct Site {
    pub(super) number: u8,
    pub(super) plan: Plan,
}

impl Site {
    pub(super) fn other(self) -> Self {
        Self { number: 3 - self.number, ..self }
    }
    /// A host in the site's LAN.
    pub(super) fn host(self, ipv6: bool) -> IpAddr {
        self.address(ipv6, 2)
    }
    pub(super) fn address(self, ipv6: bool, host: u8) -> IpAddr {
        let n = self.number;
        let text = if ipv6 { format!("2001:db8:{n}::{host}") } else { format!("10.{n}.0.{host}") };
        text.parse().unwrap()
    }
    /// The gateway's address on wire `i` and the tunnel's port.
    pub(super) fn endpoint(self, i: usize) -> SocketAddr {
        let (n, port) = (self.number, 51820 + i as u16);
        let text = if self.plan.ipv6 {
            format!("[2001:db8:ffff:{i}::{n}]:{port}")
        } else {
            format!("192.0.{i}.{n}:{port}")
        };
        text.parse().unwrap()
    }
    pub(super) fn gateway_mac(self, port: usize) -> [u8; 6] {
        [2, 0, 0, 0, self.number, port as u8]
    }
    pub(super) fn host_mac(self) -> [u8; 6] {
        [2, 0, 0, 1, self.number, 0]
    }
    pub(super) fn local_index(self, i: usize) -> u32 {
        0x1000 * u32::from(self.number) + i as u32
    }
    pub(super) fn key(self) -> [u8; 32] {
        [self.number; 32]
    }

    pub(super) fn session(self, i: usize, now: Boottime) -> Arc<Session> {
        let id = SessionId {
            tunnel: TunnelId(i as u16),
            peer: PeerId(i as u32),
            local_index: self.local_index(i),
            remote_index: self.other().local_index(i),
        };
        let keys = SessionKeys::new(&self.key(), &self.other().key());
        Arc::new(Session::new(id, keys, Role::Initiator, now, Arc::default()))
    }

    pub(super) fn encap(self, i: usize) -> Encap {
        if self.plan.datagrams {
            return Encap::Datagram { to: self.other().endpoint(i) };
        }
        let (here, there) = (self.endpoint(i), self.other().endpoint(i));
        let (source, destination) = (self.gateway_mac(i + 1), self.other().gateway_mac(i + 1));
        Encap::frame(PortId(i as u16 + 1), source, destination, self.plan.wire_vlans, here, there).unwrap()
    }

    pub(super) fn routes(self) -> Routes {
        let (here, there) = (self.number, 3 - self.number);
        let [lan, elsewhere, router] = [0, 1, 2].map(|hop| Route::Hop(HopId(hop)));
        let routes = [
            (format!("10.{here}.0.0/16"), lan),
            (format!("10.{here}.0.1/32"), Route::Kernel),
            (format!("10.{here}.99.0/24"), Route::Unreachable),
            (format!("10.{here}.50.0/24"), elsewhere),
            (format!("10.{there}.0.0/16"), Route::Tunnel(GroupId(0))),
            ("172.16.0.0/12".into(), router),
            ("192.0.0.0/16".into(), Route::Kernel),
            (format!("2001:db8:{here}::/48"), lan),
            (format!("2001:db8:{there}::/48"), Route::Tunnel(GroupId(0))),
        ];
        routes.into_iter().map(|(net, route)| (net.parse().unwrap(), route)).collect()
    }

    pub(super) fn allowed_ips(self, peer: PeerId) -> Prefixes<PeerId> {
        let there = 3 - self.number;
        let nets = [
            (format!("10.{there}.0.0/16"), peer),
            // It stands here so that a martian passes this check and meets its own.
            ("127.0.0.0/8".into(), peer),
            // A more specific prefix of another peer, who then owns it.
            (format!("10.{there}.77.0/24"), PeerId(99)),
            (format!("2001:db8:{there}::/48"), peer),
        ];
        nets.into_iter().map(|(net, peer)| (net.parse().unwrap(), peer)).collect()
    }

    pub(super) fn snapshot(self, now: Boottime) -> Snapshot {
        let paths = (0..PATHS).map(|i| Path {
            tunnel: TunnelId(i as u16),
            session: Some(self.session(i, now)),
            encap: Some(self.encap(i)),
        });
        let paths: Arc<[Path]> = paths.collect();
        let healthy: Vec<_> = (0..PATHS as u32).map(|i| (PeerId(i), true)).collect();
        let vlan = |i: usize| self.plan.lan_vlans.get(i).copied().unwrap_or(0);
        let key =
            FrameKey { port: LAN_PORT, outer_vlan: vlan(0), inner_vlan: vlan(1), mac: self.gateway_mac(0) };
        let ports = [LAN_PORT].into_iter().collect();
        let egress = Egress::ethernet(ports, self.gateway_mac(0), self.plan.lan_vlans, 1500).unwrap();
        let tunnels = (0..PATHS).map(|i| Tunnel {
            position: i,
            addresses: [self.address(false, 100 + i as u8)].into(),
            listen_port: self.endpoint(i).port(),
            allowed_ips: self.allowed_ips(PeerId(i as u32)),
            mtu: MTU,
            copy_dscp: self.plan.copy_dscp,
        });
        let neighbours = [false, true].map(|ipv6| (LAN, self.host(ipv6), self.host_mac()));
        let router = Router { address: self.host(false), mac: Some(self.host_mac()) };
        Snapshot {
            generation: 1,
            interfaces: Arc::new(Map::from_iter([(key, LAN)])),
            routes: Arc::new(self.routes()),
            groups: Arc::new([Group { buckets: flow::buckets(&healthy), mtu: MTU }]),
            sessions: Arc::new(
                paths.iter().filter_map(|p| p.session.clone()).map(|s| (s.local_index, s)).collect(),
            ),
            paths,
            tunnels: tunnels.collect(),
            hops: Arc::new([
                Hop { interface: LAN, router: None, egress: egress.clone() },
                Hop { interface: InterfaceId(11), router: None, egress: Egress::Kernel },
                Hop { interface: LAN, router: Some(router), egress },
            ]),
            neighbours: Arc::new(neighbours.into_iter().collect()),
            transit: false,
        }
    }
}

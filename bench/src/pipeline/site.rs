//! Two sites that three tunnels join: LAN - gateway - three wires - gateway - LAN.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use forwarder::clock::{Boottime, boottime};
use forwarder::drops::Drop;
use forwarder::id::{GroupId, HopId, InterfaceId, PeerId, PortId, TunnelId};
use forwarder::pipeline::control::Refused;
use forwarder::pipeline::snapshot::{
    Egress, Encap, FrameKey, Group, Hop, Map, Path, Route, Routes, Snapshot, Tunnel,
};
use forwarder::pipeline::{Control, Lane, LaneCounters, Ports, flow};
use forwarder::wireguard::{Role, Session, SessionId, SessionKeys};

use super::port::{MemoryPort, ROOM, Wire};
use crate::packet;

/// Tunnels, each with a port of its own.
pub const PATHS: usize = 3;
/// Hosts of a site.
pub const HOSTS: u8 = 64;
/// Largest inner packet.
const MTU: u16 = 1420;
pub const LAN: InterfaceId = InterfaceId(10);
pub const LAN_PORT: PortId = PortId(0);

/// 1 or 2.
#[derive(Clone, Copy)]
pub struct Site(pub u8);

impl Site {
    fn other(self) -> Self {
        Self(3 - self.0)
    }

    fn host(self, number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.0, 0, 2 + number)
    }

    fn host_mac(self, number: u8) -> [u8; 6] {
        [2, 0, 0, 1, self.0, number]
    }

    fn gateway_mac(self, port: PortId) -> [u8; 6] {
        [2, 0, 0, 0, self.0, port.0 as u8]
    }

    /// From this site's first host to one of the other's, by the gateway.
    pub fn route(self, to: u8) -> packet::Route {
        packet::Route {
            source_mac: self.host_mac(0),
            next_hop_mac: self.gateway_mac(LAN_PORT),
            source: self.host(0),
            destination: self.other().host(to),
        }
    }

    /// The Ethernet header of what the gateway delivers to a host.
    pub fn delivered(self, host: u8) -> [u8; 14] {
        let mut header = [0; 14];
        header[..6].copy_from_slice(&self.host_mac(host));
        header[6..12].copy_from_slice(&self.gateway_mac(LAN_PORT));
        header[12] = 8;
        header
    }

    fn endpoint(self, path: usize) -> SocketAddr {
        (Ipv4Addr::new(192, 0, path as u8, self.0), 51820 + path as u16).into()
    }

    fn index(self, path: usize) -> u32 {
        0x1000 * u32::from(self.0) + path as u32
    }

    /// The session of a path, new.
    pub fn session(self, path: usize) -> Session {
        let id = SessionId {
            tunnel: TunnelId(path as u16),
            peer: PeerId(path as u32),
            local_index: self.index(path),
            remote_index: self.other().index(path),
        };
        let keys = SessionKeys::new(&[self.0; 32], &[self.other().0; 32]);
        Session::new(id, keys, Role::Initiator, boottime(), Arc::default())
    }

    fn encap(self, path: usize) -> Option<Encap> {
        let port = wire(path);
        let macs = [self.gateway_mac(port), self.other().gateway_mac(port)];
        Encap::frame(port, macs[0], macs[1], &[], self.endpoint(path), self.other().endpoint(path))
    }

    fn snapshot(self) -> anyhow::Result<Snapshot> {
        let prefix = |site: Self| format!("10.{}.0.0/16", site.0);
        let (here, there) = (prefix(self).parse()?, prefix(self.other()).parse()?);
        let routes: Routes =
            [(here, Route::Hop(HopId(0))), (there, Route::Tunnel(GroupId(0)))].into_iter().collect();
        let tunnel = |path: usize| {
            let allowed_ips = [(there, PeerId(path as u32))].into_iter().collect();
            let listen_port = self.endpoint(path).port();
            Tunnel { position: path, listen_port, allowed_ips, mtu: MTU, ..Tunnel::default() }
        };
        let path = |path: usize| Path {
            tunnel: TunnelId(path as u16),
            session: Some(Arc::new(self.session(path))),
            encap: self.encap(path),
        };
        let paths: Arc<[Path]> = (0..PATHS).map(path).collect();
        let sessions = paths.iter().filter_map(|path| path.session.clone());
        let healthy: Vec<_> = (0..PATHS as u32).map(|peer| (PeerId(peer), true)).collect();
        let mac = self.gateway_mac(LAN_PORT);
        let key = FrameKey { port: LAN_PORT, outer_vlan: 0, inner_vlan: 0, mac };
        let ports = [LAN_PORT].into_iter().collect();
        let egress = Egress::ethernet(ports, mac, &[], 1500).context("no Ethernet header")?;
        let host = |number| (LAN, self.host(number).into(), self.host_mac(number));
        Ok(Snapshot {
            generation: 1,
            interfaces: Arc::new(Map::from_iter([(key, LAN)])),
            routes: Arc::new(routes),
            groups: Arc::new([Group { buckets: flow::buckets(&healthy), mtu: MTU }]),
            sessions: Arc::new(sessions.map(|session| (session.local_index, session)).collect()),
            paths,
            tunnels: (0..PATHS).map(tunnel).collect(),
            hops: Arc::new([Hop { interface: LAN, router: None, egress }]),
            neighbours: Arc::new((0..HOSTS).map(host).collect()),
            transit: false,
        })
    }
}

/// The port of a path.
pub fn wire(path: usize) -> PortId {
    PortId(path as u16 + 1)
}

/// A gateway with its cables.
pub struct Gateway {
    pub snapshot: Snapshot,
    pub lan: Wire,
    pub wires: Vec<Wire>,
    lane: Lane,
    counters: Arc<LaneCounters>,
}

impl Gateway {
    /// # Errors
    /// There is no memory for its frames.
    pub fn new(site: Site) -> anyhow::Result<Self> {
        let ports = (0..=PATHS as u16).map(|id| MemoryPort::new(PortId(id)));
        let ports = ports.collect::<Result<Vec<_>, _>>().context("no memory for frames")?;
        let (ports, mut wires): (Vec<_>, Vec<_>) = ports.into_iter().unzip();
        let ports = Ports {
            all: ports.into_iter().map(|port| Box::new(port) as _).collect(),
            egress: (0..=PATHS as u16).map(Some).collect(),
            kernel: None,
            datagrams: None,
        };
        let counters = Arc::<LaneCounters>::default();
        let lane = Lane::new(ports, Arc::clone(&counters), Arc::new(Nobody), ROOM)?;
        Ok(Self { snapshot: site.snapshot()?, lan: wires.remove(0), wires, lane, counters })
    }

    /// One turn of its lane.
    pub fn turn(&mut self, now: Boottime) {
        self.lane.turn(&self.snapshot, now);
    }

    /// What it dropped, for an error's text.
    pub fn drops(&self) -> String {
        let count = |reason: &Drop| (reason.label(), self.counters.drops.get(*reason));
        let drops = Drop::ALL.iter().map(count).filter(|(_, count)| *count > 0);
        drops.map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
    }
}

/// Nothing is asked of it here.
struct Nobody;

impl Control for Nobody {
    fn want_session(&self, _: PeerId) {}
    fn want_neighbour(&self, _: InterfaceId, _: IpAddr) {}
    fn handshake(&self, _: TunnelId, _: SocketAddr, _: &[u8]) -> Result<(), Refused> {
        Ok(())
    }
}

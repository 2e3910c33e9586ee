//! Two gateways in one process: LAN A - gateway A - three wires - gateway B - LAN B.

// The fuzz target needs a part of it.
#![cfg_attr(not(test), allow(dead_code))]
#![allow(clippy::unwrap_used)]

#[cfg(test)]
mod carry;
pub(crate) mod fuzz;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod refuse;
#[cfg(test)]
mod waits;

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::control::Control;
use super::snapshot::{AllowedIps, Egress, Encap, FrameKey, Group, Map, Path, Route, Routes, Tunnel};
use super::{Lane, LaneCounters, Ports, Snapshot, flow, parse};
use crate::aead::Key;
use crate::clock::Boottime;
use crate::drops::Drop;
use crate::id::{GroupId, InterfaceId, PeerId, PortId, TunnelId};
use crate::port::memory::{MemoryPort, MemoryWire, Sent};
use crate::port::{Layer, Port, PortCounters, RxFrame, TxFrame};
use crate::wireguard::message::Handshake;
use crate::wireguard::{Role, Session, SessionId, SessionKeys};

const PATHS: usize = 3;
const MTU: u16 = 1420;
const LAN: InterfaceId = InterfaceId(10);
const LAN_PORT: PortId = PortId(0);
/// Position of the TUN in a lane's ports, after the LAN and the wires.
const TUN: u16 = 4;
const UDP: u16 = 5;
const ROOM: usize = 2048;
const START: Boottime = Boottime(Duration::from_secs(1000));

/// How a world is built.
#[derive(Clone, Copy)]
struct Plan {
    /// IPv6 between the gateways.
    ipv6: bool,
    /// VLAN ids of the LANs, outer first.
    lan_vlans: &'static [u16],
    /// VLAN ids of the wires.
    wire_vlans: &'static [u16],
    /// Transmit frames per port.
    tx: usize,
    /// Transmit frames of the TUN.
    tun_tx: usize,
    /// Sealed messages leave by UDP sockets.
    datagrams: bool,
    /// DSCP is copied.
    copy_dscp: bool,
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

struct World {
    a: Gateway,
    b: Gateway,
    now: Boottime,
}

struct Gateway {
    site: Site,
    lane: Lane,
    snapshot: Snapshot,
    counters: Arc<LaneCounters>,
    control: Arc<Recorder>,
    lan: MemoryWire,
    wires: Vec<MemoryWire>,
    tun: MemoryWire,
    udp: MemoryWire,
    cancelled: Cancelled,
}

/// 1 is site A, 2 is site B.
#[derive(Clone, Copy)]
struct Site {
    number: u8,
    plan: Plan,
}

impl Site {
    fn other(self) -> Self {
        Self { number: 3 - self.number, ..self }
    }
    /// A host in the site's LAN.
    fn host(self, ipv6: bool) -> IpAddr {
        self.address(ipv6, 2)
    }
    fn address(self, ipv6: bool, host: u8) -> IpAddr {
        let n = self.number;
        let text = if ipv6 { format!("2001:db8:{n}::{host}") } else { format!("10.{n}.0.{host}") };
        text.parse().unwrap()
    }
    /// The gateway's address on wire `i` and the tunnel's port.
    fn endpoint(self, i: usize) -> SocketAddr {
        let (n, port) = (self.number, 51820 + i as u16);
        let text = if self.plan.ipv6 {
            format!("[2001:db8:ffff:{i}::{n}]:{port}")
        } else {
            format!("192.0.{i}.{n}:{port}")
        };
        text.parse().unwrap()
    }
    fn gateway_mac(self, port: usize) -> [u8; 6] {
        [2, 0, 0, 0, self.number, port as u8]
    }
    fn host_mac(self) -> [u8; 6] {
        [2, 0, 0, 1, self.number, 0]
    }
    fn local_index(self, i: usize) -> u32 {
        0x1000 * u32::from(self.number) + i as u32
    }
    fn key(self) -> [u8; 32] {
        [self.number; 32]
    }

    fn session(self, i: usize, now: Boottime) -> Arc<Session> {
        let id = SessionId {
            tunnel: TunnelId(i as u16),
            peer: PeerId(i as u32),
            local_index: self.local_index(i),
            remote_index: self.other().local_index(i),
        };
        let keys = SessionKeys { send: Key::new(&self.key()), receive: Key::new(&self.other().key()) };
        Arc::new(Session::new(id, keys, Role::Initiator, now, Arc::default()))
    }

    fn encap(self, i: usize) -> Encap {
        if self.plan.datagrams {
            return Encap::Datagram { to: self.other().endpoint(i) };
        }
        let (here, there) = (self.endpoint(i), self.other().endpoint(i));
        let (source, destination) = (self.gateway_mac(i + 1), self.other().gateway_mac(i + 1));
        Encap::frame(PortId(i as u16 + 1), source, destination, self.plan.wire_vlans, here, there).unwrap()
    }

    fn routes(self) -> Routes {
        let (here, there) = (self.number, 3 - self.number);
        let lan = Route::Interface { interface: LAN, gateway: None };
        let mut routes = Routes::default();
        let v4 = [
            (format!("10.{here}.0.0/16"), lan),
            (format!("10.{here}.0.1/32"), Route::Kernel),
            (format!("10.{here}.99.0/24"), Route::Unreachable),
            (format!("10.{here}.50.0/24"), Route::Interface { interface: InterfaceId(11), gateway: None }),
            (format!("10.{there}.0.0/16"), Route::Tunnel(GroupId(0))),
            ("172.16.0.0/12".into(), Route::Interface { interface: LAN, gateway: Some(self.host(false)) }),
            ("192.0.0.0/16".into(), Route::Kernel),
        ];
        for (net, route) in v4 {
            routes.v4.insert(net.parse().unwrap(), route);
        }
        routes.v6.insert(format!("2001:db8:{here}::/48").parse().unwrap(), lan);
        routes.v6.insert(format!("2001:db8:{there}::/48").parse().unwrap(), Route::Tunnel(GroupId(0)));
        routes
    }

    fn allowed_ips(self, peer: PeerId) -> AllowedIps {
        let there = 3 - self.number;
        let mut allowed = AllowedIps::default();
        // 127/8 stands here so that a martian passes this check and meets its own.
        for net in [format!("10.{there}.0.0/16"), "127.0.0.0/8".into()] {
            allowed.v4.insert(net.parse().unwrap(), peer);
        }
        // A more specific prefix of another peer, who then owns it.
        allowed.v4.insert(format!("10.{there}.77.0/24").parse().unwrap(), PeerId(99));
        allowed.v6.insert(format!("2001:db8:{there}::/48").parse().unwrap(), peer);
        allowed
    }

    fn snapshot(self, now: Boottime) -> Snapshot {
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
        let egress = Egress::Ethernet {
            ports: [LAN_PORT].into_iter().collect(),
            mac: self.gateway_mac(0),
            vlans: self.plan.lan_vlans.iter().copied().collect(),
            mtu: 1500,
        };
        let tunnels = (0..PATHS).map(|i| Tunnel {
            addresses: [self.address(false, 100 + i as u8)].into(),
            listen_port: self.endpoint(i).port(),
            allowed_ips: self.allowed_ips(PeerId(i as u32)),
            mtu: MTU,
            copy_dscp: self.plan.copy_dscp,
        });
        let neighbours = [false, true].map(|ipv6| ((LAN, self.host(ipv6)), self.host_mac()));
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
            egresses: Arc::new(Map::from_iter([(LAN, egress), (InterfaceId(11), Egress::Kernel)])),
            neighbours: Arc::new(Map::from_iter(neighbours)),
            transit: false,
        }
    }
}

impl Gateway {
    fn new(number: u8, plan: Plan, now: Boottime) -> Self {
        let site = Site { number, plan };
        let cancelled = Cancelled::default();
        let tx = |position| if position == TUN { plan.tun_tx } else { plan.tx };
        let ports = (0..6).map(|i| MemoryPort::new(512, tx(i), ROOM).unwrap());
        let (ports, wires): (Vec<_>, Vec<_>) = ports.unzip();
        let watched = |port| Box::new(Watched { port, cancelled: cancelled.clone() }) as _;
        let ports = Ports {
            all: ports.into_iter().map(watched).collect(),
            egress: (0..4).map(Some).collect(),
            kernel: Some(TUN),
            datagrams: Some(UDP),
        };
        let (counters, control) = (Arc::<LaneCounters>::default(), Arc::<Recorder>::default());
        let lane = Lane::new(ports, counters.clone(), control.clone(), ROOM).unwrap();
        let [lan, tun, udp] = [0, TUN, UDP].map(|i| wires[usize::from(i)].clone());
        let wires = wires[1..=PATHS].to_vec();
        Self { site, lane, snapshot: site.snapshot(now), counters, control, lan, wires, tun, udp, cancelled }
    }

    fn turn(&mut self, now: Boottime) -> usize {
        self.lane.turn(&self.snapshot, now)
    }

    /// Publishes a changed snapshot.
    fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.snapshot);
        self.snapshot.generation += 1;
    }

    fn set_path(&mut self, i: usize, change: impl FnOnce(&mut Path)) {
        self.publish(|snapshot| {
            let mut paths = snapshot.paths.to_vec();
            change(&mut paths[i]);
            snapshot.paths = paths.into();
        });
    }

    /// Puts the packet on the LAN, addressed to the gateway.
    fn lan_sends(&self, packet: &[u8]) {
        let site = self.site;
        let frame = ethernet(site.gateway_mac(0), site.host_mac(), site.plan.lan_vlans, packet);
        self.lan.push(Layer::Ethernet(LAN_PORT), frame);
    }

    /// Puts a frame on wire `i`.
    fn wire_brings(&self, i: usize, frame: &[u8]) {
        self.wires[i].push(Layer::Ethernet(PortId(i as u16 + 1)), frame);
    }

    /// The frame that this gateway sends on wire `i` for a plaintext, whatever it is.
    fn seal(&self, i: usize, counter: u64, plaintext: &[u8], ds: u8) -> Vec<u8> {
        let session = self.snapshot.paths[i].session.clone().unwrap();
        let Encap::Frame { header, ip, .. } = self.site.encap(i) else { panic!("no frames here") };
        let mut frame = vec![0; header.len() + 32 + plaintext.len()];
        let message = &mut frame[header.len()..];
        crate::aead::seal(&mut [super::outbound::job(&session, counter, plaintext, message)]);
        super::encap::fill(&header, ip.into(), &mut frame, ds, 7);
        frame
    }

    fn drops(&self, reason: Drop) -> u64 {
        self.counters.drops.get(reason)
    }

    fn all_drops(&self) -> Vec<(&'static str, u64)> {
        Drop::ALL.iter().map(|d| (d.label(), self.drops(*d))).filter(|(_, n)| *n > 0).collect()
    }

    /// What it sent on all wires, which must be sealed, all of it.
    fn take_sealed(&self) -> Vec<(usize, Vec<u8>)> {
        let sent = (0..PATHS).flat_map(|i| self.wires[i].take().into_iter().map(move |s| (i, s.bytes)));
        let sent: Vec<_> = sent.collect();
        for (i, frame) in &sent {
            assert!(is_sealed(self.site, *i, frame), "in clear on wire {i}: {frame:02x?}");
        }
        sent
    }

    fn assert_no_leak(&self) {
        let mut ports = self.wires.clone();
        ports.extend([self.lan.clone(), self.tun.clone(), self.udp.clone()]);
        for (i, port) in ports.iter().enumerate() {
            assert_eq!(port.outstanding(), (0, 0), "frames of port {i} that did not come back");
        }
    }
}

impl World {
    fn new(plan: Plan) -> Self {
        Self { a: Gateway::new(1, plan, START), b: Gateway::new(2, plan, START), now: START }
    }

    /// Both gateways take turns until nothing moves; what they send on the wires reaches the other.
    /// Returns the number of frames that crossed.
    fn settle(&mut self) -> usize {
        let mut crossed = 0;
        loop {
            let received = self.a.turn(self.now) + self.b.turn(self.now);
            let (to_b, to_a) = (self.a.take_sealed(), self.b.take_sealed());
            for (i, frame) in &to_b {
                self.b.wire_brings(*i, frame);
            }
            for (i, frame) in &to_a {
                self.a.wire_brings(*i, frame);
            }
            let sent = to_a.len() + to_b.len();
            crossed += sent;
            if received + sent == 0 {
                self.a.assert_no_leak();
                self.b.assert_no_leak();
                return crossed;
            }
        }
    }
}

/// Notes what lanes ask for.
#[derive(Default)]
struct Recorder {
    sessions: Mutex<Vec<PeerId>>,
    neighbours: Mutex<Vec<(InterfaceId, IpAddr)>>,
    handshakes: Mutex<Vec<(TunnelId, SocketAddr, Vec<u8>)>>,
    full: AtomicBool,
}

impl Control for Recorder {
    fn want_session(&self, peer: PeerId) {
        self.sessions.lock().unwrap().push(peer);
    }
    fn want_neighbour(&self, interface: InterfaceId, address: IpAddr) {
        self.neighbours.lock().unwrap().push((interface, address));
    }
    fn handshake(&self, tunnel: TunnelId, source: SocketAddr, message: &[u8]) -> Result<(), Drop> {
        Handshake::parse(message).ok_or(Drop::Malformed)?;
        if self.full.load(Ordering::Relaxed) {
            return Err(Drop::ControlQueueFull);
        }
        self.handshakes.lock().unwrap().push((tunnel, source, message.to_vec()));
        Ok(())
    }
}

/// The whole memory of the transmit frame that was cancelled last.
type Cancelled = Arc<Mutex<Vec<u8>>>;

/// A port that shows what stands in cancelled frames.
struct Watched {
    port: MemoryPort,
    cancelled: Cancelled,
}

impl Port for Watched {
    fn cancel(&mut self, mut frame: TxFrame) {
        let mut cancelled = self.cancelled.lock().unwrap();
        cancelled.clear();
        cancelled.extend_from_slice(frame.frame.memory_mut());
        self.port.cancel(frame);
    }
    fn receive(&mut self, origin: u16, max: usize, into: &mut Vec<RxFrame>) -> usize {
        self.port.receive(origin, max, into)
    }
    fn release(&mut self, frame: RxFrame) {
        self.port.release(frame);
    }
    fn reserve(&mut self) -> Option<TxFrame> {
        self.port.reserve()
    }
    fn transmit(&mut self, frame: TxFrame) {
        self.port.transmit(frame);
    }
    fn flush(&mut self) {
        self.port.flush();
    }
    fn poll_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.port.poll_fd()
    }
    fn counters(&self) -> PortCounters {
        self.port.counters()
    }
}

/// Whether a frame is a WireGuard message from the site's gateway to the other one's endpoint.
fn is_sealed(site: Site, wire: usize, frame: &[u8]) -> bool {
    let Some(ethernet) = parse::ethernet(PortId(0), frame) else { return false };
    let packet = &frame[ethernet.payload..];
    let Some(ip) = parse::ip(packet) else { return false };
    let Some(udp) = parse::udp(&ip, packet) else { return false };
    let message = &packet[udp.payload.clone()];
    let to = site.other().endpoint(wire);
    let receiver = site.other().local_index(wire).to_le_bytes();
    let sealed = message.len() >= 32 && message[..4] == [4, 0, 0, 0] && message[4..8] == receiver;
    let handshake = message.len() == 148 && message[..4] == [1, 0, 0, 0];
    udp.source == site.endpoint(wire)
        && SocketAddr::new(ip.destination, udp.port) == to
        && ethernet.key.mac == site.other().gateway_mac(wire + 1)
        && ip.len == packet.len()
        && parse::udp_checksum_is_right(packet)
        && (sealed || handshake)
}

/// An Ethernet frame, padded as on the wire.
fn ethernet(destination: [u8; 6], source: [u8; 6], vlans: &[u16], packet: &[u8]) -> Vec<u8> {
    let mut frame = [destination, source].concat();
    for vlan in vlans {
        frame.extend_from_slice(&[0x81, 0x00]);
        frame.extend_from_slice(&vlan.to_be_bytes());
    }
    frame.extend_from_slice(if packet.first().is_some_and(|b| b >> 4 == 6) {
        &[0x86, 0xdd]
    } else {
        &[0x08, 0x00]
    });
    frame.extend_from_slice(packet);
    frame.resize(frame.len().max(60), 0);
    frame
}

/// A UDP packet of a LAN host, in the fields that tests vary.
#[derive(Clone)]
struct Inner {
    from: IpAddr,
    to: IpAddr,
    ports: (u16, u16),
    ttl: u8,
    ecn: u8,
    payload: Vec<u8>,
}

impl Inner {
    /// From host to host.
    fn between(from: Site, ipv6: bool) -> Self {
        let payload = b"an inner payload".to_vec();
        Self {
            from: from.host(ipv6),
            to: from.other().host(ipv6),
            ports: (1234, 5678),
            ttl: 64,
            ecn: 0,
            payload,
        }
    }
    /// The same as its receiver gets it.
    fn forwarded(&self, hops: u8) -> Vec<u8> {
        Self { ttl: self.ttl - hops, ..self.clone() }.packet()
    }

    fn packet(&self) -> Vec<u8> {
        let mut udp = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        udp.extend_from_slice(&(8 + self.payload.len() as u16).to_be_bytes());
        udp.extend_from_slice(&[0xbe, 0xef]);
        udp.extend_from_slice(&self.payload);
        match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let len = (20 + udp.len() as u16).to_be_bytes();
                let mut header =
                    vec![0x45, 0xa0 | self.ecn, len[0], len[1], 0, 9, 0x40, 0, self.ttl, 17, 0, 0];
                header.extend_from_slice(&from.octets());
                header.extend_from_slice(&to.octets());
                checksummed(&mut header);
                [header, udp].concat()
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let len = (udp.len() as u16).to_be_bytes();
                let mut header = vec![0x6a, self.ecn << 4, 0, 1, len[0], len[1], 17, self.ttl];
                header.extend_from_slice(&from.octets());
                header.extend_from_slice(&to.octets());
                [header, udp].concat()
            }
            _ => panic!("mixed families"),
        }
    }
}

/// Sets an IPv4 header's checksum, by RFC 791's definition.
fn checksummed(header: &mut [u8]) {
    header[10..12].fill(0);
    let words = header.chunks_exact(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

fn bytes(sent: Vec<Sent>) -> Vec<Vec<u8>> {
    sent.into_iter().map(|s| s.bytes).collect()
}

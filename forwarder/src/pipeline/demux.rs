//! Sorts received frames: WireGuard messages for us, packets for a tunnel, handshakes for the control
//! thread.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::lane::Io;
use super::parse::{self, Ip};
use super::snapshot::{FrameKey, Route, Snapshot};
use crate::drops::Drop;
use crate::id::{InterfaceId, TunnelId};
use crate::port::{BURST, Layer, RxFrame};
use crate::wireguard::Session;
use crate::wireguard::message::{DataHeader, TYPE_COOKIE_REPLY, TYPE_INITIATION, TYPE_RESPONSE};

/// A data message with a session of ours.
#[derive(Debug)]
pub(super) struct Message<'s> {
    /// Position of its frame in the burst.
    pub frame: usize,
    /// The message in the frame.
    pub range: Range<usize>,
    pub header: DataHeader,
    pub session: &'s Arc<Session>,
    pub source: SocketAddr,
    /// The outer header's DS byte.
    pub ds: u8,
    /// The outer IP header's offset in the frame; `None` when the kernel has verified the checksums.
    pub outer: Option<usize>,
}

/// A packet that wants to go through a tunnel.
#[derive(Debug)]
pub(super) struct Packet {
    /// Position of its frame in the burst.
    pub frame: usize,
    /// The packet in the frame.
    pub range: Range<usize>,
    pub ip: Ip,
    /// The LAN interface it came from; `None` when the kernel routed it to us.
    pub interface: Option<InterfaceId>,
}

/// A burst, sorted, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Sorted<'s> {
    pub messages: ArrayVec<Message<'s>, BURST>,
    pub packets: ArrayVec<Packet, BURST>,
}

/// Sorts at most [`BURST`] frames.
pub(super) fn sort<'s>(io: &mut Io, snapshot: &'s Snapshot, frames: &[RxFrame]) -> Sorted<'s> {
    let mut sorted = Sorted::default();
    for (position, frame) in frames.iter().enumerate() {
        let bytes = frame.frame.bytes();
        let result = match frame.layer {
            Layer::Ethernet(_) => sorted.ethernet(snapshot, position, frame),
            Layer::Ip => sorted.packet(position, bytes, 0, None),
            Layer::Datagram { tunnel, source, ds } => match bytes.first() {
                Some(&(TYPE_INITIATION | TYPE_RESPONSE | TYPE_COOKIE_REPLY)) => {
                    handshake(io, tunnel, source, bytes)
                }
                _ => sorted.datagram(snapshot, position, bytes, (tunnel, source, ds)),
            },
        };
        if let Err(reason) = result {
            io.counters.drops.count(reason);
        }
    }
    sorted
}

/// Hands a handshake message on, and sends the answer back if there is one now. What finds no free frame is
/// asked for again.
fn handshake(io: &mut Io, tunnel: TunnelId, source: SocketAddr, message: &[u8]) -> Result<(), Drop> {
    io.control.handshake(tunnel, source, message).map_err(|refused| {
        let sent = refused.reply.map(|reply| io.answer(tunnel, source, &reply.to_bytes()));
        if let Some(Err(reason)) = sent {
            io.counters.drops.count(reason);
        }
        refused.reason
    })
}

impl<'s> Sorted<'s> {
    fn ethernet(&mut self, snapshot: &'s Snapshot, position: usize, frame: &RxFrame) -> Result<(), Drop> {
        let Layer::Ethernet(port) = frame.layer else { return Ok(()) };
        let bytes = frame.frame.bytes();
        let ethernet = parse::ethernet(port, bytes).ok_or(Drop::Malformed)?;
        if !matches!(ethernet.ethertype, parse::IPV4 | parse::IPV6) {
            return Err(Drop::NotSteered);
        }
        let packet = &bytes[ethernet.payload..];
        let ip = parse::ip(packet).ok_or(Drop::Malformed)?;
        if (ethernet.ethertype == parse::IPV4) != ip.source.is_ipv4() {
            return Err(Drop::Malformed);
        }
        match message(snapshot, position, packet, &ip, ethernet.payload) {
            Ok(message) => self.messages.push(message),
            // WireGuard traffic of the LAN's hosts may look like ours; its destination tells.
            Err(Some(reason)) if !is_remote(snapshot, &ip) => return Err(reason),
            Err(_) => {
                let interface = interface(snapshot, &ethernet.key)?;
                self.packet_of(position, ethernet.payload, ip, Some(interface));
            }
        }
        Ok(())
    }

    fn datagram(
        &mut self,
        snapshot: &'s Snapshot,
        frame: usize,
        bytes: &[u8],
        (tunnel, source, ds): (TunnelId, SocketAddr, u8),
    ) -> Result<(), Drop> {
        let header = DataHeader::parse(bytes).ok_or(Drop::Malformed)?;
        let session = snapshot.sessions.get(&header.receiver).filter(|s| s.tunnel == tunnel);
        let session = session.ok_or(Drop::UnknownIndex)?;
        self.messages.push(Message {
            frame,
            range: 0..bytes.len(),
            header,
            session,
            source,
            ds,
            outer: None,
        });
        Ok(())
    }

    fn packet(
        &mut self,
        frame: usize,
        bytes: &[u8],
        at: usize,
        interface: Option<InterfaceId>,
    ) -> Result<(), Drop> {
        let ip = parse::ip(&bytes[at..]).ok_or(Drop::Malformed)?;
        self.packet_of(frame, at, ip, interface);
        Ok(())
    }

    fn packet_of(&mut self, frame: usize, at: usize, ip: Ip, interface: Option<InterfaceId>) {
        self.packets.push(Packet { frame, range: at..at + ip.len, ip, interface });
    }
}

/// The data message in an IP packet. The error says why a message to one of our ports is none of ours;
/// it is `None` when this is no such message at all.
fn message<'s>(
    snapshot: &'s Snapshot,
    frame: usize,
    packet: &[u8],
    ip: &Ip,
    at: usize,
) -> Result<Message<'s>, Option<Drop>> {
    let udp = parse::udp(ip, packet).ok_or(None)?;
    let header = DataHeader::parse(&packet[udp.payload.clone()]).ok_or(None)?;
    let listens =
        |tunnel: TunnelId| snapshot.tunnels.get(tunnel.index()).is_some_and(|t| t.listen_port == udp.port);
    match snapshot.sessions.get(&header.receiver) {
        Some(session) if listens(session.tunnel) => Ok(Message {
            frame,
            range: at + udp.payload.start..at + udp.payload.end,
            header,
            session,
            source: udp.source,
            ds: ip.ds,
            outer: Some(at),
        }),
        _ if snapshot.tunnels.iter().any(|t| t.listen_port == udp.port) => Err(Some(Drop::UnknownIndex)),
        _ => Err(None),
    }
}

fn interface(snapshot: &Snapshot, key: &FrameKey) -> Result<InterfaceId, Drop> {
    snapshot.interfaces.get(key).copied().ok_or(Drop::Foreign)
}

fn is_remote(snapshot: &Snapshot, ip: &Ip) -> bool {
    matches!(snapshot.routes.lookup(ip.destination), Some(Route::Tunnel(_)))
}

//! Sorts received frames: WireGuard messages for us, packets for a tunnel, handshakes for the control
//! thread.

use std::net::SocketAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;

use super::lane::Io;
use super::parse::{self, Ip, Udp};
use super::snapshot::{FrameKey, Route, Snapshot};
use crate::drops::Drop;
use crate::id::{InterfaceId, PortId, TunnelId};
use crate::port::{BURST, Frame, Layer, RxFrame};
use crate::wireguard::Session;
use crate::wireguard::message::{DataHeader, TYPE_COOKIE_REPLY, TYPE_INITIATION, TYPE_RESPONSE};

/// Bytes of a burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Position of their frame in the burst.
    pub frame: u16,
    /// Offset in the frame's memory.
    pub start: u16,
    pub len: u32,
}

impl Span {
    /// `len` bytes from `at` in the packet of the frame at `position` of the burst.
    fn new(position: usize, frame: &Frame, at: usize, len: usize) -> Self {
        Self { frame: position as u16, start: (frame.start() + at) as u16, len: len as u32 }
    }

    #[inline]
    pub fn bytes(self, frames: &[RxFrame]) -> &[u8] {
        &frames[usize::from(self.frame)].frame.memory()[usize::from(self.start)..][..self.len as usize]
    }

    #[inline]
    pub fn bytes_mut(self, frames: &mut [RxFrame]) -> &mut [u8] {
        let frame = &mut frames[usize::from(self.frame)].frame;
        &mut frame.memory_mut()[usize::from(self.start)..][..self.len as usize]
    }
}

/// A data message with a session of ours. Small, as all that is kept of a burst's frames: what is read of it
/// once stays in the frame.
#[derive(Debug)]
pub(super) struct Message<'s> {
    pub session: &'s Session,
    pub counter: u64,
    pub span: Span,
    /// The outer header's DS byte.
    pub ds: u8,
    /// The outer IP header's offset in what was received; `None` when the kernel has verified the checksums.
    pub outer: Option<u8>,
}

/// A packet that wants to go through a tunnel.
#[derive(Debug)]
pub(super) struct Packet {
    pub span: Span,
    pub ip: Ip,
    /// The LAN interface it came from; `None` when the kernel routed it to us.
    pub interface: Option<InterfaceId>,
}

/// A burst, sorted, in order of arrival.
#[derive(Debug, Default)]
pub(super) struct Sorted<'s> {
    pub messages: ArrayVec<Message<'s>, BURST>,
    pub packets: ArrayVec<Packet, BURST>,
    /// What the last LAN frame's key named: the next one's is mostly the same.
    interface: Option<(FrameKey, InterfaceId)>,
    /// The last message's session: a path's messages come in a row.
    session: Option<&'s Session>,
}

/// Sorts at most [`BURST`] frames.
pub(super) fn sort<'s>(io: &mut Io, snapshot: &'s Snapshot, frames: &[RxFrame]) -> Sorted<'s> {
    let mut sorted = Sorted::default();
    for (position, frame) in frames.iter().enumerate() {
        let bytes = frame.frame.bytes();
        let result = match frame.layer {
            Layer::Ethernet(port) => sorted.ethernet(snapshot, position, &frame.frame, port),
            Layer::Ip => sorted.packet(position, &frame.frame),
            Layer::Datagram { tunnel, source, ds } => match bytes.first() {
                Some(&(TYPE_INITIATION | TYPE_RESPONSE | TYPE_COOKIE_REPLY)) => {
                    handshake(io, tunnel, source, bytes)
                }
                _ => sorted.datagram(snapshot, position, &frame.frame, tunnel, ds),
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
    fn ethernet(
        &mut self,
        snapshot: &'s Snapshot,
        position: usize,
        frame: &Frame,
        port: PortId,
    ) -> Result<(), Drop> {
        let bytes = frame.bytes();
        let ethernet = parse::ethernet(port, bytes).ok_or(Drop::Malformed)?;
        if !matches!(ethernet.ethertype, parse::IPV4 | parse::IPV6) {
            return Err(Drop::NotSteered);
        }
        let packet = &bytes[ethernet.payload..];
        let ip = parse::ip(packet).ok_or(Drop::Malformed)?;
        if (ethernet.ethertype == parse::IPV4) != ip.is_ipv4 {
            return Err(Drop::Malformed);
        }
        match self.message(snapshot, packet, ip) {
            Ok((session, Udp { payload, .. }, counter)) => {
                let span = Span::new(position, frame, ethernet.payload + payload.start, payload.len());
                let outer = Some(ethernet.payload as u8);
                self.messages.push(Message { session, counter, span, ds: ip.ds, outer });
            }
            // WireGuard traffic of the LAN's hosts may look like ours; its destination tells.
            Err(Some(reason)) if !is_remote(snapshot, ip, packet) => return Err(reason),
            Err(_) => {
                let interface = self.interface(snapshot, ethernet.key)?;
                let span = Span::new(position, frame, ethernet.payload, ip.packet_len());
                self.packets.push(Packet { span, ip, interface: Some(interface) });
            }
        }
        Ok(())
    }

    /// The data message in an IP packet: its session, its datagram, its counter. The error says why a message to one of
    /// our ports is none of ours; it is `None` when this is no such message at all.
    #[inline]
    fn message(
        &mut self,
        snapshot: &'s Snapshot,
        packet: &[u8],
        ip: Ip,
    ) -> Result<(&'s Session, Udp, u64), Option<Drop>> {
        let udp = parse::udp(ip, packet).ok_or(None)?;
        let header = DataHeader::parse(&packet[udp.payload.clone()]).ok_or(None)?;
        let listens = |tunnel: TunnelId| {
            snapshot.tunnels.get(tunnel.index()).is_some_and(|t| t.listen_port == udp.destination)
        };
        let last = self.session.filter(|session| session.local_index == header.receiver);
        let session = last.or_else(|| snapshot.sessions.get(&header.receiver).map(Arc::as_ref));
        match session {
            Some(session) if listens(session.tunnel) => {
                self.session = Some(session);
                Ok((session, udp, header.counter))
            }
            _ if snapshot.tunnels.iter().any(|t| t.listen_port == udp.destination) => {
                Err(Some(Drop::UnknownIndex))
            }
            _ => Err(None),
        }
    }

    fn interface(&mut self, snapshot: &Snapshot, key: FrameKey) -> Result<InterfaceId, Drop> {
        if let Some((last, interface)) = self.interface
            && last == key
        {
            return Ok(interface);
        }
        let interface = *snapshot.interfaces.get(&key).ok_or(Drop::Foreign)?;
        self.interface = Some((key, interface));
        Ok(interface)
    }

    fn datagram(
        &mut self,
        snapshot: &'s Snapshot,
        position: usize,
        frame: &Frame,
        tunnel: TunnelId,
        ds: u8,
    ) -> Result<(), Drop> {
        let header = DataHeader::parse(frame.bytes()).ok_or(Drop::Malformed)?;
        let session = snapshot.sessions.get(&header.receiver).filter(|s| s.tunnel == tunnel);
        let session = session.ok_or(Drop::UnknownIndex)?;
        let span = Span::new(position, frame, 0, frame.len());
        self.messages.push(Message { session, counter: header.counter, span, ds, outer: None });
        Ok(())
    }

    fn packet(&mut self, position: usize, frame: &Frame) -> Result<(), Drop> {
        let ip = parse::ip(frame.bytes()).ok_or(Drop::Malformed)?;
        let span = Span::new(position, frame, 0, ip.packet_len());
        self.packets.push(Packet { span, ip, interface: None });
        Ok(())
    }
}

fn is_remote(snapshot: &Snapshot, ip: Ip, packet: &[u8]) -> bool {
    matches!(snapshot.routes.lookup(ip.destination(packet)), Some(Route::Tunnel(_)))
}

//! Sorts received frames: WireGuard messages for us, packets for a tunnel, handshakes for the control
//! thread.

use std::net::SocketAddr;

use arrayvec::ArrayVec;

use super::lane::Io;
use super::parse::{self, Ip};
use super::snapshot::{FrameKey, Route, Snapshot};
use crate::drops::Drop;
use crate::id::{InterfaceId, TunnelId};
use crate::port::{BURST, Layer, RxFrame};
use crate::wireguard::Session;
use crate::wireguard::message::{DataHeader, TYPE_COOKIE_REPLY, TYPE_INITIATION, TYPE_RESPONSE};

/// Bytes of a burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// Position of their frame in the burst.
    pub frame: u16,
    /// Offset in the frame.
    pub start: u16,
    pub len: u32,
}

impl Span {
    fn new(frame: usize, start: usize, len: usize) -> Self {
        Self { frame: frame as u16, start: start as u16, len: len as u32 }
    }

    #[inline]
    pub fn bytes(self, frames: &[RxFrame]) -> &[u8] {
        &frames[usize::from(self.frame)].frame.bytes()[usize::from(self.start)..][..self.len as usize]
    }

    #[inline]
    pub fn bytes_mut(self, frames: &mut [RxFrame]) -> &mut [u8] {
        let frame = &mut frames[usize::from(self.frame)].frame;
        &mut frame.bytes_mut()[usize::from(self.start)..][..self.len as usize]
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
    /// The outer IP header's offset in the frame; `None` when the kernel has verified the checksums.
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
}

/// Sorts at most [`BURST`] frames.
pub(super) fn sort<'s>(io: &mut Io, snapshot: &'s Snapshot, frames: &[RxFrame]) -> Sorted<'s> {
    let mut sorted = Sorted::default();
    for (position, frame) in frames.iter().enumerate() {
        let bytes = frame.frame.bytes();
        let result = match frame.layer {
            Layer::Ethernet(_) => sorted.ethernet(snapshot, position, frame),
            Layer::Ip => sorted.packet(position, bytes),
            Layer::Datagram { tunnel, source, ds } => match bytes.first() {
                Some(&(TYPE_INITIATION | TYPE_RESPONSE | TYPE_COOKIE_REPLY)) => {
                    handshake(io, tunnel, source, bytes)
                }
                _ => sorted.datagram(snapshot, position, bytes, tunnel, ds),
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
        if (ethernet.ethertype == parse::IPV4) != ip.is_ipv4 {
            return Err(Drop::Malformed);
        }
        match message(snapshot, position, packet, ip, ethernet.payload) {
            Ok(message) => self.messages.push(message),
            // WireGuard traffic of the LAN's hosts may look like ours; its destination tells.
            Err(Some(reason)) if !is_remote(snapshot, ip, packet) => return Err(reason),
            Err(_) => {
                let interface = self.interface(snapshot, ethernet.key)?;
                self.packet_of(position, ethernet.payload, ip, Some(interface));
            }
        }
        Ok(())
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
        frame: usize,
        bytes: &[u8],
        tunnel: TunnelId,
        ds: u8,
    ) -> Result<(), Drop> {
        let header = DataHeader::parse(bytes).ok_or(Drop::Malformed)?;
        let session = snapshot.sessions.get(&header.receiver).filter(|s| s.tunnel == tunnel);
        let session = session.ok_or(Drop::UnknownIndex)?;
        let span = Span::new(frame, 0, bytes.len());
        self.messages.push(Message { session, counter: header.counter, span, ds, outer: None });
        Ok(())
    }

    fn packet(&mut self, frame: usize, bytes: &[u8]) -> Result<(), Drop> {
        let ip = parse::ip(bytes).ok_or(Drop::Malformed)?;
        self.packet_of(frame, 0, ip, None);
        Ok(())
    }

    fn packet_of(&mut self, frame: usize, at: usize, ip: Ip, interface: Option<InterfaceId>) {
        self.packets.push(Packet { span: Span::new(frame, at, ip.packet_len()), ip, interface });
    }
}

/// The data message in an IP packet. The error says why a message to one of our ports is none of ours;
/// it is `None` when this is no such message at all.
fn message<'s>(
    snapshot: &'s Snapshot,
    frame: usize,
    packet: &[u8],
    ip: Ip,
    at: usize,
) -> Result<Message<'s>, Option<Drop>> {
    let udp = parse::udp(ip, packet).ok_or(None)?;
    let header = DataHeader::parse(&packet[udp.payload.clone()]).ok_or(None)?;
    let listens = |tunnel: TunnelId| {
        snapshot.tunnels.get(tunnel.index()).is_some_and(|t| t.listen_port == udp.destination)
    };
    match snapshot.sessions.get(&header.receiver) {
        Some(session) if listens(session.tunnel) => Ok(Message {
            session,
            counter: header.counter,
            span: Span::new(frame, at + udp.payload.start, udp.payload.len()),
            ds: ip.ds,
            outer: Some(at as u8),
        }),
        _ if snapshot.tunnels.iter().any(|t| t.listen_port == udp.destination) => {
            Err(Some(Drop::UnknownIndex))
        }
        _ => Err(None),
    }
}

fn is_remote(snapshot: &Snapshot, ip: Ip, packet: &[u8]) -> bool {
    matches!(snapshot.routes.lookup(ip.destination(packet)), Some(Route::Tunnel(_)))
}

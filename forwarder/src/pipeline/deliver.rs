//! The next hop of an opened packet: a port with an Ethernet header, or the kernel.

use std::net::IpAddr;

use super::encap;
use super::lane::{Context, Io};
use super::parse::{self, Ip};
use super::ports::Ports;
use super::rewrite;
use super::snapshot::{Egress, Hop, Mac, Route, Snapshot};
use super::waiting::For;
use crate::drops::Drop;
use crate::id::InterfaceId;
use crate::port::{Destination, TxFrame};

/// A port and the room for an Ethernet header before the packet in its frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Position of the port.
    pub port: u16,
    /// Length of the header; 0 when the port takes IP packets.
    pub room: u16,
}

/// Where a packet goes on.
enum NextHop<'s> {
    Known(Exit<'s>),
    /// Nowhere until the address's MAC address is known.
    Unresolved(InterfaceId, IpAddr),
}

/// The last destination of a burst, its hop, and the MAC address to send to, once that is known: packets come in
/// trains, and the next one mostly goes there, too. Linux has such a hint for its own bursts (`ip_route_use_hint`).
#[derive(Default)]
pub(super) struct Hint<'s>(Option<(IpAddr, &'s Hop, Option<&'s Mac>)>);

/// How a packet leaves.
#[derive(Clone, Copy)]
struct Exit<'s> {
    /// Position of the port.
    port: u16,
    /// The Ethernet header's template and its destination; `None` when the kernel takes the packet as it is.
    ethernet: Option<(&'s [u8], &'s Mac)>,
}

impl Exit<'_> {
    fn place(&self) -> Place {
        Place { port: self.port, room: self.ethernet.map_or(0, |(header, _)| header.len() as u16) }
    }
}

/// Sends a packet that was opened in the tunnel at `position` on from the frame into which it was opened: in
/// place when that was the right one, else as a copy. Returns the right place; `None` when the packet waits.
///
/// # Errors
/// The frame comes back with the reason for the drop.
#[inline]
pub(super) fn from_frame<'s>(
    io: &mut Io,
    cx: Context<'s>,
    hint: &mut Hint<'s>,
    position: usize,
    ip: Ip,
    opened: Place,
    mut tx: TxFrame,
) -> Result<Option<Place>, (TxFrame, Drop)> {
    let packet = &mut tx.frame.memory_mut()[usize::from(opened.room)..][..ip.packet_len()];
    let exit = match exit(io, cx, hint, position, ip, packet) {
        Ok(Some(exit)) => exit,
        Ok(None) => {
            io.ports.cancel(opened.port, tx);
            return Ok(None);
        }
        Err(reason) => return Err((tx, reason)),
    };
    let place = exit.place();
    if place != opened {
        match copy(io, place, packet) {
            Ok(other) => io.ports.cancel(opened.port, std::mem::replace(&mut tx, other)),
            Err(reason) => return Err((tx, reason)),
        }
    }
    transmit(io, exit, tx, ip);
    Ok(Some(place))
}

/// Sends a packet that waited for its next hop; it may have to wait again.
///
/// # Errors
/// The reason for the drop.
pub(super) fn from_waiting(
    io: &mut Io,
    cx: Context<'_>,
    position: usize,
    packet: &mut [u8],
) -> Result<(), Drop> {
    let ip = parse::ip(packet).ok_or(Drop::Malformed)?;
    let Some(exit) = exit(io, cx, &mut Hint::default(), position, ip, packet)? else { return Ok(()) };
    let tx = copy(io, exit.place(), packet)?;
    transmit(io, exit, tx, ip);
    Ok(())
}

/// How a packet leaves, whose TTL is decremented when that is by Ethernet; `None` when it waits.
#[expect(
    clippy::inline_always,
    reason = "out of line its result goes through memory in parts, and is waited for"
)]
#[inline(always)]
fn exit<'s>(
    io: &mut Io,
    cx: Context<'s>,
    hint: &mut Hint<'s>,
    position: usize,
    ip: Ip,
    packet: &mut [u8],
) -> Result<Option<Exit<'s>>, Drop> {
    match next_hop(cx.snapshot, hint, &io.ports, position, ip, packet)? {
        NextHop::Known(exit) => {
            if exit.ethernet.is_some() {
                rewrite::decrement_ttl(packet);
            }
            Ok(Some(exit))
        }
        NextHop::Unresolved(interface, address) => {
            io.wait(cx, For::Neighbour(interface, address, position), packet);
            io.control.want_neighbour(interface, address);
            Ok(None)
        }
    }
}

/// Follows the route. What only the kernel can answer or do (ICMP, fragmentation, options) goes there.
#[expect(
    clippy::inline_always,
    reason = "out of line its result goes through memory in parts, and is waited for"
)]
#[inline(always)]
fn next_hop<'s>(
    snapshot: &'s Snapshot,
    hint: &mut Hint<'s>,
    ports: &Ports,
    position: usize,
    ip: Ip,
    packet: &[u8],
) -> Result<NextHop<'s>, Drop> {
    let kernel = || {
        let port = ports.kernel.ok_or(Drop::KernelQueueFull)?;
        Ok(NextHop::Known(Exit { port, ethernet: None }))
    };
    let destination = ip.destination(packet);
    let (hop, mac) = match hint.0 {
        Some((last, hop, mac)) if last == destination => (hop, mac),
        _ => {
            let hop = match snapshot.routes.lookup(destination) {
                None | Some(Route::Unreachable) => return Err(Drop::Unroutable),
                Some(Route::Tunnel(_)) if !snapshot.transit => return Err(Drop::Transit),
                Some(Route::Kernel | Route::Tunnel(_)) => return kernel(),
                Some(Route::Hop(hop)) => snapshot.hops.get(hop.index()).ok_or(Drop::Unroutable)?,
            };
            let mac = match &hop.router {
                None => snapshot.neighbours.get(hop.interface, destination),
                Some(router) => router.mac.as_ref(),
            };
            hint.0 = Some((destination, hop, mac));
            (hop, mac)
        }
    };
    let Egress::Ethernet { ports: usable, header, mtu } = &hop.egress else { return kernel() };
    if ip.packet_len() > usize::from(*mtu) || ip.ttl <= 1 || ip.options {
        return kernel();
    }
    // A division takes its time, and most LANs have one port.
    let at = if usable.len() == 1 { 0 } else { position % usable.len().max(1) };
    let port = usable.get(at).ok_or(Drop::PortDown)?;
    let port = ports.egress(*port).ok_or(Drop::PortDown)?;
    let Some(mac) = mac else {
        let address = hop.router.map_or(destination, |router| router.address);
        return Ok(NextHop::Unresolved(hop.interface, address));
    };
    Ok(NextHop::Known(Exit { port, ethernet: Some((header, mac)) }))
}

/// A frame of the place's port with the packet in it.
fn copy(io: &mut Io, place: Place, packet: &[u8]) -> Result<TxFrame, Drop> {
    let room = usize::from(place.room);
    let mut tx = io.reserve(place.port, room + packet.len())?;
    tx.frame.memory_mut()[room..][..packet.len()].copy_from_slice(packet);
    Ok(tx)
}

#[expect(
    clippy::inline_always,
    reason = "out of line the frame goes through memory in parts, and is waited for"
)]
#[inline(always)]
fn transmit(io: &mut Io, exit: Exit<'_>, mut tx: TxFrame, ip: Ip) {
    tx.frame.set_range(0, usize::from(exit.place().room) + ip.packet_len());
    if let Some((template, neighbour)) = exit.ethernet {
        let ethertype = if ip.is_ipv4 { parse::IPV4 } else { parse::IPV6 };
        encap::fill_ethernet(template, tx.frame.bytes_mut(), *neighbour, ethertype);
    }
    io.ports.transmit(exit.port, tx, &Destination::Headers);
}

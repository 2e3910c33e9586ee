//! The next hop of an opened packet: a port with an Ethernet header, or the kernel.

use std::net::IpAddr;

use arrayvec::ArrayVec;

use super::encap::{MAX_ETHERNET_LEN, ethernet};
use super::lane::{Context, Io};
use super::parse::{self, Ip};
use super::ports::Ports;
use super::rewrite;
use super::snapshot::{Egress, Route, Snapshot};
use super::waiting::For;
use crate::drops::Drop;
use crate::id::InterfaceId;
use crate::port::TxFrame;

/// A port and the room for an Ethernet header before the packet in its frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Position of the port.
    pub port: u16,
    /// Length of the header; 0 when the port takes IP packets.
    pub room: usize,
}

/// Where a packet goes on.
enum NextHop {
    /// To a port, behind this header.
    Port(u16, ArrayVec<u8, MAX_ETHERNET_LEN>),
    /// To the kernel, as it is.
    Kernel,
    /// Nowhere until the address's MAC address is known.
    Unresolved(InterfaceId, IpAddr),
}

/// Sends a packet that was opened in the tunnel at `position` on from the frame into which it was opened: in
/// place when that was the right one, else as a copy. Returns the right place; `None` when the packet waits.
///
/// # Errors
/// The frame comes back with the reason for the drop.
pub(super) fn from_frame(
    io: &mut Io,
    cx: Context<'_>,
    position: usize,
    ip: &Ip,
    opened: Place,
    mut tx: TxFrame,
) -> Result<Option<Place>, (TxFrame, Drop)> {
    let packet = &mut tx.frame.memory_mut()[opened.room..][..ip.len];
    let (port, header) = match exit(io, cx, position, ip, packet) {
        Ok(Some(exit)) => exit,
        Ok(None) => {
            io.ports.cancel(opened.port, tx);
            return Ok(None);
        }
        Err(reason) => return Err((tx, reason)),
    };
    let place = Place { port, room: header.len() };
    if place == opened {
        transmit(io, place, tx, &header, ip.len);
        return Ok(Some(place));
    }
    match copy(io, place, packet) {
        Ok(other) => {
            io.ports.cancel(opened.port, tx);
            transmit(io, place, other, &header, ip.len);
            Ok(Some(place))
        }
        Err(reason) => Err((tx, reason)),
    }
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
    let Some((port, header)) = exit(io, cx, position, &ip, packet)? else { return Ok(()) };
    let place = Place { port, room: header.len() };
    let tx = copy(io, place, packet)?;
    transmit(io, place, tx, &header, ip.len);
    Ok(())
}

/// The port and header for a packet, whose TTL is decremented when it leaves by Ethernet; `None` when
/// it waits.
fn exit(
    io: &mut Io,
    cx: Context<'_>,
    position: usize,
    ip: &Ip,
    packet: &mut [u8],
) -> Result<Option<(u16, ArrayVec<u8, MAX_ETHERNET_LEN>)>, Drop> {
    match next_hop(cx.snapshot, &io.ports, position, ip)? {
        NextHop::Port(port, header) => {
            rewrite::decrement_ttl(packet);
            Ok(Some((port, header)))
        }
        NextHop::Kernel => {
            let kernel = io.ports.kernel.ok_or(Drop::KernelQueueFull)?;
            Ok(Some((kernel, ArrayVec::new())))
        }
        NextHop::Unresolved(interface, address) => {
            io.wait(cx, For::Neighbour(interface, address, position), packet);
            io.control.want_neighbour(interface, address);
            Ok(None)
        }
    }
}

/// Follows the route. What only the kernel can answer or do (ICMP, fragmentation, options) goes there.
fn next_hop(snapshot: &Snapshot, ports: &Ports, position: usize, ip: &Ip) -> Result<NextHop, Drop> {
    let (interface, gateway) = match snapshot.routes.lookup(ip.destination) {
        None | Some(Route::Unreachable) => return Err(Drop::Unroutable),
        Some(Route::Tunnel(_)) if !snapshot.transit => return Err(Drop::Transit),
        Some(Route::Kernel | Route::Tunnel(_)) => return Ok(NextHop::Kernel),
        Some(Route::Interface { interface, gateway }) => (interface, gateway),
    };
    let Some(Egress::Ethernet { ports: usable, mac, vlans, mtu }) = snapshot.egresses.get(&interface) else {
        return Ok(NextHop::Kernel);
    };
    if ip.len > usize::from(*mtu) || ip.ttl <= 1 || ip.options {
        return Ok(NextHop::Kernel);
    }
    let port = usable.get(position % usable.len().max(1)).ok_or(Drop::PortDown)?;
    let port = ports.egress(*port).ok_or(Drop::PortDown)?;
    let address = gateway.unwrap_or(ip.destination);
    let Some(neighbour) = snapshot.neighbours.get(&(interface, address)) else {
        return Ok(NextHop::Unresolved(interface, address));
    };
    let ethertype = if ip.source.is_ipv4() { parse::IPV4 } else { parse::IPV6 };
    let header = ethernet(*mac, *neighbour, vlans, ethertype).ok_or(Drop::PortDown)?;
    Ok(NextHop::Port(port, header))
}

/// A frame of the place's port with the packet in it.
fn copy(io: &mut Io, place: Place, packet: &[u8]) -> Result<TxFrame, Drop> {
    let mut tx = io.reserve(place.port, place.room + packet.len())?;
    tx.frame.memory_mut()[place.room..][..packet.len()].copy_from_slice(packet);
    Ok(tx)
}

fn transmit(io: &mut Io, place: Place, mut tx: TxFrame, header: &[u8], len: usize) {
    tx.frame.set_range(0, place.room + len);
    tx.frame.bytes_mut()[..place.room].copy_from_slice(header);
    io.ports.transmit(place.port, tx);
}

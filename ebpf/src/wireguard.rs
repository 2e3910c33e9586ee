//! UDP to one of our listeners: data messages are ours, all other messages the kernel's sockets'.

use forwarder_contract::{Listener, Verdict};

use crate::{
    frame::{Frame, Header},
    ip::Packet,
    maps,
};

/// Type 4 and three reserved zero bytes: the first word of a data message (whitepaper, 5.4.6).
const DATA: [u8; 4] = [4, 0, 0, 0];
/// A data message without a payload, in bytes: header 16, tag 16.
const SHORTEST: usize = 32;

#[repr(C)]
struct Udp {
    source: [u8; 2],
    destination: [u8; 2],
    length: [u8; 2],
    checksum: [u8; 2],
}

// SAFETY: bytes only.
unsafe impl Header for Udp {}

/// What to do with an unfragmented UDP packet at `offset`; `None` when it is not for a listener.
#[inline(always)]
pub fn classify(frame: Frame, offset: usize, packet: &Packet, address: [u8; 16]) -> Option<Verdict> {
    let offset = offset + packet.header_length;
    let room = packet.length - packet.header_length;
    let udp = frame.header::<Udp>(offset).filter(|_| room >= size_of::<Udp>());
    let Some(udp) = udp else {
        return Some(Verdict::PassTruncated);
    };
    let listener = Listener { address, port_be: u16::from_ne_bytes(udp.destination), padding: [0; 2] };
    // SAFETY: the value is never read.
    unsafe { maps::LISTENERS.get(listener) }?;
    let length = usize::from(u16::from_be_bytes(udp.length));
    if length < size_of::<Udp>() || length > room {
        return Some(Verdict::PassTruncated);
    }
    let kind = frame.header::<[u8; 4]>(offset + size_of::<Udp>());
    let data = kind.is_some_and(|kind| *kind == DATA) && length >= size_of::<Udp>() + SHORTEST;
    Some(if data { Verdict::RedirectWireGuard } else { Verdict::PassControl })
}

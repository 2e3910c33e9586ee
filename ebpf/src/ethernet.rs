//! Ethernet: up to two VLAN tags, then the interface that the frame is for.

use forwarder_contract::{InterfaceKey, Verdict};

use crate::{
    frame::{Frame, Header},
    ip, maps,
};

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;

#[repr(C)]
struct Ethernet {
    destination: [u8; 6],
    source: [u8; 6],
    ethertype: [u8; 2],
}

#[repr(C)]
struct Tag {
    /// Priority (3 bits), drop eligible (1), VLAN id (12).
    control: [u8; 2],
    ethertype: [u8; 2],
}

// SAFETY: bytes only.
unsafe impl Header for Ethernet {}
// SAFETY: bytes only.
unsafe impl Header for Tag {}

/// What to do with a frame.
#[inline(always)]
pub fn classify(frame: Frame) -> Verdict {
    let Some(ethernet) = frame.header::<Ethernet>(0) else {
        return Verdict::PassTruncated;
    };
    let mut key = InterfaceKey { outer_vlan: 0, inner_vlan: 0, mac: ethernet.destination, padding: [0; 2] };
    let mut ethertype = u16::from_be_bytes(ethernet.ethertype);
    let mut offset = size_of::<Ethernet>();
    for vlan in [&mut key.outer_vlan, &mut key.inner_vlan] {
        if ethertype != VLAN && ethertype != SERVICE_VLAN {
            break;
        }
        let Some(tag) = frame.header::<Tag>(offset) else {
            return Verdict::PassTruncated;
        };
        *vlan = u16::from_be_bytes(tag.control) & 0x0fff;
        ethertype = u16::from_be_bytes(tag.ethertype);
        offset += size_of::<Tag>();
    }
    if ethertype != IPV4 && ethertype != IPV6 {
        return Verdict::PassNotIp;
    }
    // SAFETY: the value is two integers that user space writes once per key; a torn read is harmless.
    let Some(interface) = (unsafe { maps::INTERFACES.get(key) }) else {
        return Verdict::PassForeign;
    };
    if ethertype == IPV4 {
        ip::classify_v4(frame, offset, interface)
    } else {
        ip::classify_v6(frame, offset, interface)
    }
}

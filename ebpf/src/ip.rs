//! IPv4 (RFC 791) and IPv6 (RFC 8200): one description for both, then the route.

use forwarder_contract::{Interface, Steering, Verdict};

use aya_ebpf::btf_maps::lpm_trie::Key;

use crate::{
    frame::{Frame, Header},
    lan, maps, wireguard,
};

const UDP: u8 = 17;
const FRAGMENT: u8 = 44;

/// What the routes need to know of an IP packet whose lengths are consistent.
pub struct Packet {
    /// Header and payload, in bytes; they lie within the frame.
    pub length: usize,
    /// Header, in bytes; of no meaning with options or in a fragment.
    pub header_length: usize,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4 options, or IPv6 extension headers other than the fragment header.
    pub options: bool,
    /// First or later fragment.
    pub fragment: bool,
}

#[repr(C)]
struct V4 {
    version_and_words: u8,
    tos: u8,
    length: [u8; 2],
    identification: [u8; 2],
    fragment: [u8; 2],
    ttl: u8,
    protocol: u8,
    checksum: [u8; 2],
    source: [u8; 4],
    destination: [u8; 4],
}

#[repr(C)]
struct V6 {
    version_and_flow: [u8; 4],
    payload_length: [u8; 2],
    next_header: u8,
    hop_limit: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

#[repr(C)]
struct Fragment {
    next_header: u8,
    reserved: u8,
    offset_and_more: [u8; 2],
    identification: [u8; 4],
}

// SAFETY: bytes only.
unsafe impl Header for V4 {}
// SAFETY: bytes only.
unsafe impl Header for V6 {}
// SAFETY: bytes only.
unsafe impl Header for Fragment {}

/// What to do with an IPv4 packet at `offset`.
#[inline(always)]
pub fn classify_v4(frame: Frame, offset: usize, interface: &Interface) -> Verdict {
    let Some(header) = frame.header::<V4>(offset) else {
        return Verdict::PassTruncated;
    };
    let header_length = usize::from(header.version_and_words & 0x0f) * 4;
    let packet = Packet {
        length: usize::from(u16::from_be_bytes(header.length)),
        header_length: size_of::<V4>(),
        ttl: header.ttl,
        options: header_length > size_of::<V4>(),
        // More fragments, or an offset.
        fragment: u16::from_be_bytes(header.fragment) & 0x3fff != 0,
    };
    let consistent = header.version_and_words >> 4 == 4
        && header_length >= size_of::<V4>()
        && packet.length >= header_length
        && packet.length <= frame.len_from(offset);
    if !consistent {
        return Verdict::PassTruncated;
    }
    if header.protocol == UDP && !packet.options && !packet.fragment {
        let [a, b, c, d] = header.destination;
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d];
        if let Some(verdict) = wireguard::classify(frame, offset, &packet, mapped) {
            return verdict;
        }
    }
    let steered = steers(maps::STEERING_V4.get(&Key::new(32, header.destination)));
    lan::classify(&packet, steered, interface)
}

/// What to do with an IPv6 packet at `offset`.
#[inline(always)]
pub fn classify_v6(frame: Frame, offset: usize, interface: &Interface) -> Verdict {
    let Some(header) = frame.header::<V6>(offset) else {
        return Verdict::PassTruncated;
    };
    let fragment = header.next_header == FRAGMENT;
    let mut packet = Packet {
        length: size_of::<V6>() + usize::from(u16::from_be_bytes(header.payload_length)),
        header_length: size_of::<V6>(),
        ttl: header.hop_limit,
        options: is_extension(header.next_header) && !fragment,
        fragment,
    };
    if header.version_and_flow[0] >> 4 != 6 || packet.length > frame.len_from(offset) {
        return Verdict::PassTruncated;
    }
    if fragment {
        let Some(fragment) = frame.header::<Fragment>(offset + size_of::<V6>()) else {
            return Verdict::PassTruncated;
        };
        if packet.length < size_of::<V6>() + size_of::<Fragment>() {
            return Verdict::PassTruncated;
        }
        packet.options = is_extension(fragment.next_header);
    }
    if header.next_header == UDP
        && let Some(verdict) = wireguard::classify(frame, offset, &packet, header.destination)
    {
        return verdict;
    }
    let steered = steers(maps::STEERING_V6.get(&Key::new(128, header.destination)));
    lan::classify(&packet, steered, interface)
}

/// A longest-prefix match's answer; a destination without a prefix is the kernel's.
#[inline(always)]
fn steers(entry: Option<&u32>) -> bool {
    entry.is_some_and(|steering| *steering == Steering::Tunnel as u32)
}

/// IPv6 extension headers (IANA's list) but for ESP, behind which there is nothing for us to read:
/// hop-by-hop options, routing, fragment, authentication, destination options, mobility, HIP, shim6.
#[inline(always)]
fn is_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | FRAGMENT | 51 | 60 | 135 | 139 | 140)
}

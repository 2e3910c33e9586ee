//! The packets of the benchmark: Ethernet, IPv4, UDP and a stamp.
//!
//! ```text
//!  0     14     34    42    44     46      48       50         54      60
//!  | Eth | IPv4 | UDP | magic | trial | flow | sequence | sent ns | zeros ...
//! ```
//!
//! Where the sink takes them, the time of arrival stands over the MAC addresses.

use std::net::Ipv4Addr;

use forwarder::clock::Boottime;

use crate::size::Size;

/// Length of an Ethernet header in bytes.
pub const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;
const SOURCE_AT: usize = ETHERNET + 12;
/// Length of a frame's headers in bytes.
pub const HEADERS: usize = ETHERNET + IPV4 + UDP;
const STAMP_AT: usize = HEADERS;
const STAMP_LEN: usize = 18;
const MAGIC: u16 = 0xbe9c;
const FIRST_SOURCE_PORT: u16 = 10_000;

/// The destination port of every packet (discard), by which the sink's XDP program knows them.
pub const DESTINATION_PORT: u16 = 9;
/// The shortest packet that has room for its stamp, as an IP length in bytes.
pub const SMALLEST: usize = IPV4 + UDP + STAMP_LEN;
/// The longest packet, as an IP length in bytes.
pub const LARGEST: usize = 1500;
/// How many flows there can be: each has its own source port.
pub const MOST_FLOWS: u16 = u16::MAX - FIRST_SOURCE_PORT;

/// Where the packets of a benchmark go.
#[derive(Clone, Copy, Debug)]
pub struct Route {
    /// MAC address of the sending interface.
    pub source_mac: [u8; 6],
    /// MAC address of the gateway.
    pub next_hop_mac: [u8; 6],
    /// Address of the sending host.
    pub source: Ipv4Addr,
    /// Address of the receiving host.
    pub destination: Ipv4Addr,
}

/// What tells one packet from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The trial it was sent in: a straggler of an earlier one is no packet of this one.
    pub trial: u16,
    /// Its flow.
    pub flow: u16,
    /// Its place in the flow, from 0.
    pub sequence: u32,
    /// When it was to be sent.
    pub sent: Boottime,
}

/// The headers of every flow, made once.
#[derive(Debug)]
pub struct Template {
    headers: Vec<[u8; STAMP_AT]>,
    size: Size,
}

impl Template {
    /// Headers for `flows` flows of packets of this size. The UDP checksum is 0, which on IPv4 means that
    /// there is none.
    pub fn new(route: &Route, flows: u16, size: Size) -> Self {
        let ports = |flow| (FIRST_SOURCE_PORT + flow, DESTINATION_PORT);
        let headers = (0..flows).map(|flow| headers(route, ports(flow), size.of(flow, 0))).collect();
        Self { headers, size }
    }

    /// Length of a packet's frame in bytes, without FCS.
    pub fn frame_len(&self, flow: u16, sequence: u32) -> usize {
        ETHERNET + usize::from(self.size.of(flow, sequence))
    }

    /// Number of flows.
    pub fn flows(&self) -> u16 {
        self.headers.len() as u16
    }

    /// Writes headers and stamp to the start of `frame`, which is at least `frame_len` long.
    pub fn write(&self, stamp: &Stamp, frame: &mut [u8]) {
        frame[..STAMP_AT].copy_from_slice(&self.headers[usize::from(stamp.flow)]);
        if self.size == Size::Imix {
            set_length(&mut frame[..HEADERS], self.size.of(stamp.flow, stamp.sequence));
        }
        let bytes = &mut frame[STAMP_AT..][..STAMP_LEN];
        bytes[0..2].copy_from_slice(&MAGIC.to_be_bytes());
        bytes[2..4].copy_from_slice(&stamp.trial.to_be_bytes());
        bytes[4..6].copy_from_slice(&stamp.flow.to_be_bytes());
        bytes[6..10].copy_from_slice(&stamp.sequence.to_be_bytes());
        bytes[10..18].copy_from_slice(&stamp.sent.nanos().to_be_bytes());
    }
}

/// The stamp of a received frame; `None` when it is no packet of a benchmark.
pub fn parse(frame: &[u8]) -> Option<Stamp> {
    let (bytes, _) = frame.get(STAMP_AT..)?.split_first_chunk::<STAMP_LEN>()?;
    let [m0, m1, t0, t1, f0, f1, s0, s1, s2, s3, sent @ ..] = *bytes;
    (u16::from_be_bytes([m0, m1]) == MAGIC).then(|| Stamp {
        trial: u16::from_be_bytes([t0, t1]),
        flow: u16::from_be_bytes([f0, f1]),
        sequence: u32::from_be_bytes([s0, s1, s2, s3]),
        sent: Boottime::from_nanos(u64::from_be_bytes(sent)),
    })
}

/// When a packet arrived, where the sink's program has noted it: see [`crate::program::Arrival::Told`].
pub fn arrival(frame: &[u8]) -> Option<Boottime> {
    frame.first_chunk().map(|bytes| Boottime::from_nanos(u64::from_ne_bytes(*bytes)))
}

/// Ethernet, IPv4 and UDP headers of a packet of `ip_len` bytes between two UDP ports.
pub fn headers(route: &Route, (source_port, destination_port): (u16, u16), ip_len: u16) -> [u8; HEADERS] {
    let mut bytes = [0; HEADERS];
    bytes[0..6].copy_from_slice(&route.next_hop_mac);
    bytes[6..12].copy_from_slice(&route.source_mac);
    bytes[12..14].copy_from_slice(&[0x08, 0x00]);

    let ip = &mut bytes[ETHERNET..][..IPV4];
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    ip[6] = 0x40; // don't fragment, so identification 0 is right (RFC 6864)
    ip[8] = 64;
    ip[9] = 17;
    ip[12..16].copy_from_slice(&route.source.octets());
    ip[16..20].copy_from_slice(&route.destination.octets());

    let udp = &mut bytes[ETHERNET + IPV4..];
    udp[0..2].copy_from_slice(&source_port.to_be_bytes());
    udp[2..4].copy_from_slice(&destination_port.to_be_bytes());
    udp[4..6].copy_from_slice(&(ip_len - IPV4 as u16).to_be_bytes());
    set_source(&mut bytes, route.source);
    bytes
}

/// Sets the source address of such headers, and their checksum.
pub fn set_source(headers: &mut [u8; HEADERS], source: Ipv4Addr) {
    headers[SOURCE_AT..][..4].copy_from_slice(&source.octets());
    let ip = &mut headers[ETHERNET..][..IPV4];
    ip[10..12].fill(0);
    let checksum = checksum(ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Sets the length of such headers' packet, and the checksum.
pub fn set_length(headers: &mut [u8], ip_len: u16) {
    let ip = &mut headers[ETHERNET..][..IPV4];
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    ip[10..12].fill(0);
    let checksum = checksum(ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    headers[HEADERS - 4..][..2].copy_from_slice(&(ip_len - IPV4 as u16).to_be_bytes());
}

/// The UDP payload of a frame with such headers, and the address it goes to.
pub fn datagram(frame: &[u8]) -> Option<(Ipv4Addr, &[u8])> {
    let (headers, payload) = frame.split_first_chunk::<HEADERS>()?;
    let destination: [u8; 4] = headers[SOURCE_AT + 4..][..4].try_into().ok()?;
    let length = u16::from_be_bytes([headers[HEADERS - 4], headers[HEADERS - 3]]);
    let payload = payload.get(..usize::from(length).checked_sub(UDP)?)?;
    Some((destination.into(), payload))
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route() -> Route {
        Route {
            source_mac: [2, 0, 0, 0, 0, 1],
            next_hop_mac: [2, 0, 0, 0, 0, 2],
            source: Ipv4Addr::new(10, 1, 0, 2),
            destination: Ipv4Addr::new(10, 2, 0, 2),
        }
    }

    #[test]
    fn a_stamp_is_read_back() {
        let template = Template::new(&route(), 64, Size::One(46));
        assert_eq!(template.frame_len(63, 5), 60);
        let stamp = Stamp { trial: 7, flow: 63, sequence: 0x0102_0304, sent: Boottime::from_nanos(1 << 40) };
        let mut frame = [0; 60];
        template.write(&stamp, &mut frame);
        assert_eq!(parse(&frame), Some(stamp));
        assert_eq!(frame[34..36], (FIRST_SOURCE_PORT + 63).to_be_bytes());
        assert_eq!(parse(&frame[..59]), None);
        frame[STAMP_AT] ^= 1;
        assert_eq!(parse(&frame), None);
    }

    #[test]
    fn headers_tell_the_length_of_each_packet() {
        let template = Template::new(&route(), 4, Size::Imix);
        for (sequence, len) in [(0, 46), (1, 552), (6, 1420)] {
            assert_eq!(template.frame_len(0, sequence), ETHERNET + len);
            let mut frame = vec![0; ETHERNET + len];
            template.write(&Stamp { trial: 0, flow: 0, sequence, sent: Boottime::default() }, &mut frame);
            let (_, payload) = datagram(&frame).expect("the length is right");
            assert_eq!(payload.len(), len - IPV4 - UDP);
            assert_eq!(checksum(&frame[ETHERNET..][..IPV4]), 0);
        }
    }

    #[test]
    fn checksum_of_the_example_in_rfc_1071() {
        assert_eq!(checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn an_ipv4_header_sums_to_zero() {
        let mut headers = headers(&route(), (10_000, 9), 1420);
        assert_eq!(checksum(&headers[ETHERNET..][..IPV4]), 0);
        set_source(&mut headers, Ipv4Addr::new(198, 18, 255, 1));
        assert_eq!(checksum(&headers[ETHERNET..][..IPV4]), 0);
    }

    #[test]
    fn a_datagram_is_read_back_without_padding() {
        let mut frame = headers(&route(), (10_000, 9), 31).to_vec();
        frame.extend([1, 2, 3, 0, 0, 0]);
        assert_eq!(datagram(&frame), Some((Ipv4Addr::new(10, 2, 0, 2), &[1, 2, 3][..])));
        assert_eq!(datagram(&frame[..HEADERS + 2]), None);
    }
}

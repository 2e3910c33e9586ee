//! Every parser of what comes from a wire: link layer, IP, UDP, WireGuard.

use crate::id::PortId;
use crate::pipeline::{flow, parse};
use crate::wireguard::message::{
    COOKIE_REPLY_LEN, DATA_HEADER_LEN, DATA_MIN_LEN, DataHeader, Handshake, INITIATION_LEN, RESPONSE_LEN,
};

/// Parses `data` as a frame, as an IP packet and as a WireGuard message. What the parsers say lies within
/// the bytes, and what they read is written again as it was.
pub fn wire(data: &[u8]) {
    frame(data);
    packet(data);
    message(data);
}

fn frame(frame: &[u8]) {
    let Some(ethernet) = parse::ethernet(PortId(1), frame) else { return };
    let tags = (ethernet.payload - parse::ETHERNET_LEN) / parse::VLAN_LEN;
    assert!(tags <= 2 && ethernet.payload <= frame.len());
    assert_eq!(ethernet.key.mac[..], frame[..6]);
    assert_eq!(ethernet.ethertype.to_be_bytes()[..], frame[ethernet.payload - 2..ethernet.payload]);
    assert!(ethernet.key.outer_vlan < 4096 && ethernet.key.inner_vlan < 4096);
    packet(&frame[ethernet.payload..]);
}

fn packet(packet: &[u8]) {
    let Some(ip) = parse::ip(packet) else {
        assert!(!parse::udp_checksum_is_right(packet));
        return;
    };
    let (header_len, packet_len) = (ip.header_len(), ip.packet_len());
    assert!(header_len <= packet_len && packet_len <= packet.len());
    assert!(header_len >= if ip.is_ipv4 { parse::IPV4_LEN } else { parse::IPV6_LEN });
    let (source, destination) = (ip.source(packet), ip.destination(packet));
    assert!(source.is_ipv4() == ip.is_ipv4 && destination.is_ipv4() == ip.is_ipv4);
    // A link layer's padding says nothing.
    let alone = &packet[..packet_len];
    assert!(parse::ip(alone) == Some(ip) && ip.source(alone) == source);
    let end = (header_len + 4).min(packet_len);
    let bucket = |packet| flow::bucket(ip, packet, 1 << 31);
    assert_eq!(bucket(alone), bucket(&alone[..end]), "only addresses and ports count");
    assert_eq!(parse::udp_checksum_is_right(packet), parse::udp_checksum_is_right(alone));
    let Some(udp) = parse::udp(ip, packet) else { return };
    assert!(ip.protocol == parse::UDP && !ip.fragment);
    assert_eq!(parse::udp_source(packet), Some((source, udp.source).into()));
    assert!(udp.payload.start == header_len + parse::UDP_LEN);
    assert!(udp.payload.start <= udp.payload.end && udp.payload.end <= packet_len);
    message(&packet[udp.payload]);
}

fn message(message: &[u8]) {
    if let Some(header) = DataHeader::parse(message) {
        assert!(message.len() >= DATA_MIN_LEN);
        assert_eq!(header.to_bytes()[..], message[..DATA_HEADER_LEN]);
        assert_eq!(Handshake::parse(message), None);
    }
    let (written, unread) = match Handshake::parse(message) {
        Some(Handshake::Initiation(initiation)) => (initiation.to_bytes().to_vec(), INITIATION_LEN - 32),
        Some(Handshake::Response(response)) => (response.to_bytes().to_vec(), RESPONSE_LEN - 32),
        Some(Handshake::CookieReply(reply)) => (reply.to_bytes().to_vec(), COOKIE_REPLY_LEN),
        None => return,
    };
    assert_eq!(written.len(), message.len());
    assert_eq!(written[..unread], message[..unread]);
}

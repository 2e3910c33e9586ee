//! Packets of the LAN, by their destination and by what a tunnel can take.

use std::net::Ipv4Addr;

use forwarder_contract::Verdict;
use tests::frames::{IPV4, IPV6, TCP, UDP, ethernet, ipv4, ipv6, udp};

use crate::frames::{
    EXEMPT_V4, EXEMPT_V6, FAR_V4, FAR_V6, IP, LISTENER_V4, LISTENER_V6, LISTENER_WITHIN, MAC, NEAR_V4,
    NEAR_V6, PEER_V4, PORT, TAGS, TUNNEL_MTU, fragment_v4, fragment_v6, lan_v4, lan_v6, message, plain_v4,
    plain_v6, with, with_options,
};
use crate::steer::Steer;

#[test]
fn lan_packets_of_steered_destinations_are_redirected() {
    let steer = Steer::load();
    for tags in TAGS {
        steer.expect("TCP", &ethernet(tags, MAC, IPV4, &lan_v4(FAR_V4, 40)), Verdict::RedirectLan);
        steer.expect("TCP", &ethernet(tags, MAC, IPV6, &lan_v6(FAR_V6, 40)), Verdict::RedirectLan);
    }
    for protocol in [1, UDP, 47, 50, 132] {
        let packet = ipv4(NEAR_V4, FAR_V4, protocol, &udp(1, PORT, &message(4, 64)));
        steer.expect("another protocol", &plain_v4(&packet), Verdict::RedirectLan);
    }
    for next_header in [UDP, 50, 58, 59, 132] {
        let packet = ipv6(NEAR_V6, FAR_V6, next_header, &udp(1, PORT, &message(4, 64)));
        steer.expect("another protocol", &plain_v6(&packet), Verdict::RedirectLan);
    }
    steer.expect("no payload", &plain_v4(&lan_v4(FAR_V4, 0)), Verdict::RedirectLan);
    steer.expect("no payload", &plain_v6(&lan_v6(FAR_V6, 0)), Verdict::RedirectLan);
    let padded = [plain_v4(&lan_v4(FAR_V4, 1)), vec![0; 25]].concat();
    steer.expect("Ethernet padding", &padded, Verdict::RedirectLan);
}

#[test]
fn the_longest_prefix_decides() {
    let steer = Steer::load();
    steer.expect("exempt", &plain_v4(&lan_v4(EXEMPT_V4, 40)), Verdict::PassUnsteered);
    steer.expect("exempt", &plain_v6(&lan_v6(EXEMPT_V6, 40)), Verdict::PassUnsteered);
    steer.expect("in no prefix", &plain_v4(&lan_v4(NEAR_V4, 40)), Verdict::PassUnsteered);
    steer.expect("in no prefix", &plain_v6(&lan_v6(NEAR_V6, 40)), Verdict::PassUnsteered);
    let broadcast = lan_v4(Ipv4Addr::BROADCAST, 40);
    steer.expect("broadcast", &plain_v4(&broadcast), Verdict::PassUnsteered);
}

#[test]
fn what_a_tunnel_cannot_take_passes() {
    let steer = Steer::load();
    let v4 = |length: usize| plain_v4(&lan_v4(FAR_V4, length - 20));
    steer.expect("exactly the MTU", &v4(TUNNEL_MTU), Verdict::RedirectLan);
    steer.expect("over the MTU", &v4(TUNNEL_MTU + 1), Verdict::PassTooBig);
    let v6 = |length: usize| plain_v6(&lan_v6(FAR_V6, length - 40));
    steer.expect("exactly the MTU", &v6(TUNNEL_MTU), Verdict::RedirectLan);
    steer.expect("over the MTU", &v6(TUNNEL_MTU + 1), Verdict::PassTooBig);
    for (ttl, verdict) in [(0, Verdict::PassTtl), (1, Verdict::PassTtl), (2, Verdict::RedirectLan)] {
        steer.expect("TTL", &with(v4(60), IP + 8, ttl), verdict);
        steer.expect("hop limit", &with(v6(60), IP + 7, ttl), verdict);
    }
    let options = with_options(&lan_v4(FAR_V4, 40));
    steer.expect("IPv4 options", &plain_v4(&options), Verdict::PassOptions);
    for extension in [0, 43, 51, 60, 135, 139, 140] {
        let packet = ipv6(NEAR_V6, FAR_V6, extension, &[TCP, 0, 0, 0, 0, 0, 0, 0]);
        steer.expect("extension header", &plain_v6(&packet), Verdict::PassOptions);
        let behind = fragment_v6(NEAR_V6, FAR_V6, extension, 1, &[0; 16]);
        steer.expect("extension header in fragment", &plain_v6(&behind), Verdict::PassOptions);
    }
}

#[test]
fn inner_fragments_are_redirected_and_outer_ones_pass() {
    let steer = Steer::load();
    let datagram = udp(9, PORT, &message(4, 64));
    // More fragments; last fragment; both with an offset that has only high or only low bits.
    for field in [0x2000, 0x2001, 0x0001, 0x1fff, 0x1000] {
        let inner = fragment_v4(&ipv4(NEAR_V4, FAR_V4, UDP, &datagram), field);
        steer.expect("inner", &plain_v4(&inner), Verdict::RedirectLan);
        let outer = fragment_v4(&ipv4(PEER_V4, LISTENER_V4, UDP, &datagram), field);
        steer.expect("outer", &plain_v4(&outer), Verdict::PassFragment);
        let within = fragment_v4(&ipv4(PEER_V4, LISTENER_WITHIN, UDP, &datagram), field);
        steer.expect("outer under a steered prefix", &plain_v4(&within), Verdict::PassFragment);
    }
    for field in [0x0001, 0x0008, 0x0009, 0x0000] {
        let inner = fragment_v6(NEAR_V6, FAR_V6, UDP, field, &datagram);
        steer.expect("inner", &plain_v6(&inner), Verdict::RedirectLan);
        let outer = fragment_v6(NEAR_V6, LISTENER_V6, UDP, field, &datagram);
        steer.expect("outer", &plain_v6(&outer), Verdict::PassFragment);
    }
    let dont_fragment = fragment_v4(&ipv4(PEER_V4, LISTENER_V4, UDP, &datagram), 0x4000);
    steer.expect("DF is no fragment", &plain_v4(&dont_fragment), Verdict::RedirectWireGuard);
}

//! Frames by their tags, addresses and protocols, and without a socket.

use forwarder_contract::Verdict;
use tests::frames::{IPV4, IPV6, ethernet, ipv6};

use crate::frames::{
    FAR_V4, FAR_V6, LISTENER_V6, MAC, NEAR_V6, lan_v4, lan_v6, message, plain_v4, plain_v6, wireguard_v4,
    with,
};
use crate::steer::Steer;

#[test]
fn unknown_tags_and_addresses_pass() {
    let steer = Steer::load();
    let packet = lan_v4(FAR_V4, 40);
    for tags in [&[11][..], &[10, 30], &[30], &[30, 20], &[20]] {
        steer.expect("other tags", &ethernet(tags, MAC, IPV4, &packet), Verdict::PassForeign);
    }
    for position in 0..6 {
        let frame = plain_v4(&packet);
        let other = frame[position] ^ 1;
        steer.expect("other MAC", &with(frame, position, other), Verdict::PassForeign);
    }
    let multicast = ethernet(&[], [0x01, 0, 0x5e, 0, 0, 1], IPV4, &packet);
    steer.expect("multicast", &multicast, Verdict::PassForeign);
    steer.expect("broadcast", &ethernet(&[], [0xff; 6], IPV4, &packet), Verdict::PassForeign);
    let three = ethernet(&[20, 30, 40], MAC, IPV4, &packet);
    steer.expect("three tags", &three, Verdict::PassNotIp);
}

#[test]
fn tags_may_have_priorities_and_be_service_tags() {
    let steer = Steer::load();
    let packet = lan_v4(FAR_V4, 40);
    let priority = ethernet(&[0xf000 | 0x00a], MAC, IPV4, &packet);
    steer.expect("priority bits", &priority, Verdict::RedirectLan);
    let service = ethernet(&[20, 30], MAC, IPV4, &packet);
    let service = with(with(service, 12, 0x88), 13, 0xa8);
    steer.expect("service tag", &service, Verdict::RedirectLan);
    steer.expect("priority tag only", &ethernet(&[0], MAC, IPV4, &packet), Verdict::RedirectLan);
}

#[test]
fn the_links_own_protocols_pass() {
    let steer = Steer::load();
    let slow_protocols = [0x01, 0x80, 0xc2, 0, 0, 2];
    let lldp = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
    for (what, destination, ethertype) in [
        ("LACPDU", slow_protocols, 0x8809),
        ("LLDP", lldp, 0x88cc),
        ("ARP request", [0xff; 6], 0x0806),
        ("ARP reply", MAC, 0x0806),
        ("PPPoE", MAC, 0x8864),
        ("MPLS", MAC, 0x8847),
        ("802.3 length", MAC, 46),
    ] {
        let frame = ethernet(&[], destination, ethertype, &[1; 110]);
        steer.expect(what, &frame, Verdict::PassNotIp);
    }
    let solicitation = ipv6(NEAR_V6, LISTENER_V6, 58, &[135; 32]);
    steer.expect("ND to us", &plain_v6(&solicitation), Verdict::PassUnsteered);
    let to_group = ethernet(&[], [0x33, 0x33, 0xff, 0, 0, 1], IPV6, &solicitation);
    steer.expect("ND to the group", &to_group, Verdict::PassForeign);
}

#[test]
fn without_a_socket_frames_pass() {
    let steer = Steer::without_socket();
    steer.expect("data", &wireguard_v4(&[], &message(4, 64)), Verdict::PassNoSocket);
    steer.expect("LAN", &plain_v6(&lan_v6(FAR_V6, 40)), Verdict::PassNoSocket);
    steer.expect("control", &wireguard_v4(&[], &message(1, 148)), Verdict::PassControl);
}

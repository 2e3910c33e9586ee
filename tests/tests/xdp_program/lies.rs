//! Frames that are cut short, lie, or are random.

use forwarder_contract::Verdict;
use tests::frames::{IPV4, IPV6, UDP, ethernet};

use crate::frames::{
    FAR_V4, FAR_V6, IP, MAC, NEAR_V6, TAGS, fragment_v6, lan_v4, lan_v6, message, plain_v4, plain_v6,
    wireguard_v4, wireguard_v6, with, with_u16,
};
use crate::steer::{Steer, action_of, difference};

#[test]
fn frames_cut_short_pass() {
    let steer = Steer::load();
    let fragment = fragment_v6(NEAR_V6, FAR_V6, UDP, 1, &[0; 16]);
    for tags in TAGS {
        for frame in [
            wireguard_v4(tags, &message(4, 48)),
            wireguard_v6(tags, &message(4, 48)),
            ethernet(tags, MAC, IPV4, &lan_v4(FAR_V4, 40)),
            ethernet(tags, MAC, IPV6, &lan_v6(FAR_V6, 40)),
            ethernet(tags, MAC, IPV6, &fragment),
        ] {
            // The kernel's test run refuses frames shorter than an Ethernet header.
            for length in 14..frame.len() {
                steer.expect("cut", &frame[..length], Verdict::PassTruncated);
            }
        }
    }
}

#[test]
fn lying_lengths_pass() {
    let steer = Steer::load();
    let lan_v4 = plain_v4(&lan_v4(FAR_V4, 40));
    for length in [0, 19, 61, 0xffff] {
        let lie = with_u16(lan_v4.clone(), IP + 2, length);
        steer.expect("IPv4 total length", &lie, Verdict::PassTruncated);
    }
    for version_and_words in [0x00, 0x40, 0x44, 0x55, 0x65, 0xf5] {
        let lie = with(lan_v4.clone(), IP, version_and_words);
        steer.expect("IPv4 version or header length", &lie, Verdict::PassTruncated);
    }
    let long = with_u16(with(lan_v4, IP, 0x4f), IP + 2, 59);
    steer.expect("header longer than the packet", &long, Verdict::PassTruncated);
    let lan_v6 = plain_v6(&lan_v6(FAR_V6, 40));
    for length in [41, 0xffff] {
        let lie = with_u16(lan_v6.clone(), IP + 4, length);
        steer.expect("IPv6 payload length", &lie, Verdict::PassTruncated);
    }
    steer.expect("IPv6 version", &with(lan_v6, IP, 0x40), Verdict::PassTruncated);
    let fragment = plain_v6(&fragment_v6(NEAR_V6, FAR_V6, UDP, 1, &[0; 16]));
    let short = with_u16(fragment, IP + 4, 7);
    steer.expect("shorter than its fragment header", &short, Verdict::PassTruncated);
}

#[test]
fn lying_udp_lengths_pass() {
    let steer = Steer::load();
    for (frame, udp) in
        [(wireguard_v4(&[], &message(4, 48)), IP + 20), (wireguard_v6(&[], &message(4, 48)), IP + 40)]
    {
        for length in [0, 7, 57, 0xffff] {
            let lie = with_u16(frame.clone(), udp + 4, length);
            steer.expect("UDP length", &lie, Verdict::PassTruncated);
        }
        let short = with_u16(frame, udp + 4, 39);
        steer.expect("UDP length of a short message", &short, Verdict::PassControl);
    }
    for length in 20..28 {
        let lie = with_u16(wireguard_v4(&[], &message(4, 48)), IP + 2, length);
        steer.expect("IP length within the UDP header", &lie, Verdict::PassTruncated);
    }
}

#[test]
fn random_frames_pass_or_are_redirected_and_are_counted_once() {
    let steer = Steer::load();
    let seeds = [
        wireguard_v4(&[10], &message(4, 48)),
        wireguard_v6(&[], &message(4, 48)),
        plain_v4(&lan_v4(FAR_V4, 40)),
        plain_v6(&fragment_v6(NEAR_V6, FAR_V6, UDP, 1, &[0; 16])),
    ];
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 16) as usize % below
    };
    for _ in 0..20_000 {
        let mut frame = seeds[next(seeds.len())].clone();
        for _ in 0..=next(3) {
            // Behind the MAC addresses, lest nearly all are foreign.
            let position = 12 + next(50);
            frame[position] = next(256) as u8;
        }
        frame.truncate(14 + next(frame.len() - 13));
        let before = steer.counters();
        let action = steer.run(&frame);
        let counted = difference(&before, &steer.counters());
        assert_eq!(counted.len(), 1, "{counted:?} {frame:02x?}");
        assert_eq!(action, action_of(counted[0]), "{counted:?} {frame:02x?}");
    }
}

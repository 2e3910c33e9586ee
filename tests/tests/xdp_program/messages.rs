//! WireGuard's messages, by the listener they are for.

use forwarder_contract::Verdict;
use tests::frames::{TCP, UDP, ipv4, ipv6, udp};

use crate::frames::{
    LISTENER_V4, LISTENER_V6, LISTENER_WITHIN, NEAR_V6, PEER_V4, PORT, TAGS, message, plain_v4, plain_v6,
    wireguard_v4, wireguard_v6, with, with_options,
};
use crate::steer::Steer;

#[test]
fn data_messages_for_a_listener_are_redirected() {
    let steer = Steer::load();
    for tags in TAGS {
        for frame in [wireguard_v4(tags, &message(4, 32)), wireguard_v6(tags, &message(4, 32))] {
            steer.expect("data", &frame, Verdict::RedirectWireGuard);
        }
    }
    steer.expect("with payload", &wireguard_v4(&[], &message(4, 1452)), Verdict::RedirectWireGuard);
    let within = ipv4(PEER_V4, LISTENER_WITHIN, UDP, &udp(9, PORT, &message(4, 64)));
    steer.expect("to an address under a steered prefix", &plain_v4(&within), Verdict::RedirectWireGuard);
}

#[test]
fn other_messages_for_a_listener_pass() {
    let steer = Steer::load();
    for (what, message) in [
        ("initiation", message(1, 148)),
        ("response", message(2, 92)),
        ("cookie", message(3, 64)),
        ("type 0", message(0, 64)),
        ("type 5", message(5, 64)),
        ("a reserved byte set", with(message(4, 64), 3, 1)),
        ("a byte short", message(4, 31)),
        ("type alone", message(4, 4)),
        ("less than a type", message(4, 3)),
        ("empty", Vec::new()),
    ] {
        steer.expect(what, &wireguard_v4(&[], &message), Verdict::PassControl);
        steer.expect(what, &wireguard_v6(&[10], &message), Verdict::PassControl);
        // A short frame is padded to Ethernet's least length.
        let padded = [wireguard_v4(&[], &message), vec![0; 46]].concat();
        steer.expect(what, &padded, Verdict::PassControl);
    }
    let within = ipv4(PEER_V4, LISTENER_WITHIN, UDP, &udp(9, PORT, &message(1, 148)));
    steer.expect("under a steered prefix", &plain_v4(&within), Verdict::PassControl);
}

#[test]
fn data_messages_for_others_pass() {
    let steer = Steer::load();
    let data = message(4, 64);
    let port = ipv4(PEER_V4, LISTENER_V4, UDP, &udp(PORT, PORT + 1, &data));
    steer.expect("another port", &plain_v4(&port), Verdict::PassUnsteered);
    let address = ipv4(PEER_V4, PEER_V4, UDP, &udp(9, PORT, &data));
    steer.expect("another address", &plain_v4(&address), Verdict::PassUnsteered);
    let tcp = ipv4(PEER_V4, LISTENER_V4, TCP, &udp(9, PORT, &data));
    steer.expect("TCP", &plain_v4(&tcp), Verdict::PassUnsteered);
    let v6 = ipv6(NEAR_V6, LISTENER_V6, UDP, &udp(9, PORT + 1, &data));
    steer.expect("another port", &plain_v6(&v6), Verdict::PassUnsteered);
    let options = with_options(&ipv4(PEER_V4, LISTENER_V4, UDP, &udp(9, PORT, &data)));
    steer.expect("outer options", &plain_v4(&options), Verdict::PassUnsteered);
}

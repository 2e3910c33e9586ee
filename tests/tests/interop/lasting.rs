//! What takes its time: rekeys, peers that restart, peers that move.

use std::thread;

use nix::sys::signal::Signal;
use tests::lab::renumber;
use xtask::lab::address::lan4;
use xtask::lab::peer::{Implementation, Program};
use xtask::lab::{Family, Side, traffic};
use xtask::test::is_long;

use crate::ends::{Case, Ends, Messages, lab, without};
use crate::{at_once, ping, ping_when_reachable, program, programs};

/// Five a second for 124 s, begun after the first handshake: `REKEY_AFTER_TIME` (120 s) falls among them.
const PINGS_OVER_A_REKEY: u32 = 620;
/// The same for 246 s: two of them fall among these.
const PINGS_OVER_TWO_REKEYS: u32 = 1230;

/// All take their time, so they take it together.
#[test]
fn rekeys_lose_no_packet_and_restarts_are_survived() {
    let test = "rekeys_lose_no_packet_and_restarts_are_survived";
    let cases = [
        Case { initiator: Side::A, underlay: Family::V4, preshared_key: false },
        Case { initiator: Side::B, underlay: Family::V4, preshared_key: true },
        Case { initiator: Side::A, underlay: Family::V6, preshared_key: true },
        Case { initiator: Side::B, underlay: Family::V6, preshared_key: false },
    ];
    let programs = programs(test, &Implementation::ALL);
    thread::scope(|scope| {
        for program in &programs {
            for case in cases {
                scope.spawn(move || over_rekeys(program, case));
            }
            for initiator in [Side::A, Side::B] {
                scope.spawn(move || over_a_restart(program, initiator));
            }
        }
    });
}

/// The initiator's LAN host pings the other one while the initiator renews the session.
fn over_rekeys(program: &Program, case: Case) {
    let name = program.implementation.name();
    let lab = case.lab();
    let (initiations, responses) = (Messages::initiations(&lab), Messages::responses(&lab));
    let ends = Ends::start(lab, program);
    let (near, far) = ends.from(case.initiator);
    ping_when_reachable(near, far);
    let first = responses.sent_by(far.side);
    let (rekeys, pings) = if is_long() { (2, PINGS_OVER_TWO_REKEYS) } else { (1, PINGS_OVER_A_REKEY) };
    let pings = traffic::ping(&near.host, far.host_address().into(), pings).unwrap();
    assert_eq!(pings.received, pings.sent, "{name}, {case:?}: pings were lost");
    let handshakes = responses.sent_by(far.side);
    assert!(
        handshakes >= first + rekeys,
        "{name}, {case:?}: {handshakes} handshakes, {first} before the pings"
    );
    let others = initiations.sent_by(far.side);
    assert_eq!(others, 0, "{name}, {case:?}: the responder has initiated");
}

/// The peer is killed and started anew. Either the new one has something to say, or our end notices that
/// the old one says nothing.
fn over_a_restart(program: &Program, initiator: Side) {
    let lab = lab(1, Family::V4);
    if initiator == Side::A {
        without(&lab.b, "Endpoint");
    }
    let mut ends = Ends::start(lab, program);
    ping_when_reachable(&ends.lab.a, &ends.lab.b);
    for old in &mut ends.peers {
        old.daemon.end_with(Signal::SIGKILL).unwrap();
    }
    // Their sockets go with them: the next one's has the same name.
    ends.peers.clear();
    ends.peers = vec![program.start(&ends.lab.b, 0).unwrap()];
    let (near, far) = ends.from(initiator);
    ping_when_reachable(near, far);
}

#[test]
fn wireguard_go_is_followed_where_it_roams() {
    is_followed("wireguard_go_is_followed_where_it_roams", Implementation::WireguardGo, to_another_port);
}

/// gotatun 0.10.2 sometimes ends when its port changes: "Unexpected error on tun interface: channel closed".
#[test]
fn gotatun_is_followed_where_it_roams() {
    is_followed("gotatun_is_followed_where_it_roams", Implementation::Gotatun, to_another_address);
}

#[test]
fn boringtun_is_followed_where_it_roams() {
    is_followed("boringtun_is_followed_where_it_roams", Implementation::Boringtun, to_another_port);
}

fn to_another_port(ends: &Ends) {
    let interface = &ends.peers[0].interface;
    ends.lab.b.gateway.run(&format!("wg set {interface} listen-port 40000")).unwrap();
}

fn to_another_address(ends: &Ends) {
    renumber(&ends.lab, &ends.lab.b).unwrap();
}

fn is_followed(test: &str, implementation: Implementation, moves: fn(&Ends)) {
    let Some(program) = program(test, implementation) else { return };
    at_once([Family::V4, Family::V6], |underlay| {
        let lab = lab(1, underlay);
        let handshakes = Messages::responses(&lab);
        let ends = Ends::start(lab, &program);
        ping_when_reachable(&ends.lab.a, &ends.lab.b);
        let before = handshakes.sent_by(Side::A) + handshakes.sent_by(Side::B);
        moves(&ends);
        // Its next data message comes from there, and nothing else tells of it.
        ping_when_reachable(&ends.lab.b, &ends.lab.a);
        ping(&ends.lab.a.host, lan4(Side::B, 10), "");
        let after = handshakes.sent_by(Side::A) + handshakes.sent_by(Side::B);
        assert_eq!(after, before, "{underlay:?}: this was no roaming");
    });
}

//! A peer whose clock went back: its initiations look like replays and are refused (whitepaper, section 5.1),
//! while ours succeed.

use nix::sys::signal::Signal;
use xtask::lab::peer::{Implementation, Program};
use xtask::lab::{Family, Side, traffic};
use xtask::progress::wait_until;

use crate::ends::{Case, Ends, Messages};
use crate::{PATIENCE, at_once, ping_when_reachable, programs};

/// wireguard-go asks the kernel for the time, not the C library, so nobody can tell it another one.
#[test]
fn initiations_of_a_clock_that_went_back_are_refused_and_ours_succeed() {
    let test = "initiations_of_a_clock_that_went_back_are_refused_and_ours_succeed";
    let programs = programs(test, &[Implementation::Gotatun, Implementation::Boringtun]);
    at_once(&programs, clock_goes_back);
}

fn clock_goes_back(program: &Program) {
    let name = program.implementation.name();
    let lab = Case { initiator: Side::B, underlay: Family::V4, preshared_key: false }.lab();
    let initiations = Messages::initiations(&lab);
    let responses = Messages::responses(&lab);
    let mut ends = Ends::start(lab, program);
    ping_when_reachable(&ends.lab.b, &ends.lab.a);
    assert_eq!(responses.sent_by(Side::A), 1, "{name}: one handshake");

    ends.peers[0].daemon.end_with(Signal::SIGKILL).unwrap();
    // Their sockets go with them: the next one's has the same name.
    ends.peers.clear();
    ends.peers = vec![program.start_an_hour_ago(&ends.lab.b, 0).unwrap()];
    let before = initiations.sent_by(Side::B);
    let asked = wait_until(PATIENCE, || {
        traffic::ping(&ends.lab.b.host, ends.lab.a.host_address().into(), 1)?;
        Ok(initiations.sent_by(Side::B) > before)
    });
    assert!(asked.unwrap(), "{name}: it sends no initiation");

    ping_when_reachable(&ends.lab.a, &ends.lab.b);
    ping_when_reachable(&ends.lab.b, &ends.lab.a);
    assert!(initiations.sent_by(Side::A) > 0, "{name}: no initiation of ours");
    assert_eq!(responses.sent_by(Side::A), 1, "{name}: an old initiation was answered");
}

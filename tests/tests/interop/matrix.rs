//! Every implementation, in both roles, over both underlays, with and without a preshared key.

use xtask::lab::peer::{Implementation, Program};
use xtask::lab::{Side, traffic};
use xtask::test::{matrix, not_run};

use crate::ends::{Case, Ends, Messages, tcp};
use crate::{at_once, install, ping_when_reachable};

#[test]
fn wireguard_go_in_all_its_cases() {
    all_cases("wireguard_go_in_all_its_cases", Implementation::WireguardGo);
}

#[test]
fn gotatun_in_all_its_cases() {
    all_cases("gotatun_in_all_its_cases", Implementation::Gotatun);
}

#[test]
fn boringtun_in_all_its_cases() {
    all_cases("boringtun_in_all_its_cases", Implementation::Boringtun);
}

fn all_cases(test: &str, implementation: Implementation) {
    let cases = matrix::Case::all(implementation.name());
    match install(implementation) {
        Ok(program) => at_once(cases, |case| {
            meets(&program, case);
            case.passed();
        }),
        Err(reason) => {
            for case in cases {
                case.not_run(&reason);
            }
            not_run(test, &reason);
        }
    }
}

/// The initiator's end speaks first, then packets and streams pass both ways.
fn meets(program: &Program, case: matrix::Case) {
    let initiator = if case.peer_initiates { Side::B } else { Side::A };
    let matrix::Case { underlay, preshared_key, .. } = case;
    let lab = Case { initiator, underlay, preshared_key }.lab();
    let (initiations, responses) = (Messages::initiations(&lab), Messages::responses(&lab));
    let ends = Ends::start(lab, program);
    let (near, far) = ends.from(initiator);
    ping_when_reachable(near, far);
    ping_when_reachable(far, near);
    tcp(&near.host, (&far.host, far.host_address().into()), &ends.lab);
    tcp(&far.host, (&near.host, near.host_address().into()), &ends.lab);
    assert_eq!(traffic::ping(&near.host, far.host_address().into(), 5).unwrap().received, 5, "{case}");
    let (near, far) = (initiations.sent_by(near.side), initiations.sent_by(far.side));
    assert!(near >= 1 && far == 0, "{case}: {near} initiations of the initiator, {far} of the other end");
    let responder = if initiator == Side::A { Side::B } else { Side::A };
    assert!(responses.sent_by(responder) >= 1, "{case}: no response");
}

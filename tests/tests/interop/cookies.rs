//! Cookie mode (whitepaper, section 5.3): under a flood of initiations with a good mac1 from many sources, a
//! receiver demands a cookie of whom it does not know; a new handshake comes through all the same.

use std::time::Duration;

use xtask::lab::peer::{Implementation, Program};
use xtask::lab::{Daemon, Family, Lab, Side, Site, address, traffic};
use xtask::progress::wait_until;
use xtask::workspace;

use crate::ends::{Case, Ends, Messages};
use crate::{at_once, programs};

/// Where the flood claims to come from: 65,536 addresses.
const SOURCES: &str = "10.66.0.0";
/// Until the flooded end is under load.
const BURSTS: Duration = Duration::from_secs(1);
/// Every initiation may fall victim to the flood, and there is one each five seconds.
const PATIENCE: Duration = Duration::from_mins(1);

#[test]
fn cookies_are_demanded_of_peers_and_given_to_them() {
    let programs = programs("cookies_are_demanded_of_peers_and_given_to_them", &Implementation::ALL);
    for program in &programs {
        // gotatun counts each source by itself: a flood from many is no load to it.
        let demands = program.implementation != Implementation::Gotatun;
        let flooded = [Side::A, Side::B].into_iter().take(1 + usize::from(demands));
        at_once(flooded, |flooded| under_flood(program, flooded));
    }
}

/// The other end wants a handshake with the flooded one.
fn under_flood(program: &Program, flooded: Side) {
    let other = if flooded == Side::A { Side::B } else { Side::A };
    let lab = Case { initiator: other, underlay: Family::V4, preshared_key: false }.lab();
    let cookies = Messages::watch(&lab, 3, " and src net 10.200.0.0/16");
    // Bytes 132 to 147 of an initiation are mac2, which is zero without a cookie.
    let with_cookie = Messages::watch(&lab, 1, " and udp[140:4] != 0 and src net 10.200.0.0/16");
    for site in lab.sites() {
        // Replies to the flood end here.
        site.gateway.ip(&format!("route add blackhole {SOURCES}/16")).unwrap();
    }
    // The initiator comes last: its first initiation is to meet the flood.
    let (near, far) = if flooded == Side::A { (&lab.b, &lab.a) } else { (&lab.a, &lab.b) };
    let (mut ends, _flood) = if flooded == Side::A {
        let mut forwarder = Ends::forwarder(&lab);
        let flood = flood(&lab, near, far);
        let refuses =
            || Ok(forwarder.counters()?.drops.get("cookie_required").is_some_and(|count| *count > 0));
        assert!(wait_until(PATIENCE, refuses).unwrap(), "the flood is no load");
        (Ends { forwarder, peers: vec![program.start(&lab.b, 0).unwrap()], lab }, flood)
    } else {
        let peers = vec![program.start(&lab.b, 0).unwrap()];
        let flood = flood(&lab, near, far);
        (Ends { forwarder: Ends::forwarder(&lab), peers, lab }, flood)
    };
    let name = program.implementation.name();
    let (near, far) = ends.from(other);
    let reached = traffic::wait_reachable(&near.host, far.host_address().into(), PATIENCE);
    let counts = (cookies.sent_by(flooded), with_cookie.sent_by(other));
    let state = ends.forwarder.counters().unwrap();
    assert!(reached.is_ok(), "{name}, {flooded:?} flooded: no handshake; {counts:?} {state:?}");
    assert!(counts.0 > 0, "{name}, {flooded:?} flooded: no cookie reply");
    assert!(counts.1 > 0, "{name}, {flooded:?} flooded: no initiation with a cookie");
}

/// A flood from the gateway of one site at that of the other, which should be under load when this returns.
fn flood(lab: &Lab, near: &Site, far: &Site) -> Daemon {
    let mac = far.gateway.run("cat /sys/class/net/wan0/address").unwrap();
    let port = address::listen_port(0);
    let mut command = std::process::Command::new(workspace::program("debug", "handshake-flood").unwrap());
    command.args(["wan0", mac.trim(), SOURCES, &format!("{}:{port}", far.endpoint(lab.options, 0))]);
    command.arg(far.public_key());
    let mut flood = near.gateway.spawn(&mut command, &lab.directory().join("flood.log")).unwrap();
    flood.wait_for("flooding", BURSTS * 10).unwrap();
    std::thread::sleep(BURSTS);
    flood
}

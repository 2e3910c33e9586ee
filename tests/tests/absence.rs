//! A gateway that may have been away begins anew with its peers. Needs root.
#![allow(clippy::unwrap_used)]

use nix::sys::signal::Signal;
use tests::lab::{PATIENCE, lab, start_ready};
use xtask::command::Run as _;
use xtask::lab::{Options, address, traffic};
use xtask::progress::wait_until;

/// More than the gateway's socket holds: the kernel allows twice 4 MiB, and counts some 800 bytes for each.
const UEVENTS: usize = 20_000;

/// A machine that is restored hears of it by a uevent, which no test can make; so many that some are lost may have been
/// that one.
#[test]
fn who_may_have_missed_the_news_begins_anew() {
    let Some(lab) = lab("who_may_have_missed_the_news_begins_anew", Options::default()).unwrap() else {
        return;
    };
    let mut gateways = lab.sites().map(|site| start_ready(&lab, site, &[]).unwrap());
    let target = address::lan4(lab.b.side, 10).into();
    traffic::wait_reachable(&lab.a.host, target, PATIENCE).unwrap();

    let handshakes = || lab.a.wg("show all latest-handshakes").unwrap();
    let before = handshakes();
    gateways[0].daemon.signal(Signal::SIGSTOP).unwrap();
    let script = format!("for i in $(seq {UEVENTS}); do echo change; done > /sys/class/net/lo/uevent");
    lab.a.gateway.command("sh").args(["-c", &script]).quietly().unwrap();
    gateways[0].daemon.signal(Signal::SIGCONT).unwrap();
    gateways[0].daemon.wait_for("uevents were lost", PATIENCE).unwrap();
    let renewed = wait_until(PATIENCE, || {
        let after = handshakes();
        Ok(before.lines().all(|peer| !after.contains(peer)))
    });
    assert!(renewed.unwrap(), "before:\n{before}after:\n{}", handshakes());
    traffic::wait_reachable(&lab.a.host, target, PATIENCE).unwrap();
}

//! A gateway under floods of WireGuard messages: bad mac1s reach no queue, cookies are demanded, and a new peer
//! gets its session and renews it all the same. What the tunnel keeps meanwhile is for
//! `cargo xtask bench flood`. Needs root and the debug builds of `forwarder` and `bench`.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::lab::{WITHOUT_AF_XDP, able};
use xtask::lab::attack::{Flood, Range};
use xtask::lab::gateway::Gateway;
use xtask::lab::{Lab, Options, Wire};
use xtask::workspace;

/// Packets a second: four times what a debug build answers on a fast machine, so that it comes under load.
const RATE: u64 = 100_000;
/// Messages that show that the flood came through, on a slow machine too.
const ENOUGH: u64 = 20_000;
/// As long as a new peer may take.
const SECONDS: u32 = 34;

#[test]
fn bad_mac1() {
    under("bad_mac1", Flood::BadMac1, &[]);
}

#[test]
fn good_mac1_without_cookie() {
    under("good_mac1_without_cookie", Flood::NoCookie, &[]);
}

#[test]
fn cookies_of_one_network() {
    under("cookies_of_one_network", Flood::Cookies, &[]);
}

#[test]
fn replayed_initiations() {
    under("replayed_initiations", Flood::Replay, &[]);
}

/// The thread that is then the whole datapath meets the flood.
#[test]
fn good_mac1_without_cookie_without_af_xdp() {
    under("good_mac1_without_cookie_without_af_xdp", Flood::NoCookie, WITHOUT_AF_XDP);
}

/// A message wakes the worker that nothing comes of.
#[test]
fn stray_data() {
    under("stray_data", Flood::StrayData, &[]);
}

#[test]
fn stray_data_without_af_xdp() {
    under("stray_data_without_af_xdp", Flood::StrayData, WITHOUT_AF_XDP);
}

fn under(test: &str, flood: Flood, arguments: &[&str]) {
    if able(test) {
        flooded(flood, arguments).unwrap();
    }
}

fn flooded(flood: Flood, arguments: &[&str]) -> Result<()> {
    let lab = Lab::build(Options { ports: 1, wire: Wire::Switch, ..Options::default() })?;
    lab.offload(false)?;
    let range = Range::prepare(&lab, &workspace::program("debug", "bench")?)?;
    let program = workspace::program("debug", "forwarder")?;
    let mut gateway = Gateway::start(&program, &lab.a, lab.options, 0, arguments)?;
    gateway.wait_ready(Duration::from_secs(15))?;

    let running = range.flood(flood, RATE, SECONDS)?;
    let newcomer = range.newcomer()?;
    let sent = running.finish()?;
    let counters = gateway.counters()?;
    let dropped = |reason: &str| counters.drops.get(reason).copied().unwrap_or(0);
    let told = format!("{newcomer:?}, {sent:?}, dropped {:?}", counters.drops);

    ensure!(newcomer.handshake_seconds.is_some(), "the new peer got no session: {told}");
    ensure!(newcomer.rekeyed, "its session was not renewed: {told}");
    ensure!(newcomer.answered * 2 > newcomer.pings, "its pings were lost: {told}");
    ensure!(newcomer.unopened == 0, "what the gateway sent cannot be opened: {told}");
    let lost = ["no_session", "session_expired", "unknown_index", "auth_failed", "replayed"];
    let stray = flood == Flood::StrayData;
    for reason in lost.into_iter().filter(|reason| !stray || *reason != "unknown_index") {
        ensure!(dropped(reason) == 0, "the rekey lost packets ({reason}): {told}");
    }
    match flood {
        Flood::BadMac1 => {
            ensure!(dropped("mac1_wrong") > ENOUGH, "the flood did not arrive: {told}");
            ensure!(sent.cookie_replies + sent.responses == 0, "noise was answered: {told}");
            ensure!(dropped("control_queue_full") == 0, "noise filled the queue: {told}");
        }
        Flood::NoCookie | Flood::Replay => {
            ensure!(dropped("cookie_required") > ENOUGH, "no cookie was demanded: {told}");
            ensure!(sent.cookie_replies > 0, "no cookie was sent: {told}");
            ensure!(sent.responses == 0, "a stranger or a replay got a response: {told}");
        }
        Flood::Cookies => {
            ensure!(sent.cookies == 256, "not every source got a cookie: {told}");
            ensure!(dropped("handshake_rate") > 0, "no source was limited: {told}");
            ensure!(sent.responses == 0, "a stranger got a response: {told}");
        }
        Flood::StrayData => {
            ensure!(dropped("unknown_index") > ENOUGH, "the flood did not arrive: {told}");
            ensure!(sent.cookie_replies + sent.responses == 0, "noise was answered: {told}");
        }
        Flood::Unowned => {}
    }
    let status = gateway.daemon.stop()?;
    ensure!(status.success(), "it ended with {status}: {}", gateway.daemon.output()?);
    Ok(())
}

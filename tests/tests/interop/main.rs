//! `forwarder` at site A, another implementation at site B. Needs root; the others are fetched.
//! The kernel's own WireGuard is met under User-mode Linux: `tests/uml/interop.sh`.
#![allow(clippy::unwrap_used)]

mod clock;
mod cookies;
mod ends;
mod lasting;
mod matrix;
mod wireguard_go;

use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use tests::lab::obstacle;
use xtask::lab::address::lan6;
use xtask::lab::peer::{Implementation, Program};
use xtask::lab::{Netns, Site, traffic};
use xtask::progress::Progress;
use xtask::test::not_run;

/// Against hanging, not a measure: a peer's silence is noticed after 15 s and answered within seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// The program, or why it cannot be met here.
fn install(implementation: Implementation) -> Result<Program, String> {
    if let Some(obstacle) = obstacle() {
        return Err(obstacle);
    }
    let installed = implementation.install(Progress::start());
    installed.map_err(|error| format!("{}: {error:#}", implementation.name()))
}

/// The program; without it the test is not run.
fn program(test: &str, implementation: Implementation) -> Option<Program> {
    install(implementation).map_err(|reason| not_run(test, &reason)).ok()
}

/// Those of `wanted` that can be had here; the test is not run as a whole unless all of them can.
fn programs(test: &str, wanted: &[Implementation]) -> Vec<Program> {
    let installed = wanted.iter().copied().map(install);
    let (there, missing): (Vec<_>, Vec<_>) = installed.partition(Result::is_ok);
    let missing: Vec<_> = missing.into_iter().filter_map(Result::err).collect();
    if !missing.is_empty() {
        not_run(test, &missing.join("; "));
    }
    there.into_iter().flatten().collect()
}

/// Runs all cases side by side.
fn at_once<C: Send>(cases: impl IntoIterator<Item = C>, run: impl Fn(C) + Sync) {
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| run(case));
        }
    });
}

/// Pings from LAN host to LAN host, over IPv4 and IPv6; the first ping may have to bring the tunnel up.
fn ping_when_reachable(from: &Site, to: &Site) {
    traffic::wait_reachable(&from.host, to.host_address().into(), PATIENCE).unwrap();
    ping(&from.host, to.host_address(), "");
    ping(&from.host, lan6(to.side, 10), "");
}

/// Every ping must be answered. `options` are ping's.
fn ping(from: &Netns, target: impl Into<IpAddr>, options: &str) {
    let target = target.into();
    let output = from.run(&format!("ping -q -n -c 5 -i 0.05 -W 2 {options} {target}"));
    let output = output.unwrap_or_else(|error| panic!("no answer: {error}"));
    assert!(output.contains(" 0% packet loss"), "from {}: {output}", from.name());
}

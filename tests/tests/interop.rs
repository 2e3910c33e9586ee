//! `forwarder` at site A, wireguard-go at site B. Needs root; wireguard-go is fetched.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use xtask::command::Run as _;
use xtask::lab::address::{self, lan4, lan6};
use xtask::lab::eavesdrop::Eavesdropper;
use xtask::lab::gateway::Gateway;
use xtask::lab::wireguard_go::{self, WireguardGo};
use xtask::lab::{Family, Lab, Netns, Options, Side, Site, traffic};
use xtask::progress::Progress;
use xtask::test::not_run;
use xtask::workspace;

/// Against hanging, not a measure: a peer's silence is noticed after 15 s and answered within seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// Five a second for 124 s, begun after the first handshake: `REKEY_AFTER_TIME` (120 s) falls among them.
const PINGS_OVER_A_REKEY: u32 = 620;

/// Both take their time, so they take it together.
#[test]
fn rekeys_lose_no_packet_and_restarts_are_survived() {
    let Some(program) = wireguard_go("rekeys_lose_no_packet_and_restarts_are_survived") else { return };
    let cases = [
        Case { initiator: Side::A, underlay: Family::V4, preshared_key: false },
        Case { initiator: Side::B, underlay: Family::V4, preshared_key: true },
        Case { initiator: Side::A, underlay: Family::V6, preshared_key: true },
        Case { initiator: Side::B, underlay: Family::V6, preshared_key: false },
    ];
    let program = &program;
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(move || over_a_rekey(program, case));
        }
        for initiator in [Side::A, Side::B] {
            scope.spawn(move || over_a_restart(program, initiator));
        }
    });
}

/// Section 2.1, against wireguard-go.
#[test]
fn a_peer_that_roams_is_followed() {
    let Some(program) = wireguard_go("a_peer_that_roams_is_followed") else { return };
    at_once([Family::V4, Family::V6], |underlay| {
        let ends = Ends::start(lab(1, underlay), &program);
        ping_when_reachable(&ends.lab.a, &ends.lab.b);
        let handshake = ends.latest_handshake();
        let interface = &ends.wireguard_go[0].interface;
        ends.lab.b.gateway.run(&format!("wg set {interface} listen-port 40000")).unwrap();
        // Its next data message comes from the new port, and nothing else tells of it.
        ping_when_reachable(&ends.lab.b, &ends.lab.a);
        ping(&ends.lab.a.host, lan4(Side::B, 10), "");
        assert_eq!(ends.latest_handshake(), handshake, "{underlay:?}: this was no roaming");
    });
}

#[test]
fn the_flows_of_a_group_use_all_its_tunnels() {
    let Some(program) = wireguard_go("the_flows_of_a_group_use_all_its_tunnels") else { return };
    let mut ends = Ends::start(lab(3, Family::V4), &program);
    let nexthops: Vec<String> =
        ends.wireguard_go.iter().map(|tunnel| format!("nexthop dev {}", tunnel.interface)).collect();
    let [near, _] = address::lan_prefixes(Side::A);
    let far = &ends.lab.b.gateway;
    far.ip(&format!("route replace {near} {}", nexthops.join(" "))).unwrap();
    far.sysctl("net.ipv4.fib_multipath_hash_policy", "1").unwrap();

    ping_when_reachable(&ends.lab.a, &ends.lab.b);
    let log = ends.lab.directory().join("iperf3.log");
    for (from, to) in [ends.from(Side::A), ends.from(Side::B)] {
        traffic::tcp(from, to, 24, 1, &log).unwrap();
    }
    for tunnel in ends.forwarder.counters().unwrap().tunnels {
        let carried = tunnel.tx_bytes.min(tunnel.rx_bytes);
        assert!(carried > 100_000, "{}: only handshakes and keepalives: {tunnel:?}", tunnel.name);
    }
}

#[test]
fn the_gateways_own_traffic_goes_through_the_tunnel() {
    let Some(program) = wireguard_go("the_gateways_own_traffic_goes_through_the_tunnel") else { return };
    let ends = Ends::start(lab(1, Family::V4), &program);
    let (near, far) = ends.from(Side::A);
    ping_when_reachable(near, far);
    ping(&near.gateway, lan4(Side::B, 10), "");
    ping(&near.gateway, lan4(Side::B, 1), "");
    ping(&near.gateway, address::tunnel(Side::B, 0), "");
    ping(&near.gateway, lan6(Side::B, 10), "");
    for namespace in [&far.host, &far.gateway] {
        ping(namespace, lan4(Side::A, 1), "");
        ping(namespace, address::tunnel(Side::A, 0), "");
        ping(namespace, lan6(Side::A, 1), "");
    }
    tcp(&near.gateway, (&far.host, lan4(Side::B, 10).into()), &ends.lab);
    tcp(&far.host, (&near.gateway, lan4(Side::A, 1).into()), &ends.lab);
}

#[test]
fn what_only_the_kernel_can_do_it_does() {
    let Some(program) = wireguard_go("what_only_the_kernel_can_do_it_does") else { return };
    let mut ends = Ends::start(lab(1, Family::V4), &program);
    ping_when_reachable(&ends.lab.a, &ends.lab.b);
    let directions = [ends.from(Side::A), ends.from(Side::B)];
    for (near, far) in directions {
        // IP options: record route.
        ping(&near.host, far.host_address(), "-R");
        // Fragments as large as the LAN takes: the kernel fragments them again for the tunnel.
        ping(&near.host, far.host_address(), "-s 4000");
    }
    for (near, far) in directions {
        assert_too_big(&near.host, "-s 1472", far.host_address());
        assert_too_big(&near.host, "-s 1452", lan6(far.side, 10));
    }
    // Now the hosts know the tunnel's MTU and make fragments that fit.
    for (near, far) in directions {
        ping(&near.host, far.host_address(), "-s 4000");
        ping(&near.host, lan6(far.side, 10), "-s 4000");
    }
    let verdicts = ends.forwarder.counters().unwrap().verdicts;
    assert!(verdicts.contains_key("pass_options") && verdicts.contains_key("pass_too_big"), "{verdicts:?}");
}

/// Kernel peers send with DF = 0, so their messages may come in fragments.
#[test]
fn messages_that_were_fragmented_on_the_underlay_arrive() {
    let Some(program) = wireguard_go("messages_that_were_fragmented_on_the_underlay_arrive") else { return };
    at_once([Family::V4, Family::V6], |underlay| {
        let mut ends = Ends::start(lab(1, underlay), &program);
        // The route's MTU, not the device's: that would refuse what comes in whole, too.
        let network = address::underlay(underlay, Side::A, 0);
        let far = &ends.lab.b.gateway;
        far.ip(&format!("route add {network} dev wan0 mtu 1280")).unwrap();
        ping_when_reachable(&ends.lab.a, &ends.lab.b);
        ping(&ends.lab.a.host, lan4(Side::B, 10), "-s 1300");
        ping(&ends.lab.b.host, lan4(Side::A, 10), "-s 1300");
        ping(&ends.lab.b.gateway, lan4(Side::A, 1), "-s 1300");
        tcp(&ends.lab.b.host, (&ends.lab.a.host, lan4(Side::A, 10).into()), &ends.lab);
        let verdicts = ends.forwarder.counters().unwrap().verdicts;
        assert!(verdicts.contains_key("pass_fragment"), "{underlay:?}: nothing was fragmented: {verdicts:?}");
    });
}

/// The initiator's LAN host pings the other one while the initiator renews the session.
fn over_a_rekey(program: &Path, case: Case) {
    let lab = lab(1, case.underlay);
    let preshared_key = Command::new("wg").arg("genpsk").text().unwrap();
    for site in lab.sites() {
        if site.side != case.initiator {
            without(site, "Endpoint");
        }
        if case.preshared_key {
            with_preshared_key(site, &preshared_key);
        }
    }
    let initiations = Initiations::watch(&lab);
    let ends = Ends::start(lab, program);
    let (near, far) = ends.from(case.initiator);
    ping_when_reachable(near, far);
    let first = ends.latest_handshake();
    tcp(&near.host, (&far.host, far.host_address().into()), &ends.lab);
    tcp(&far.host, (&near.host, near.host_address().into()), &ends.lab);

    let pings = traffic::ping(&near.host, far.host_address().into(), PINGS_OVER_A_REKEY).unwrap();
    assert_eq!(pings.received, pings.sent, "{case:?}: pings were lost");
    assert!(ends.latest_handshake() > first, "{case:?}: no new handshake");
    let (near, far) = initiations.finish(case.initiator);
    assert!(near >= 2 && far == 0, "{case:?}: {near} initiations of this end, {far} of the other");
}

/// wireguard-go is killed and started anew. Either the new one has something to say, or our end notices
/// that the old one says nothing.
fn over_a_restart(program: &Path, initiator: Side) {
    let lab = lab(1, Family::V4);
    if initiator == Side::A {
        without(&lab.b, "Endpoint");
    }
    let mut ends = Ends::start(lab, program);
    ping_when_reachable(&ends.lab.a, &ends.lab.b);
    for old in &mut ends.wireguard_go {
        old.daemon.end_with(Signal::SIGKILL).unwrap();
    }
    ends.wireguard_go = vec![WireguardGo::start(program, &ends.lab.b, 0).unwrap()];
    let (near, far) = ends.from(initiator);
    ping_when_reachable(near, far);
}

/// How a pair of gateways comes together.
#[derive(Clone, Copy, Debug)]
struct Case {
    initiator: Side,
    underlay: Family,
    preshared_key: bool,
}

/// Both gateways, running; they end before their lab does.
struct Ends {
    forwarder: Gateway,
    wireguard_go: Vec<WireguardGo>,
    lab: Lab,
}

impl Ends {
    fn start(lab: Lab, wireguard_go: &Path) -> Self {
        lab.offload(false).unwrap();
        let start = |index| WireguardGo::start(wireguard_go, &lab.b, index).unwrap();
        let wireguard_go = (0..lab.options.ports).map(start).collect();
        let program = workspace::program("debug", "forwarder").unwrap();
        let mut forwarder = Gateway::start(&program, &lab.a, lab.options, 0, &[]).unwrap();
        forwarder.wait_ready(PATIENCE).unwrap();
        Self { forwarder, wireguard_go, lab }
    }

    /// The site on that side, and the other one.
    fn from(&self, side: Side) -> (&Site, &Site) {
        match side {
            Side::A => (&self.lab.a, &self.lab.b),
            Side::B => (&self.lab.b, &self.lab.a),
        }
    }

    /// When wireguard-go finished a handshake last, in seconds.
    fn latest_handshake(&self) -> u64 {
        let interface = &self.wireguard_go[0].interface;
        let shown = self.lab.b.gateway.run(&format!("wg show {interface} latest-handshakes")).unwrap();
        shown.split_whitespace().next_back().unwrap().parse().unwrap()
    }
}

/// Handshake initiations on the wire, by the end that takes them in.
struct Initiations {
    at_a: Eavesdropper,
    at_b: Eavesdropper,
}

impl Initiations {
    fn watch(lab: &Lab) -> Self {
        let filter = match lab.options.underlay {
            Family::V4 => "udp[8:4] = 0x01000000",
            // pcap cannot look into UDP over IPv6 by name.
            Family::V6 => "ip6[6] = 17 and ip6[48:4] = 0x01000000",
        };
        let at = |site: &Site| {
            let mut eavesdropper = Eavesdropper::new(lab.directory());
            eavesdropper.watch(&site.gateway, "wan0", filter).unwrap();
            eavesdropper
        };
        Self { at_a: at(&lab.a), at_b: at(&lab.b) }
    }

    /// How many the end on that side has sent, and how many the other one.
    fn finish(self, side: Side) -> (usize, usize) {
        let (by_a, by_b) = (self.at_b.finish().unwrap().len(), self.at_a.finish().unwrap().len());
        if side == Side::A { (by_a, by_b) } else { (by_b, by_a) }
    }
}

/// The program; without it the test is not run.
fn wireguard_go(test: &str) -> Option<PathBuf> {
    let fetched = wireguard_go::fetch(Progress::start());
    fetched.map_err(|error| not_run(test, &format!("{error:#}"))).ok()
}

/// Runs all cases side by side.
fn at_once<C: Send>(cases: impl IntoIterator<Item = C>, run: impl Fn(C) + Sync) {
    thread::scope(|scope| {
        for case in cases {
            scope.spawn(|| run(case));
        }
    });
}

/// Two sites with that many tunnels, which only packets wake.
fn lab(ports: u8, underlay: Family) -> Lab {
    let lab = Lab::build(Options { ports, underlay, ..Options::default() }).unwrap();
    for site in lab.sites() {
        without(site, "PersistentKeepalive");
    }
    lab
}

fn without(site: &Site, key: &str) {
    rewrite(site, |lines| lines.retain(|line| !line.starts_with(key)));
}

fn with_preshared_key(site: &Site, preshared_key: &str) {
    rewrite(site, |lines| lines.push(format!("PresharedKey = {preshared_key}")));
}

/// Changes the site's wg-quick files; their last section is the peer's.
fn rewrite(site: &Site, change: impl Fn(&mut Vec<String>)) {
    for file in fs::read_dir(&site.tunnels).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(path, lines.join("\n") + "\n").unwrap();
    }
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

/// A packet that may not be fragmented and is larger than the tunnel's MTU is answered with that MTU.
fn assert_too_big(from: &Netns, size: &str, target: impl Into<IpAddr>) {
    let mut ping = from.command("ping");
    ping.args("-n -c 2 -W 1 -M do".split(' ')).args(size.split(' ')).arg(target.into().to_string());
    let output = String::from_utf8(ping.output().unwrap().stdout).unwrap();
    assert!(output.contains("mtu = 1420") || output.contains("mtu=1420"), "{output}");
}

/// TCP for a second.
fn tcp(from: &Netns, to: (&Netns, IpAddr), lab: &Lab) {
    let run = traffic::tcp_between(from, to, 2, 1, &lab.directory().join("iperf3.log")).unwrap();
    let mbps = run.mbps;
    println!("{} to {}: {mbps:.0} Mbit/s, {} retransmits", from.name(), to.1, run.tcp.retransmits);
    assert!(mbps > 0.0);
}

//! However `forwarder run` ends, the machine is as it was found: interfaces, addresses, routes, rules,
//! neighbours, programs, NIC settings. With `guard = "keep"` its fail-closed routes stay, and nothing else.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::datagrams::Datagrams;
use tests::lab::{PATIENCE, WITHOUT_AF_XDP, down, keep_guard, lab, start_ready};
use xtask::lab::traffic::wait_reachable;
use xtask::lab::{Options, Side, Site};
use xtask::progress::wait_until;
use xtask::workspace;

const OPTIONS: Options = Options {
    ports: 2,
    queues: 1,
    underlay: xtask::lab::Family::V4,
    wire: xtask::lab::Wire::Direct,
    bond: false,
};
const OURS: &str = "proto 151";

#[test]
fn every_end_under_traffic_leaves_the_machine_as_it_was_found() {
    every_end("every_end_under_traffic_leaves_the_machine_as_it_was_found", &[], "prog/xdp");
}

#[test]
fn every_end_without_af_xdp_leaves_the_machine_as_it_was_found() {
    let test = "every_end_without_af_xdp_leaves_the_machine_as_it_was_found";
    every_end(test, WITHOUT_AF_XDP, "forwarder0");
}

/// `left` is a part of what an end without care would leave behind.
fn every_end(test: &str, arguments: &[&str], left: &str) {
    let Some(lab) = lab(test, OPTIONS).unwrap() else { return };
    let _b = start_ready(&lab, &lab.b, &[]).unwrap();
    let before = state(&lab.a);
    for end in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT] {
        let mut a = start_ready(&lab, &lab.a, arguments).unwrap();
        a.wait_tunnels(PATIENCE).unwrap();
        wait_reachable(&lab.a.host, lab.b.host_address().into(), PATIENCE).unwrap();
        let datagrams = Datagrams::start(&lab.a, Side::B, 9000).unwrap();
        datagrams.more(500).unwrap();
        assert!(state(&lab.a).iter().any(|line| line.contains(left)), "nothing to be cleaned up");

        let status = a.daemon.end_with(end).unwrap();
        assert_eq!(status.success(), end != Signal::SIGKILL, "{end}: {status}");
        assert_becomes(&lab.a, &before, &format!("after {end}"));
        datagrams.finish().unwrap();
    }
}

#[test]
fn a_failed_start_leaves_the_machine_as_it_was_found() {
    let Some(lab) = lab("a_failed_start_leaves_the_machine_as_it_was_found", OPTIONS).unwrap() else {
        return;
    };
    // Somebody else's route, which the kernel does not let us double: noticed only when the TUN is there.
    lab.a.gateway.ip("route add 192.168.2.0/24 via 10.200.0.2").unwrap();
    let before = state(&lab.a);
    let mut run = lab.a.gateway.command(workspace::program("debug", "forwarder").unwrap());
    run.args(["run", "--iface", "wan0", "--iface", "wan1", "--iface", "lan0", "--config"])
        .arg(&lab.a.tunnels);
    let output = run.output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("192.168.2.0/24"), "the cause is not named: {stderr}");
    assert_becomes(&lab.a, &before, "after a failed start");
}

/// As with a log daemon that starts anew, or `| head`.
#[test]
fn a_reader_that_goes_away_does_not_end_it() {
    let Some(lab) = lab("a_reader_that_goes_away_does_not_end_it", OPTIONS).unwrap() else { return };
    let mut b = start_ready(&lab, &lab.b, &[]).unwrap();
    let mut run = lab.a.gateway.command(workspace::program("debug", "forwarder").unwrap());
    run.args(["run", "--iface", "wan0", "--iface", "wan1", "--iface", "lan0", "--config"])
        .arg(&lab.a.tunnels);
    let mut a = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(a.stderr.take().unwrap());
    assert!(log.lines().map_while(Result::ok).any(|line| line.contains(" ready")), "it does not start");
    drop(a.stdout.take());

    let pid = Pid::from_raw(a.id().cast_signed());
    for asked in [Signal::SIGUSR1, Signal::SIGHUP] {
        kill(pid, asked).unwrap();
    }
    b.wait_tunnels(PATIENCE).unwrap();
    wait_reachable(&lab.a.host, lab.b.host_address().into(), PATIENCE).unwrap();
    kill(pid, Signal::SIGTERM).unwrap();
    let status = a.wait().unwrap();
    assert!(status.success(), "{status}");
}

#[test]
fn a_kept_guard_is_all_that_stays_until_down() {
    let Some(lab) = lab("a_kept_guard_is_all_that_stays_until_down", OPTIONS).unwrap() else { return };
    let before = state(&lab.a);
    let settings = keep_guard(&lab).unwrap();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    for end in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut a = start_ready(&lab, &lab.a, &settings).unwrap();
        let guards = guards(&lab.a);
        assert_eq!(guards.len(), 4, "two LAN prefixes and two tunnel addresses: {guards:?}");
        a.daemon.end_with(end).unwrap();
        assert_becomes(&lab.a, &before.union(&guards).cloned().collect(), &format!("after {end}"));
        assert_eq!(down(&lab.a).unwrap().trim(), "4 routes and 0 rules removed");
        assert_becomes(&lab.a, &before, "after `down`");
    }
}

/// A rule that stays for another mark would lead our own encrypted packets into the TUN.
#[test]
fn rules_of_a_kept_guard_that_are_no_longer_wanted_go_with_the_next_start() {
    let name = "rules_of_a_kept_guard_that_are_no_longer_wanted_go_with_the_next_start";
    let Some(lab) = lab(name, OPTIONS).unwrap() else { return };
    let before = state(&lab.a);
    let settings = keep_guard(&lab).unwrap();
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let file = lab.a.tunnels.join("wg0.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    let default = |mark| {
        let lines = text.lines().map(|line| match line.split(' ').next() {
            Some("ListenPort") => format!("{line}\nFwMark = {mark}\n"),
            Some("AllowedIPs") => "AllowedIPs = 0.0.0.0/0, ::/0\n".to_owned(),
            _ => format!("{line}\n"),
        });
        lines.collect::<String>()
    };
    let rules = |family| {
        let all = lab.a.gateway.ip(&format!("{family} rule show")).unwrap();
        all.lines().filter(|line| line.contains(OURS)).collect::<Vec<_>>().join("\n")
    };
    for (text, mark) in [(default(7), Some("0x7")), (default(8), Some("0x8")), (text.clone(), None)] {
        std::fs::write(&file, text).unwrap();
        let mut a = start_ready(&lab, &lab.a, &settings).unwrap();
        for family in ["-4", "-6"] {
            let rules = rules(family);
            assert_eq!(rules.matches("not from all fwmark").count(), usize::from(mark.is_some()), "{rules}");
            assert_eq!(rules.lines().count(), mark.map_or(0, |_| 2), "{rules}");
            assert!(mark.is_none_or(|mark| rules.contains(&format!("fwmark {mark} "))), "{rules}");
        }
        if let Some(mark) = mark {
            // To the far gateway leads the link's own route, which is looked at before.
            let way = lab.a.gateway.ip(&format!("route get 198.51.100.1 mark {mark}")).unwrap();
            assert!(!way.contains("forwarder0"), "our own packets go into the TUN: {way}");
        }
        a.daemon.end_with(Signal::SIGKILL).unwrap();
    }
    down(&lab.a).unwrap();
    assert_becomes(&lab.a, &before, "after `down`");
}

/// Lines that tools print.
type State = BTreeSet<String>;

/// The fail-closed routes.
fn guards(site: &Site) -> State {
    ["-4", "-6"]
        .into_iter()
        .flat_map(|family| routes(site, family, &format!("type unreachable {OURS}")))
        .collect()
}

fn routes(site: &Site, family: &str, filter: &str) -> Vec<String> {
    let text = site.gateway.ip(&format!("{family} route show table all {filter}")).unwrap();
    // With a filter by protocol `ip` does not repeat it.
    text.lines()
        .map(|line| {
            format!("{family} {}", line.replace(OURS, "").split_whitespace().collect::<Vec<_>>().join(" "))
        })
        .collect()
}

/// What is to be as it was found. Neighbours that ARP found come and go with the traffic: only those count
/// that somebody set.
fn state(site: &Site) -> State {
    let ip = |arguments: &str| site.gateway.ip(arguments).unwrap();
    let shown = [
        "-d -o link show",
        "-o addr show",
        "-4 rule show",
        "-6 rule show",
        "neigh show nud permanent",
        "neigh show proxy",
    ];
    let mut lines: Vec<String> =
        shown.iter().flat_map(|what| ip(what).lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    for port in site.ports(OPTIONS) {
        let settings = site.gateway.run(&format!("ethtool -k {port}")).unwrap();
        lines.extend(settings.lines().map(|line| format!("{port} {line}")));
    }
    lines.extend(["-4", "-6"].into_iter().flat_map(|family| routes(site, family, "")));
    // Lifetimes of addresses count down.
    lines
        .iter()
        .map(|line| line.split("valid_lft").next().unwrap_or_default().trim_end().to_owned())
        .collect()
}

/// The kernel takes devices down in the background, and the janitor comes after the process.
fn assert_becomes(site: &Site, wanted: &State, when: &str) {
    let same = wait_until(PATIENCE, || Ok(state(site) == *wanted && processes(site).is_empty())).unwrap();
    let found = state(site);
    let (more, less): (Vec<_>, Vec<_>) =
        (found.difference(wanted).collect(), wanted.difference(&found).collect());
    assert!(same, "{when}: too much: {more:#?}, too little: {less:#?}, processes: {:?}", processes(site));
}

/// Processes of forwarder's in the namespace.
fn processes(site: &Site) -> Vec<String> {
    let pids = Command::new("ip").args(["netns", "pids", site.gateway.name()]).output().unwrap();
    let pids = String::from_utf8_lossy(&pids.stdout).into_owned();
    let names =
        pids.split_whitespace().filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).ok());
    names.filter(|name| name.starts_with("forwarder")).collect()
}

//! `forwarder check` in network namespaces: what it says, that `run` refuses in the same words, and that
//! nothing is changed. Needs root and a debug build of `forwarder`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Output;
use std::thread;
use std::time::Duration;

use forwarder::id::InterfaceId;
use forwarder::kernel::Link;
use forwarder::tun::Tun;
use forwarder::xdp::Program;
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use tests::lab::{PATIENCE, run_inside, start_ready};
use xtask::lab::{Lab, Netns, Options};
use xtask::progress::wait_until;
use xtask::workspace::program;

const OPTIONS: Options = Options {
    ports: 2,
    queues: 1,
    underlay: xtask::lab::Family::V4,
    wire: xtask::lab::Wire::Direct,
    bond: false,
};
/// `setpriv` takes every capability away at the next exec, even from root.
const WITHOUT_CAPABILITIES: &str = "setpriv --bounding-set -all --inh-caps -all";

#[test]
fn a_good_configuration_is_planned() {
    let Some(lab) = lab("a_good_configuration_is_planned") else { return };
    let output = forwarder(&lab, "", "check");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for row in ["capabilities ok", "configuration ok tunnels: wg0, wg1", "xdp ok", "udp ok", "forwarding ok"]
    {
        assert!(rows(&text).any(|line| line.starts_with(row)), "{row}: {text}");
    }
    assert!(rows(&text).any(|line| line.starts_with("keys warn wg1: has the private key of wg0")), "{text}");
    assert!(rows(&text).any(|line| line == "wan1 - 1 copy 2048"), "the topology follows: {text}");

    let report = report(&lab, "");
    assert_eq!(report["ok"], true, "{report}");
    assert_eq!(report["topology"]["ports"].as_array().unwrap().len(), 3, "{report}");
}

#[test]
fn nothing_is_changed() {
    let Some(lab) = lab("nothing_is_changed") else { return };
    let before = settled(&lab.a.gateway);
    forwarder(&lab, "", "check");
    forwarder(&lab, "", "check --json");
    assert_eq!(before, state(&lab.a.gateway));
    refused(&lab, "", &["--iface nothing"], &["nothing: no such device"]);
    assert_eq!(before, state(&lab.a.gateway), "after a refusal");
}

#[test]
fn rules_and_switches_that_surprise_are_warnings() {
    let Some(lab) = lab("rules_and_switches_that_surprise_are_warnings") else { return };
    let gateway = &lab.a.gateway;
    gateway.sysctl("net.ipv4.ip_forward", "0").unwrap();
    gateway.run("nft add table ip filter").unwrap();
    gateway
        .run("nft add chain ip filter guarded { type filter hook forward priority 0 ; policy drop ; }")
        .unwrap();
    let report = report(&lab, "");
    assert_eq!(report["ok"], true, "{report}");
    let warned = |parts: &[&str]| {
        let details = details(&report, "warn");
        assert!(details.iter().any(|d| parts.iter().all(|p| d.contains(p))), "{parts:?}: {details:#?}");
    };
    warned(&["net.ipv4.ip_forward is off", "sysctl -w net.ipv4.ip_forward=1"]);
    warned(&["nftables table ip filter chain guarded (hook forward)", "bypass"]);
}

#[test]
fn what_could_not_be_looked_at_is_said() {
    let Some(lab) = lab("what_could_not_be_looked_at_is_said") else { return };
    let report = report(&lab, "env PATH=/nowhere");
    assert_eq!(report["ok"], true, "{report}");
    for part in ["nftables rules could not be looked at: nft is not installed", "wan0: offloads could not be"]
    {
        assert!(details(&report, "warn").iter().any(|detail| detail.contains(part)), "{part}: {report}");
    }
}

#[test]
fn a_missing_device_is_named() {
    let Some(lab) = lab("a_missing_device_is_named") else { return };
    refused(&lab, "", &["--iface wan7"], &["wan7: no such device", "`ip link`"]);
}

#[test]
fn another_program_on_a_port_is_named_with_the_way_to_remove_it() {
    let Some(lab) = lab("another_program_on_a_port_is_named_with_the_way_to_remove_it") else { return };
    let attached = run_inside(&lab.a.gateway, || {
        let mut program = Program::load("wan1")?;
        program.attach(&link("wan1"), true)?;
        Ok(program)
    });
    let _program = attached.unwrap();
    let parts = ["wan1: another XDP program is attached", "steer", "ip link set dev wan1 xdpgeneric off"];
    refused(&lab, "", &[], &parts);
}

#[test]
fn all_ports_that_are_taken_are_named() {
    let Some(lab) = lab("all_ports_that_are_taken_are_named") else { return };
    let bind = |port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
    let _sockets = run_inside(&lab.a.gateway, move || Ok([bind(51820)?, bind(51821)?])).unwrap();
    for (file, port) in [("wg0.conf", 51820), ("wg1.conf", 51821)] {
        let (port, find) = (format!("UDP port {port} is in use"), format!("ss -lunp sport = :{port}"));
        refused(&lab, "", &[], &[file, &port, &find]);
    }
}

#[test]
fn a_device_with_the_name_of_the_tun_is_named() {
    let Some(lab) = lab("a_device_with_the_name_of_the_tun_is_named") else { return };
    let _tun = run_inside(&lab.a.gateway, || Ok(Tun::create("forwarder0")?)).unwrap();
    refused(&lab, "", &[], &["the TUN device forwarder0", "the name is taken"]);
}

#[test]
fn lines_that_cannot_be_read_are_named() {
    let Some(lab) = lab("lines_that_cannot_be_read_are_named") else { return };
    change(&lab.a.tunnels.join("wg0.conf"), "PersistentKeepalive = 10", "PersistentKeepalive = often");
    change(&lab.a.tunnels.join("wg1.conf"), "ListenPort", "ListnPort");
    refused(&lab, "", &[], &["wg0.conf:10: ", "often", "write "]);
    refused(&lab, "", &[], &["wg1.conf:3: ", "ListnPort", "correct or delete the line"]);
}

#[test]
fn an_endpoint_behind_its_own_tunnel_is_named_with_a_route_that_helps() {
    let Some(lab) = lab("an_endpoint_behind_its_own_tunnel_is_named_with_a_route_that_helps") else { return };
    // More specific than the route of wan0's own network.
    change(&lab.a.tunnels.join("wg0.conf"), "AllowedIPs = ", "AllowedIPs = 10.200.0.0/25, ");
    let route = "ip route add 10.200.0.2/32 dev wan0";
    refused(&lab, "", &[], &["wg0: the endpoint 10.200.0.2:51820", "AllowedIPs 10.200.0.0/25", route]);
    lab.a.gateway.run(route).unwrap();
    assert!(forwarder(&lab, "", "check").status.success());
}

#[test]
fn another_forwarder_is_named_and_nothing_else() {
    let Some(lab) = lab("another_forwarder_is_named_and_nothing_else") else { return };
    let mut gateway = start_ready(&lab, &lab.a, &[]).unwrap();
    let pid = format!("another forwarder (pid {}) runs in this network namespace", gateway.daemon.pid());
    refused(&lab, "", &[], &[&pid, "stop it first"]);
    assert_eq!(details(&report(&lab, ""), "fail").len(), 1);
    gateway.daemon.stop().unwrap();
    assert!(forwarder(&lab, "", "check").status.success(), "it left nothing behind");
}

#[test]
fn missing_capabilities_are_named() {
    let Some(lab) = lab("missing_capabilities_are_named") else { return };
    refused(&lab, WITHOUT_CAPABILITIES, &[], &["lacks CAP_NET_ADMIN", "CAP_BPF", "run as root"]);
    let without_bpf = "setpriv --bounding-set -bpf,-perfmon,-sys_admin";
    refused(&lab, without_bpf, &[], &["lacks CAP_BPF, CAP_PERFMON: "]);
}

#[test]
fn locked_memory_is_limited_without_its_capability() {
    let Some(lab) = lab("locked_memory_is_limited_without_its_capability") else { return };
    let limited = "prlimit --memlock=1000000 setpriv --bounding-set -ipc_lock";
    refused(&lab, limited, &[], &["bytes of packet memory", "CAP_IPC_LOCK", "ulimit -l"]);
}

#[test]
fn wrong_usage_is_told_apart() {
    let Some(lab) = lab("wrong_usage_is_told_apart") else { return };
    let binary = program("debug", "forwarder").unwrap();
    assert_eq!(lab.a.gateway.command(binary).arg("check").output().unwrap().status.code(), Some(2));
}

/// `check` and `run` both exit with 1, in the same words, one line for each failure; one of the lines has all
/// `parts`.
fn refused(lab: &Lab, wrapper: &str, arguments: &[&str], parts: &[&str]) {
    let arguments = arguments.join(" ");
    let check = forwarder(lab, wrapper, &format!("check {arguments}"));
    assert_eq!(check.status.code(), Some(1), "{check:?}");
    let text = String::from_utf8(check.stdout).unwrap();
    let names = |line: &String| line.contains(" FAIL ") && parts.iter().all(|part| line.contains(part));
    assert!(rows(&text).any(|line| names(&line)), "{parts:?}: {text}");

    let run = forwarder(lab, wrapper, &format!("run {arguments}"));
    assert_eq!(run.status.code(), Some(1), "{run:?}");
    let refusal = String::from_utf8(run.stderr).unwrap();
    let lines: Vec<_> = refusal.lines().map(|line| line.strip_prefix("forwarder: ").unwrap()).collect();
    let report: Value =
        serde_json::from_slice(&forwarder(lab, wrapper, &format!("check --json {arguments}")).stdout)
            .unwrap();
    assert_eq!(lines, details(&report, "fail"));
}

/// What `check --json` prints.
fn report(lab: &Lab, wrapper: &str) -> Value {
    serde_json::from_slice(&forwarder(lab, wrapper, "check --json").stdout).unwrap()
}

/// Details of the rows with this verdict.
fn details<'a>(report: &'a Value, verdict: &str) -> Vec<&'a str> {
    let rows = report["checks"].as_array().unwrap().iter().filter(|row| row["verdict"] == verdict);
    rows.map(|row| row["detail"].as_str().unwrap()).collect()
}

/// The lines of a table, with single spaces.
fn rows(text: &str) -> impl Iterator<Item = String> {
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Runs it at site A, for all ports and tunnels there, below the command line `wrapper`.
fn forwarder(lab: &Lab, wrapper: &str, arguments: &str) -> Output {
    // A `run` that wrongly starts must not hang the test.
    let mut command = lab.a.gateway.command("timeout");
    command.arg("60").args(wrapper.split_whitespace()).arg(program("debug", "forwarder").unwrap());
    command.args(arguments.split_whitespace()).arg("--config").arg(&lab.a.tunnels);
    for interface in lab.a.interfaces(OPTIONS) {
        command.args(["--iface", &interface]);
    }
    command.output().unwrap()
}

/// A lab whose files have a mode that `check` does not warn about.
fn lab(test: &str) -> Option<Lab> {
    let lab = tests::lab::lab(test, OPTIONS).unwrap()?;
    for file in fs::read_dir(&lab.a.tunnels).unwrap() {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(file.unwrap().path(), mode).unwrap();
    }
    Some(lab)
}

/// Replaces text in a file.
fn change(file: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(file, text.replace(from, to)).unwrap();
}

/// A device of the namespace that the thread is in, as far as attaching needs it.
fn link(name: &str) -> Link {
    Link {
        name: name.into(),
        mtu: 1500,
        up: true,
        carrier: true,
        ..Link::new(InterfaceId(if_nametoindex(name).unwrap()))
    }
}

/// The namespace as `ip` shows it.
fn state(namespace: &Netns) -> Vec<String> {
    let families = ["-4", "-6"]
        .iter()
        .flat_map(|family| ["rule", "route show table all"].map(|object| format!("{family} -j {object}")));
    let all = families.chain(["-d -j link".into(), "-j addr".into()]);
    all.map(|arguments| namespace.ip(&arguments).unwrap()).collect()
}

/// The state, once the new devices' carriers have been noticed everywhere.
fn settled(namespace: &Netns) -> Vec<String> {
    let mut last = Vec::new();
    let settled = wait_until(PATIENCE, || {
        let before = std::mem::replace(&mut last, state(namespace));
        thread::sleep(Duration::from_secs(2));
        Ok(before == last)
    });
    assert!(settled.unwrap(), "it still changes after {PATIENCE:?}: {last:#?}");
    last
}

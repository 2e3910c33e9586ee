//! `--keylog`: tshark reads what the gateway has sent and received, and finds nothing wrong with it. Needs root,
//! and `forwarder-keylog`: `forwarder` built with the feature.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::lab::{PATIENCE, lab, start_ready};
use xtask::command::{Run as _, exists};
use xtask::lab::address::lan6;
use xtask::lab::gateway::Gateway;
use xtask::lab::{Daemon, Lab, Options, Side, Wire};
use xtask::test::not_run;
use xtask::workspace;

/// A bit more than the minute between two warnings.
const MINUTE: Duration = Duration::from_secs(62);

#[test]
fn tshark_reads_handshakes_and_packets() {
    let test = "tshark_reads_handshakes_and_packets";
    if !exists("tshark") {
        return not_run(test, "tshark is missing");
    }
    let Some(lab) = lab(test, Options { ports: 1, wire: Wire::Switch, ..Options::default() }).unwrap() else {
        return;
    };
    with_preshared_key(&lab);
    let keylog = lab.directory().join("keys");
    let (capture, mut tcpdump) = capture(&lab);
    let _b = start_ready(&lab, &lab.b, &[]).unwrap();
    let mut a = start(&lab, &keylog);
    a.wait_tunnels(PATIENCE).unwrap();
    let near = &lab.a.host;
    for size in ["-s 0", "-s 56", "-s 1392"] {
        near.run(&format!("ping -q -c 5 -i 0.05 {size} {}", lab.b.host_address())).unwrap();
    }
    near.run(&format!("ping -q -c 5 -i 0.05 -s 1372 {}", lan6(Side::B, 10))).unwrap();
    assert_eq!(fs::metadata(&keylog).unwrap().permissions().mode() & 0o777, 0o600);
    sleep(MINUTE);
    let warnings = a.daemon.output().unwrap().matches("can read all traffic").count();
    assert!(warnings == 2 || warnings == 3, "{warnings} warnings in a minute");
    a.daemon.stop().unwrap();
    tcpdump.end_with(Signal::SIGINT).unwrap();

    let packets = tshark(&capture, Some(&keylog));
    let count = |wanted: fn(&Packet) -> bool| packets.iter().filter(|packet| wanted(packet)).count();
    let (initiations, responses) = (count(|p| p.kind == "1"), count(|p| p.kind == "2"));
    assert!(initiations > 0 && responses > 0, "{initiations} initiations, {responses} responses");
    // The identity of the initiator is sealed in its initiation; a response is sealed with all keys.
    assert_eq!(count(|p| p.kind == "1" && !p.initiator.is_empty()), initiations);
    assert_eq!(count(|p| p.kind == "2" && p.handshake_ok == "1"), responses);
    assert_eq!(count(|p| p.kind == "4" && p.icmp == "8"), 15);
    assert_eq!(count(|p| p.kind == "4" && p.icmp == "0"), 15);
    assert_eq!(count(|p| p.kind == "4" && p.icmpv6 == "128"), 5);
    assert_eq!(count(|p| p.kind == "4" && p.icmpv6 == "129"), 5);
    let unread =
        |p: &Packet| p.kind == "4" && [&p.icmp, &p.icmpv6, &p.keepalive].iter().all(|f| f.is_empty());
    assert_eq!(count(unread), 0, "something is unread");
    let wrong: Vec<_> =
        packets.iter().filter(|p| !p.malformed.is_empty() || p.expert.contains(ERROR)).collect();
    assert!(wrong.is_empty(), "{wrong:?}");

    // Without the keys there is nothing to be read.
    let read = |p: &&Packet| !p.initiator.is_empty() || p.handshake_ok == "1" || !p.icmp.is_empty();
    assert_eq!(tshark(&capture, None).iter().filter(read).count(), 0);
}

#[test]
fn an_old_file_is_not_written_to() {
    let test = "an_old_file_is_not_written_to";
    let Some(lab) = lab(test, Options { ports: 1, ..Options::default() }).unwrap() else { return };
    let keylog = lab.directory().join("keys");
    fs::write(&keylog, "precious").unwrap();
    let mut gateway = start(&lab, &keylog);
    let error = gateway.wait_ready(PATIENCE).unwrap_err().to_string();
    assert!(error.contains("the file must be a new one"), "{error}");
    assert_eq!(fs::read_to_string(&keylog).unwrap(), "precious");
}

fn with_preshared_key(lab: &Lab) {
    let key = Command::new("wg").arg("genpsk").text().unwrap();
    for site in lab.sites() {
        let file = site.tunnels.join("wg0.conf");
        fs::write(&file, fs::read_to_string(&file).unwrap() + &format!("PresharedKey = {key}\n")).unwrap();
    }
}

/// Site A's gateway with the feature; it is not ready yet.
fn start(lab: &Lab, keylog: &Path) -> Gateway {
    let program = workspace::program("debug", "forwarder-keylog").unwrap();
    let keylog = keylog.to_str().unwrap();
    Gateway::start(&program, &lab.a, lab.options, 0, &["--keylog", keylog]).unwrap()
}

/// Captures what A sends and receives on the wire.
fn capture(lab: &Lab) -> (PathBuf, Daemon) {
    let file = lab.directory().join("wire.pcap");
    let mut tcpdump = Command::new("tcpdump");
    tcpdump.args(["-i", "a0", "-U", "--immediate-mode", "-Z", "root", "-w"]).arg(&file).arg("udp");
    let switch = lab.switch.as_ref().unwrap();
    let mut daemon = switch.spawn(&mut tcpdump, &lab.directory().join("tcpdump.log")).unwrap();
    daemon.wait_for("listening on", PATIENCE).unwrap();
    (file, daemon)
}

/// What tshark sees in a packet: the fields' values as text, empty where it has none.
#[derive(Debug)]
struct Packet {
    kind: String,
    initiator: String,
    handshake_ok: String,
    icmp: String,
    icmpv6: String,
    keepalive: String,
    malformed: String,
    expert: String,
}

/// Wireshark's `PI_ERROR`.
const ERROR: &str = "8388608";

const FIELDS: [&str; 8] = [
    "wg.type",
    "wg.static",
    "wg.handshake_ok",
    "icmp.type",
    "icmpv6.type",
    "wg.keepalive",
    "_ws.malformed",
    "_ws.expert.severity",
];

fn tshark(capture: &Path, keylog: Option<&Path>) -> Vec<Packet> {
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-r"]).arg(capture).args(["-T", "fields"]);
    for field in FIELDS {
        tshark.args(["-e", field]);
    }
    if let Some(keylog) = keylog {
        tshark.args(["-o", &format!("wg.keylog_file:{}", keylog.display())]);
    }
    let packet = |line: &str| {
        let fields: Vec<_> = line.split('\t').map(str::to_owned).collect();
        let fields: [String; FIELDS.len()] = fields.try_into().expect("all the fields that were asked for");
        let [kind, initiator, handshake_ok, icmp, icmpv6, keepalive, malformed, expert] = fields;
        Packet { kind, initiator, handshake_ok, icmp, icmpv6, keepalive, malformed, expert }
    };
    tshark.text().unwrap().lines().map(packet).collect()
}

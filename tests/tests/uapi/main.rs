//! `wg`, the kernel's own tool, on a running `forwarder`. Needs root.
//!
//! What it shows and changes is compared with another WireGuard by `tests/uml/uapi.sh`: the kernel's under
//! User-mode Linux, wireguard-go here. The other tests are about what becomes of the packets meanwhile.
#![allow(clippy::unwrap_used)]

mod flows;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use tests::lab::{PATIENCE, able, lab, start_ready};
use xtask::command::Run as _;
use xtask::lab::address::{self, lan_prefixes, lan4};
use xtask::lab::gateway::Gateway;
use xtask::lab::traffic::wait_reachable;
use xtask::lab::wireguard_go;
use xtask::lab::{Lab, Options, Side, Site};
use xtask::progress::{Progress, wait_until};
use xtask::test::not_run;
use xtask::workspace;

use flows::{FLOWS, Flows};

/// Both gateways, running and with sessions.
struct Ends {
    a: Gateway,
    _b: Gateway,
    lab: Lab,
}

impl Ends {
    fn start(test: &str, ports: u8) -> Option<Self> {
        let lab = lab(test, Options { ports, ..Options::default() }).unwrap()?;
        let mut a = start_ready(&lab, &lab.a, &[]).unwrap();
        let mut b = start_ready(&lab, &lab.b, &[]).unwrap();
        a.wait_tunnels(PATIENCE).unwrap();
        b.wait_tunnels(PATIENCE).unwrap();
        wait_reachable(&lab.a.host, lan4(Side::B, 10).into(), PATIENCE).unwrap();
        Some(Self { a, _b: b, lab })
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.lab.directory().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

/// A line of `wg show INTERFACE dump` about a peer.
#[derive(Debug)]
struct Peer {
    preshared_key: String,
    endpoint: String,
    allowed_ips: String,
    latest_handshake: u64,
    transfer: [u64; 2],
    keepalive: String,
}

fn peer(site: &Site, interface: &str, key: &str) -> Option<Peer> {
    let dump = site.wg(&format!("show {interface} dump")).unwrap();
    let line = dump.lines().find(|line| line.starts_with(key))?;
    let fields: Vec<_> = line.split('\t').map(str::to_owned).collect();
    let [_, preshared_key, endpoint, allowed_ips, handshake, rx, tx, keepalive] = fields.try_into().unwrap();
    Some(Peer {
        preshared_key,
        endpoint,
        allowed_ips,
        latest_handshake: handshake.parse().unwrap(),
        transfer: [rx, tx].map(|count| count.parse().unwrap()),
        keepalive,
    })
}

fn new_key() -> (String, String) {
    let private = Command::new("wg").arg("genkey").text().unwrap().trim().to_owned();
    let public = Command::new("wg").arg("pubkey").feed(&private).unwrap().trim().to_owned();
    (private, public)
}

#[test]
fn wg_does_the_same_as_on_wireguard_go() {
    const NAME: &str = "wg_does_the_same_as_on_wireguard_go";
    if !able(NAME) {
        return;
    }
    let reference = match wireguard_go::fetch(Progress::start()) {
        Ok(program) => program,
        Err(error) => return not_run(NAME, &format!("{error:#}")),
    };
    let name = format!("fwd-{}-uapi", std::process::id());
    let files = std::env::temp_dir().join(&name);
    let mut script = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/uml/uapi.sh"));
    script.env("FILES", &files).env("PREFIX", format!("{name}-")).env("REFERENCE", reference);
    script.env("FORWARDER", workspace::program("debug", "forwarder").unwrap());
    let output = script.output().unwrap();
    // A script that failed at once has not made it.
    let _ = fs::remove_dir_all(files);
    let [said, errors] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{said}\n{errors}");
}

#[test]
fn what_runs_is_shown() {
    let Some(mut ends) = Ends::start("what_runs_is_shown", 2) else { return };
    let (a, b) = (&ends.lab.a, &ends.lab.b);
    let interfaces = a.wg("show interfaces").unwrap();
    let mut interfaces: Vec<_> = interfaces.split_whitespace().collect();
    interfaces.sort_unstable();
    assert_eq!(interfaces, ["wg0", "wg1"], "and none of the other gateway's");

    // Flows choose their tunnel, but one to an address of its own has no choice.
    wait_reachable(&ends.lab.a.host, address::tunnel(Side::B, 1).into(), PATIENCE).unwrap();
    let shown = peer(a, "wg1", b.public_key()).unwrap();
    let [v4, v6] = lan_prefixes(Side::B);
    let endpoint = b.endpoint(ends.lab.options, 1);
    assert_eq!(shown.endpoint, format!("{endpoint}:{}", address::listen_port(1)));
    assert_eq!(shown.allowed_ips, format!("{v4},{v6},{}/32", address::tunnel(Side::B, 1)));
    assert_eq!((shown.preshared_key.as_str(), shown.keepalive.as_str()), ("(none)", "10"));
    let now = Command::new("date").arg("+%s").text().unwrap().trim().parse::<u64>().unwrap();
    assert!((now - 60..=now).contains(&shown.latest_handshake), "{now}: {shown:?}");
    assert!(shown.transfer.iter().all(|bytes| *bytes > 0), "{shown:?}");
    assert_eq!(a.wg("show wg1 listen-port").unwrap().trim(), address::listen_port(1).to_string());
    assert_eq!(a.wg("show wg1 public-key").unwrap().trim(), a.public_key());
    let all = a.wg("show all dump").unwrap();
    assert_eq!(all.lines().filter(|line| line.starts_with("wg0\t") || line.starts_with("wg1\t")).count(), 4);

    // As a file it is the file, but for what only wg-quick knows.
    let conf = a.wg("showconf wg1").unwrap();
    let file = fs::read_to_string(a.tunnels.join("wg1.conf")).unwrap();
    let lines = |text: &str| {
        let told = text.lines().filter(|line| !line.is_empty() && !line.starts_with("Address"));
        let mut told: Vec<_> = told.map(str::to_owned).collect();
        told.sort_unstable();
        told
    };
    assert_eq!(lines(&conf), lines(&file));

    let run = a.tunnels.with_extension("run");
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&run), mode(&run.join("wg0.sock"))), (0o700, 0o600));
    // Were these open to all, a stranger would be hung up on all the same.
    for (path, mode) in [(run.clone(), 0o711), (run.join("wg0.sock"), 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let alone = a.alone("setpriv").unwrap();
    let mut stranger = a.gateway.command(alone.get_program());
    stranger.args(alone.get_args()).args("--reuid=65534 --clear-groups wg show wg0 dump".split(' '));
    let error = stranger.text().unwrap_err().to_string();
    // The second is for a `wg` that had not written its question by then.
    assert!(error.ends_with("Protocol error") || error.contains("SIGPIPE"), "{error}");

    ends.a.daemon.end_with(Signal::SIGKILL).unwrap();
    let gone = || Ok(fs::read_dir(&run)?.count() == 0);
    assert!(wait_until(PATIENCE, gone).unwrap(), "a killed gateway's sockets are still there");
    ends.a = start_ready(&ends.lab, a, &[]).unwrap();
    assert_eq!(fs::read_dir(&run).unwrap().count(), 2);
    assert!(ends.a.daemon.stop().unwrap().success());
    assert_eq!(fs::read_dir(&run).unwrap().count(), 0, "a stopped gateway's sockets are still there");
}

/// Everything that `wg` can do to a peer, while the flows of the other peers lose no datagram.
#[test]
fn peers_change_beside_traffic() {
    let Some(mut ends) = Ends::start("peers_change_beside_traffic", 3) else { return };
    let (a, b) = (&ends.lab.a, &ends.lab.b);
    let (_, other) = new_key();
    let before = ends.a.counters().unwrap();
    let flows = Flows::start(a, b).unwrap();
    flows.more(20).unwrap();
    // While each change is made there are datagrams on their way, and after it, too.
    let wg = |arguments: &str| {
        let said = a.wg(arguments).unwrap();
        flows.more(3).unwrap();
        said
    };
    let set = |arguments: &str| wg(&format!("set wg1 peer {other} {arguments}"));
    let shown = || peer(a, "wg1", &other);
    let handshakes = a.wg("show all latest-handshakes").unwrap();

    set("allowed-ips 10.77.0.0/16,fd77::/64 endpoint 10.200.1.9:5 persistent-keepalive 25");
    let found = shown().unwrap();
    assert_eq!(found.allowed_ips, "10.77.0.0/16,fd77::/64");
    assert_eq!((found.endpoint.as_str(), found.keepalive.as_str()), ("10.200.1.9:5", "25"));
    // "wg set allowed-ips" replaces.
    set("allowed-ips 10.78.0.0/16 persistent-keepalive off endpoint 10.200.1.10:6");
    let found = shown().unwrap();
    assert_eq!((found.allowed_ips.as_str(), found.keepalive.as_str()), ("10.78.0.0/16", "off"));
    assert_eq!(found.endpoint, "10.200.1.10:6");
    let key = Command::new("wg").arg("genpsk").text().unwrap();
    set(&format!("preshared-key {}", ends.file("psk", &key)));
    assert_eq!(shown().unwrap().preshared_key, key.trim());
    set("preshared-key /dev/null");
    assert_eq!(shown().unwrap().preshared_key, "(none)");

    // A prefix moves from peer to peer of one tunnel.
    let (_, third) = new_key();
    wg(&format!("set wg1 peer {third} allowed-ips 10.78.0.0/16"));
    assert_eq!(shown().unwrap().allowed_ips, "(none)");
    assert_eq!(peer(a, "wg1", &third).unwrap().allowed_ips, "10.78.0.0/16");
    wg(&format!("set wg1 peer {third} remove peer {other} remove"));
    assert!(shown().is_none() && peer(a, "wg1", &third).is_none());

    // The whole tunnel from a file that says the same of the peer that has traffic, in all three ways.
    let conf = a.wg("showconf wg1").unwrap();
    let more = format!("{conf}\n[Peer]\nPublicKey = {other}\nAllowedIPs = 10.79.0.0/16\n");
    let (conf, more) = (ends.file("same.conf", &conf), ends.file("more.conf", &more));
    let only = ends.file("only.conf", &format!("[Peer]\nPublicKey = {third}\nAllowedIPs = 10.80.0.0/16\n"));
    for (how, file, peers) in [
        ("syncconf", &more, 2),
        ("addconf", &only, 3),
        ("syncconf", &conf, 1),
        ("setconf", &more, 2),
        ("setconf", &conf, 1),
    ] {
        wg(&format!("{how} wg1 {file}"));
        let listed = a.wg("show wg1 peers").unwrap();
        assert_eq!(listed.lines().count(), peers, "{how} {file}");
    }
    let own = a.public_key().to_owned();
    wg(&format!("set wg1 fwmark 0x77 peer {own} allowed-ips 10.81.0.0/16"));
    assert_eq!(a.wg("show wg1 fwmark").unwrap().trim(), "0x77");
    assert!(peer(a, "wg1", &own).is_none(), "our own key is no peer");
    wg("set wg1 fwmark off");

    let outcome = flows.finish().unwrap();
    println!("{} datagrams of each of {FLOWS} flows", outcome.sent);
    assert!(outcome.lost.is_empty(), "{outcome:?}");
    assert_eq!(a.wg("show all latest-handshakes").unwrap(), handshakes, "a session did not live on");
    let after = ends.a.counters().unwrap();
    for (before, after) in before.tunnels.iter().zip(&after.tunnels) {
        assert!(after.tx_packets - before.tx_packets > 50, "{} had no flow", after.name);
    }
}

/// Flows move to what is left of their group, and back when the peer is there again.
#[test]
fn groups_follow_their_peers() {
    let Some(mut ends) = Ends::start("groups_follow_their_peers", 3) else { return };
    let (a, b) = (&ends.lab.a, &ends.lab.b);
    let conf = ends.file("wg1.conf", &a.wg("showconf wg1").unwrap());
    let flows = Flows::start(a, b).unwrap();
    let mut sent = |when: &str| {
        let tunnels = ends.a.counters().unwrap().tunnels;
        thread::sleep(Duration::from_secs(1));
        let later = ends.a.counters().unwrap().tunnels;
        let sent = tunnels.iter().zip(later).map(|(before, after)| after.tx_packets - before.tx_packets);
        let sent: Vec<_> = sent.collect();
        println!("{when}: {sent:?} packets a second");
        sent
    };
    assert!(sent("three peers").iter().all(|packets| *packets > 10));
    a.wg(&format!("set wg1 peer {} remove", b.public_key())).unwrap();
    // Its counters went with it.
    let two = sent("two peers");
    assert!(two[0] > 10 && two[1] == 0 && two[2] > 10);
    a.wg(&format!("addconf wg1 {conf}")).unwrap();
    let up = wait_until(PATIENCE, || Ok(peer(a, "wg1", b.public_key()).unwrap().latest_handshake > 0));
    assert!(up.unwrap());
    assert!(sent("three again").iter().all(|packets| *packets > 10));
    let outcome = flows.finish().unwrap();
    assert!(outcome.lost.is_empty(), "{outcome:?}");
}

/// Another private key, another port and a preshared key, at both ends; then the same over again by files.
#[test]
fn keys_and_ports_take_effect() {
    let Some(ends) = Ends::start("keys_and_ports_take_effect", 1) else { return };
    let (a, b) = (&ends.lab.a, &ends.lab.b);
    let (private, public) = new_key();
    let (old_a, key_b) = (a.public_key(), b.public_key());
    let private = ends.file("private", &private);
    let preshared = ends.file("psk", &Command::new("wg").arg("genpsk").text().unwrap());
    let conf = b.wg("showconf wg0").unwrap().replace(old_a, &public);
    let conf = ends.file("b.conf", &conf.replace(":51820", ":40000"));

    a.wg(&format!("set wg0 listen-port 40000 private-key {private} peer {key_b} preshared-key {preshared}"))
        .unwrap();
    assert_eq!(a.wg("show wg0 listen-port").unwrap().trim(), "40000");
    assert_eq!(a.wg("show wg0 public-key").unwrap().trim(), public);
    b.wg(&format!("syncconf wg0 {conf}")).unwrap();
    // Each believes the other, but for the preshared key.
    let target = lan4(Side::B, 10).into();
    wait_reachable(&a.host, target, Duration::from_secs(7)).unwrap_err();
    b.wg(&format!("set wg0 peer {public} preshared-key {preshared}")).unwrap();
    wait_reachable(&a.host, target, PATIENCE).unwrap();
    assert_eq!(peer(b, "wg0", &public).unwrap().endpoint, "10.200.0.1:40000");
    assert!(peer(b, "wg0", old_a).is_none());

    // Where it says already that the peer is, and where it is no more.
    a.wg("set wg0 listen-port 40001").unwrap();
    let endpoint = || peer(b, "wg0", &public).unwrap().endpoint;
    wait_reachable(&a.host, target, PATIENCE).unwrap();
    assert!(wait_until(PATIENCE, || Ok(endpoint() == "10.200.0.1:40001")).unwrap(), "{}", endpoint());
    b.wg(&format!("set wg0 peer {public} endpoint 10.200.0.1:40000")).unwrap();
    assert_eq!(endpoint(), "10.200.0.1:40000");
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let Some(mut ends) = Ends::start("what_cannot_be_is_refused_and_changes_nothing", 2) else { return };
    let a = &ends.lab.a;
    let before = a.wg("showconf wg0").unwrap();
    let (_, other) = new_key();
    let prefix = &lan_prefixes(Side::B)[0];
    for (arguments, complaint) in [
        (format!("listen-port {} peer {other}", address::listen_port(1)), "Address already in use"),
        // Another key for a prefix of the group.
        (format!("peer {other} allowed-ips {prefix}"), "Invalid argument"),
    ] {
        let error = a.wg(&format!("set wg0 {arguments}")).unwrap_err().to_string();
        assert!(error.ends_with(complaint), "{arguments}: {error}");
        assert_eq!(a.wg("showconf wg0").unwrap(), before, "{arguments}");
    }
    let log = ends.a.daemon.output().unwrap();
    assert!(log.contains("wg0: its control socket asked for a change that cannot be made"), "{log}");
    // Who has no key has no peers.
    a.wg("set wg0 private-key /dev/null").unwrap();
    assert_eq!(a.wg("show wg0 private-key").unwrap().trim(), "(none)");
    assert!(ends.a.daemon.stop().unwrap().success());
}

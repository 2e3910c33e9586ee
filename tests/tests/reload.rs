//! A running gateway whose files change: SIGHUP applies the difference, and nothing else. Needs root.

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use tests::lab::{self, PATIENCE, run_inside, start_ready};
use xtask::command::Run as _;
use xtask::lab::gateway::Gateway;
use xtask::lab::{Daemon, Lab, Netns, Options, Side, Site, address, traffic};
use xtask::progress::wait_until;

/// A prefix that the files do not have at first, and a host in it.
const MORE: (&str, &str) = ("10.77.0.0/24", "10.77.0.1");

#[test]
fn what_differs_changes_and_a_flow_beside_it_loses_nothing() -> Result<()> {
    let name = "what_differs_changes_and_a_flow_beside_it_loses_nothing";
    let Some(lab) = lab::lab(name, Options::default())? else { return Ok(()) };
    let third = [&lab.a, &lab.b].map(|site| site.tunnels.join("wg2.conf"));
    let texts = [fs::read_to_string(&third[0])?, fs::read_to_string(&third[1])?];
    third.iter().try_for_each(fs::remove_file)?;
    let mut gateways = [start_ready(&lab, &lab.a, &[])?, start_ready(&lab, &lab.b, &[])?];
    for gateway in &mut gateways {
        gateway.wait_tunnels(PATIENCE)?;
    }
    // Only wg0 carries the far gateway's address in it.
    let untouched = address::tunnel(Side::B, 0).into();
    traffic::wait_reachable(&lab.a.host, untouched, PATIENCE)?;
    let flow = Flow::start(&lab, untouched)?;

    // A tunnel more, at both ends.
    for (file, text) in third.iter().zip(texts) {
        fs::write(file, text)?;
    }
    for gateway in &mut gateways {
        reload(gateway, "wg2: added")?;
    }
    for gateway in &mut gateways {
        gateway.wait_tunnels(PATIENCE)?;
    }
    traffic::wait_reachable(&lab.a.host, address::tunnel(Side::B, 2).into(), PATIENCE)?;
    ensure!(pings(&lab.a.host, lab.b.host_address().into())?, "the group with one more lost a packet");

    // A prefix more: routes, fail-closed routes and steering follow, and go again.
    let host: IpAddr = MORE.1.parse()?;
    lab.b.host.ip(&format!("addr add {host}/32 dev eth0"))?;
    lab.b.gateway.ip(&format!("route add {host} dev lan0"))?;
    let steered = steered(&mut gateways[0])?;
    edit(&lab.a, "wg", "AllowedIPs", |line| format!("{line}, {}", MORE.0))?;
    reload(&mut gateways[0], "other allowed IPs")?;
    traffic::wait_reachable(&lab.a.host, host, PATIENCE)?;
    ensure!(pings(&lab.a.host, host)?, "packets to the new prefix are lost");
    ensure!(self::steered(&mut gateways[0])? >= steered + 5, "the new prefix is not steered");
    let routes = || lab.a.gateway.ip(&format!("route show {}", MORE.0));
    let there = routes()?;
    ensure!(there.contains("dev forwarder0") && there.contains("unreachable"), "{there}");
    edit(&lab.a, "wg", "AllowedIPs", |line| line.replace(&format!(", {}", MORE.0), ""))?;
    reload(&mut gateways[0], "other allowed IPs")?;
    ensure!(wait_until(PATIENCE, || Ok(routes()?.is_empty()))?, "{}", routes()?);

    // A tunnel less: the group goes on by the others, and the port is free.
    third.iter().try_for_each(fs::remove_file)?;
    for gateway in &mut gateways {
        reload(gateway, "wg2: removed")?;
    }
    ensure!(wait_until(PATIENCE, || is_free(&lab.a.gateway, address::listen_port(2)))?, "the port is taken");
    ensure!(pings(&lab.a.host, lab.b.host_address().into())?, "the group with one less lost a packet");

    // Another port, which the far end learns from the next message.
    edit(&lab.a, "wg1", "ListenPort", |_| "ListenPort = 40001".to_owned())?;
    reload(&mut gateways[0], "wg1: listens on port 40001")?;
    let moved = address::tunnel(Side::B, 1).into();
    traffic::wait_reachable(&lab.a.host, moved, PATIENCE)?;
    ensure!(pings(&lab.a.host, moved)?, "the tunnel on another port lost a packet");

    flow.finish()?;
    for gateway in &mut gateways {
        let output = gateway.daemon.output()?;
        ensure!(gateway.daemon.stop()?.success(), "{output}");
    }
    Ok(())
}

#[test]
fn keys_change() -> Result<()> {
    let Some(lab) = lab::lab("keys_change", Options { ports: 2, ..Options::default() })? else {
        return Ok(());
    };
    let mut a = start_ready(&lab, &lab.a, &[])?;
    let mut b = start_ready(&lab, &lab.b, &[])?;
    a.wait_tunnels(PATIENCE)?;
    let [untouched, changed] = [0, 1].map(|index| IpAddr::from(address::tunnel(Side::B, index)));
    for target in [untouched, changed] {
        traffic::wait_reachable(&lab.a.host, target, PATIENCE)?;
    }
    let flow = Flow::start(&lab, untouched)?;

    // A preshared key holds from the next handshake on: another private key forces one.
    let preshared_key = Command::new("wg").arg("genpsk").text()?;
    let with_preshared_key = |line: &str| format!("{line}\nPresharedKey = {}", preshared_key.trim());
    edit(&lab.a, "wg1", "PublicKey", with_preshared_key)?;
    reload(&mut a, "another preshared key")?;
    ensure!(pings(&lab.a.host, changed)?, "the session did not go on");

    let private_key = Command::new("wg").arg("genkey").text()?;
    let public_key = Command::new("wg").arg("pubkey").feed(private_key.trim())?;
    edit(&lab.a, "wg1", "PrivateKey", |_| format!("PrivateKey = {}", private_key.trim()))?;
    // The prefix that both tunnels carry would have two keys.
    edit(&lab.a, "wg1", "AllowedIPs", |_| format!("AllowedIPs = {changed}/32"))?;
    reload(&mut a, "wg1: another private key")?;
    edit(&lab.b, "wg1", "PublicKey", |_| format!("PublicKey = {}", public_key.trim()))?;
    let own = format!("AllowedIPs = {}/32", address::tunnel(Side::A, 1));
    edit(&lab.b, "wg1", "AllowedIPs", |_| own.clone())?;
    reload(&mut b, "added")?;
    // Nothing else than the tunnels' own addresses goes there now.
    let answers = || {
        let source = address::tunnel(Side::A, 1);
        let mut ping = lab.a.gateway.command("ping");
        let ping =
            ping.args(["-q", "-n", "-c", "1", "-W", "1", "-I", &source.to_string(), &changed.to_string()]);
        Ok::<_, anyhow::Error>(ping.output()?.status.success())
    };
    for _ in 0..3 {
        ensure!(!answers()?, "only one end has the preshared key");
    }
    edit(&lab.b, "wg1", "PublicKey", with_preshared_key)?;
    reload(&mut b, "another preshared key")?;
    ensure!(wait_until(PATIENCE, answers)?, "no session with the new keys");
    flow.finish()
}

#[test]
fn what_cannot_be_changes_nothing() -> Result<()> {
    let Some(lab) = lab::lab("what_cannot_be_changes_nothing", Options { ports: 2, ..Options::default() })?
    else {
        return Ok(());
    };
    // The operator routes: no reload may install a route to the TUN.
    edit(&lab.a, "wg", "ListenPort", |line| format!("{line}\nTable = off"))?;
    let mut a = start_ready(&lab, &lab.a, &[])?;
    let _b = start_ready(&lab, &lab.b, &[])?;
    lab.a.gateway.ip(&format!("route add {}/24 dev forwarder0", address::lan4(Side::B, 0)))?;
    let target = lab.b.host_address().into();
    traffic::wait_reachable(&lab.a.host, target, PATIENCE)?;
    let flow = Flow::start(&lab, target)?;
    let state =
        || Ok::<_, anyhow::Error>((lab.a.gateway.ip("route show table all")?, lab.a.gateway.ip("rule")?));
    let before = state()?;

    let file = lab.a.tunnels.join("wg1.conf");
    let text = fs::read_to_string(&file)?;
    let taken = run_inside(&lab.a.gateway, || Ok(UdpSocket::bind("0.0.0.0:40002")?))?;
    let foreign = "198.51.100.0/24";
    for (wrong, says) in [
        (text.clone() + "nonsense\n", "nothing was changed"),
        (text.replace("ListenPort = 51821", "ListenPort = 40002"), "UDP port 40002 is in use"),
        (text.replace("ListenPort = 51821", "ListenPort = 51820"), "ListenPort 51820 is also that of"),
        (
            text.replace("AllowedIPs = ", "AllowedIPs = 10.200.1.2/32, "),
            "lies inside AllowedIPs 10.200.1.2/32",
        ),
    ] {
        fs::write(&file, wrong)?;
        reload(&mut a, says)?;
        ensure!(state()? == before, "{says}: {:?}", state()?);
    }
    drop(taken);
    fs::write(&file, text.replace("AllowedIPs = ", &format!("AllowedIPs = {foreign}, ")))?;
    reload(&mut a, "other allowed IPs")?;
    let routes = lab.a.gateway.ip(&format!("route show {foreign}"))?;
    ensure!(routes.contains("unreachable") && !routes.contains("forwarder0"), "{routes}");
    fs::write(&file, text)?;
    reload(&mut a, "other allowed IPs")?;
    ensure!(wait_until(PATIENCE, || Ok(state()? == before))?, "{:?}", state()?);
    flow.finish()
}

/// The kernel takes an address with an earlier one of its subnet, and all routes with the last one.
#[test]
fn another_address_keeps_the_routes() -> Result<()> {
    let name = "another_address_keeps_the_routes";
    let Some(lab) = lab::lab(name, Options { ports: 2, ..Options::default() })? else { return Ok(()) };
    edit(&lab.a, "wg0", "Address", |_| "Address = 10.98.0.1/24".to_owned())?;
    edit(&lab.a, "wg1", "Address", |_| String::new())?;
    let mut a = start_ready(&lab, &lab.a, &[])?;
    let _b = start_ready(&lab, &lab.b, &[])?;
    let target = lab.b.host_address().into();
    traffic::wait_reachable(&lab.a.host, target, PATIENCE)?;
    let routes = || lab.a.gateway.ip("route show dev forwarder0 proto 151");
    let addresses = || lab.a.gateway.ip("-o address show dev forwarder0");
    let before = routes()?;
    ensure!(before.contains(&address::lan4(Side::B, 0).to_string()), "{before}");

    edit(&lab.a, "wg0", "Address", |_| "Address = 10.98.0.2/24".to_owned())?;
    reload(&mut a, "another Address")?;
    ensure!(routes()? == before, "{}", routes()?);
    ensure!(
        addresses()?.contains("10.98.0.2/24") && !addresses()?.contains("10.98.0.1/"),
        "{}",
        addresses()?
    );
    edit(&lab.a, "wg0", "Address", |_| "MTU = 9000".to_owned())?;
    reload(&mut a, "note: wg0: MTU 9000 does not fit")?;
    ensure!(routes()? == before && addresses()?.is_empty(), "{} {}", routes()?, addresses()?);
    ensure!(pings(&lab.a.host, target)?, "packets are lost");
    Ok(())
}

/// What was there before the change stays, whoever brought it.
#[test]
fn a_refusal_takes_back_what_was_added_and_no_more() -> Result<()> {
    let name = "a_refusal_takes_back_what_was_added_and_no_more";
    let Some(lab) = lab::lab(name, Options { ports: 2, ..Options::default() })? else { return Ok(()) };
    let mut a = start_ready(&lab, &lab.a, &[])?;
    let taken = "10.78.0.0/24";
    lab.a.gateway.ip(&format!("route add {taken} dev forwarder0"))?;
    let guarded = || Ok(lab.a.gateway.ip(&format!("route show {taken}"))?.contains("unreachable"));
    ensure!(wait_until(PATIENCE, guarded)?, "no fail-closed route");
    let state = || lab.a.gateway.ip("-d route show table all");
    let before = state()?;
    let witness = Witness::start(&lab, "route", ["unreachable 10.79.0.1", "unreachable 10.79.0.2"])?;

    edit(&lab.a, "wg0", "AllowedIPs", |line| format!("{line}, {}, {taken}", MORE.0))?;
    edit(&lab.a, "wg0", "Address", |line| format!("{line}, 10.97.0.1/24"))?;
    reload(&mut a, &format!("cannot add the route {taken}"))?;
    ensure!(state()? == before, "{before}\nbecame\n{}", state()?);
    let log = witness.log()?;
    let gone = |prefix: &str| log.lines().any(|line| line.starts_with("Deleted") && line.contains(prefix));
    ensure!(gone(MORE.0) && !gone(taken), "{log}");
    Ok(())
}

/// At no moment are packets sent past the tunnels, or specific routes past over.
#[test]
fn another_mark_of_a_default_route_leaves_no_gap() -> Result<()> {
    let name = "another_mark_of_a_default_route_leaves_no_gap";
    let Some(lab) = lab::lab(name, Options { ports: 2, ..Options::default() })? else { return Ok(()) };
    edit(&lab.a, "wg", "AllowedIPs", |_| "AllowedIPs = 0.0.0.0/0".to_owned())?;
    edit(&lab.a, "wg", "ListenPort", |line| format!("{line}\nFwMark = 7"))?;
    let mut a = start_ready(&lab, &lab.a, &[])?;
    let _b = start_ready(&lab, &lab.b, &[])?;
    let target = lab.b.host_address().into();
    traffic::wait_reachable(&lab.a.host, target, PATIENCE)?;
    let rules = || lab.a.gateway.ip("rule show");
    let before = rules()?;
    let witness = Witness::start(&lab, "rule", ["fwmark 0x62 lookup 98", "fwmark 0x63 lookup 99"])?;
    let flow = Flow::start(&lab, target)?;
    edit(&lab.a, "wg", "FwMark", |_| "FwMark = 8".to_owned())?;
    reload(&mut a, "fwmark 0x8")?;
    ensure!(rules()? == before.replace("0x7", "0x8"), "{before}\nbecame\n{}", rules()?);
    let ours = |line: &&str| line.contains("51820") || line.contains("suppress");
    let log = witness.log()?;
    let log: Vec<_> = log.lines().filter(ours).collect();
    ensure!(log.len() == 2, "{log:?}");
    ensure!(log[0].contains("0x8") && !log[0].contains("Deleted"), "{log:?}");
    ensure!(log[1].contains("0x7") && log[1].contains("Deleted"), "{log:?}");
    flow.finish()
}

/// One name that nobody knows at first, and one that stands for an address where nobody is.
#[test]
fn endpoints_by_name_are_looked_up_until_the_peers_answer() -> Result<()> {
    let name = "endpoints_by_name_are_looked_up_until_the_peers_answer";
    let Some(lab) = lab::lab(name, Options { ports: 2, ..Options::default() })? else { return Ok(()) };
    let names = Hosts::new(&lab.a.gateway, "10.200.0.99 moved.test\n")?;
    for (file, host) in [("wg0", "moved.test"), ("wg1", "late.test")] {
        edit(&lab.a, file, "Endpoint", |line| {
            format!("Endpoint = {host}:{}", line.rsplit(':').next().unwrap_or_default())
        })?;
    }
    // Only A knows where the other one is.
    for file in ["wg0", "wg1"] {
        edit(&lab.b, file, "Endpoint", |_| String::new())?;
    }
    let mut a = start_ready(&lab, &lab.a, &[])?;
    let mut b = start_ready(&lab, &lab.b, &[])?;
    ensure!(a.daemon.output()?.contains("late.test:51821 cannot be resolved"), "{}", a.daemon.output()?);
    names.set(&format!(
        "{} moved.test\n{} late.test\n",
        lab.b.endpoint(lab.options, 0),
        lab.b.endpoint(lab.options, 1)
    ))?;
    for (index, tunnel) in [(0, "wg0"), (1, "wg1")] {
        let target = address::tunnel(Side::B, index).into();
        traffic::wait_reachable(&lab.a.host, target, 3 * PATIENCE).context(tunnel)?;
    }
    b.wait_tunnels(PATIENCE)?;

    // While the peers answer, nobody asks.
    names.set("10.200.0.99 moved.test late.test\n")?;
    reload(&mut a, "was read again")?;
    ensure!(pings(&lab.a.host, lab.b.host_address().into())?, "the endpoints were forgotten");
    Ok(())
}

/// /etc/hosts of a namespace, as `ip netns exec` mounts it for what it starts.
struct Hosts {
    folder: PathBuf,
    /// Whether the machine had an /etc/netns.
    had_netns: bool,
}

impl Hosts {
    fn new(namespace: &Netns, text: &str) -> Result<Self> {
        let netns = Path::new("/etc/netns");
        let this = Self { folder: netns.join(namespace.name()), had_netns: netns.exists() };
        fs::create_dir_all(&this.folder)?;
        this.set(text)?;
        Ok(this)
    }

    fn set(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.folder.join("hosts"), text)?)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // Nothing sensible can be done about a failure on the way out.
        let _ = fs::remove_dir_all(&self.folder);
        if !self.had_netns {
            let _ = fs::remove_dir("/etc/netns");
        }
    }
}

/// `ip monitor` of a kind of objects in A's gateway.
struct Witness<'a> {
    gateway: &'a Netns,
    object: &'static str,
    end: &'static str,
    monitor: Daemon,
}

impl<'a> Witness<'a> {
    /// It listens when it tells of `begin`, and has told all when it tells of `end`: objects that come and go.
    fn start(lab: &'a Lab, object: &'static str, [begin, end]: [&'static str; 2]) -> Result<Self> {
        let gateway = &lab.a.gateway;
        let mut monitor = Command::new("ip");
        monitor.args(["monitor", object]);
        let monitor = gateway.spawn(&mut monitor, &lab.directory().join("monitor.log"))?;
        let this = Self { gateway, object, end, monitor };
        let listens = || {
            this.come_and_go(begin)?;
            Ok(!this.monitor.output()?.is_empty())
        };
        ensure!(wait_until(PATIENCE, listens)?, "`ip monitor {object}` tells nothing");
        Ok(this)
    }

    /// What it tells of all that happened before.
    fn log(self) -> Result<String> {
        self.come_and_go(self.end)?;
        let last = |line: &str| line.starts_with("Deleted") && line.trim_end().ends_with(self.end);
        let all = || Ok(self.monitor.output()?.lines().any(last));
        ensure!(wait_until(PATIENCE, all)?, "no end: {}", self.monitor.output()?);
        self.monitor.output()
    }

    fn come_and_go(&self, probe: &str) -> Result<()> {
        self.gateway.ip(&format!("{} add {probe}", self.object))?;
        self.gateway.ip(&format!("{} del {probe}", self.object)).map(drop)
    }
}

/// Pings from A's LAN host, 100 a second.
struct Flow(Daemon);

impl Flow {
    fn start(lab: &Lab, target: IpAddr) -> Result<Self> {
        let mut command = Command::new("ping");
        command.args(["-n", "-i", "0.01", &target.to_string()]);
        let mut ping = lab.a.host.spawn(&mut command, &lab.directory().join("flow.log"))?;
        ping.wait_for("icmp_seq=20 ", PATIENCE)?;
        Ok(Self(ping))
    }

    /// None was lost, up to a second after the last change; but those that are on their way at the end.
    fn finish(mut self) -> Result<()> {
        let last = self.answered()?.len();
        ensure!(wait_until(PATIENCE, || Ok(self.answered()?.len() >= last + 100))?, "the flow has stopped");
        self.0.end_with(Signal::SIGINT)?;
        let mut answered = self.answered()?;
        answered.sort_unstable();
        answered.dedup();
        let last = answered.last().copied().context("no answers")?;
        let missing: Vec<u32> = (1..=last).filter(|seq| answered.binary_search(seq).is_err()).collect();
        println!("{last} pings beside the changes");
        ensure!(missing.is_empty(), "lost {missing:?} of {last}");
        Ok(())
    }

    /// The numbers of the pings that were answered.
    fn answered(&self) -> Result<Vec<u32>> {
        let number = |line: &str| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok();
        Ok(self.0.output()?.lines().filter_map(number).collect())
    }
}

/// Whether each of a few pings is answered.
fn pings(from: &Netns, target: IpAddr) -> Result<bool> {
    let ping = traffic::ping(from, target, 10)?;
    Ok(ping.sent == ping.received)
}

/// SIGHUP, and the line that it shall bring, after the lines that are there.
fn reload(gateway: &mut Gateway, says: &str) -> Result<()> {
    let before = gateway.daemon.output()?.len();
    gateway.daemon.signal(Signal::SIGHUP)?;
    let news = |gateway: &Gateway| Ok::<_, anyhow::Error>(gateway.daemon.output()?[before..].to_owned());
    let done = ["was read again", "nothing was changed"];
    let ended =
        wait_until(PATIENCE, || Ok(done.iter().any(|end| news(gateway).is_ok_and(|n| n.contains(end)))))?;
    let news = news(gateway)?;
    ensure!(ended && news.contains(says), "no \"{says}\" in: {news}");
    Ok(())
}

/// Changes the lines that begin with `key`, in the files of a site whose names begin with `files`.
fn edit(site: &Site, files: &str, key: &str, change: impl Fn(&str) -> String) -> Result<()> {
    let mut paths: Vec<PathBuf> = fs::read_dir(&site.tunnels)?.flatten().map(|file| file.path()).collect();
    paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(files)));
    for path in paths {
        let text = fs::read_to_string(&path)?;
        let lines = text.lines().map(|l| if l.starts_with(key) { change(l) } else { l.to_owned() });
        fs::write(&path, lines.collect::<Vec<_>>().join("\n") + "\n")?;
    }
    Ok(())
}

/// Packets of the LAN that the XDP programs redirected.
fn steered(gateway: &mut Gateway) -> Result<u64> {
    Ok(gateway.counters()?.verdicts.get("redirect_lan").copied().unwrap_or_default())
}

fn is_free(namespace: &Netns, port: u16) -> Result<bool> {
    run_inside(namespace, move || Ok(UdpSocket::bind(("0.0.0.0", port)).is_ok()))
}

//! The kernel's routes, addresses and rules, while they change and after a change that was refused.

use std::process::Command;

use anyhow::{Result, ensure};
use tests::lab::{self, PATIENCE, start_ready};
use xtask::lab::{Daemon, Lab, Netns, Options, Side, address, traffic};
use xtask::progress::wait_until;

use crate::MORE;
use crate::tools::{Flow, edit, pings, reload};

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

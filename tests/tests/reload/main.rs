//! A running gateway whose files change: SIGHUP applies the difference, and nothing else. Needs root.

mod names;
mod routing;
mod tools;

use std::fs;
use std::net::{IpAddr, UdpSocket};
use std::process::Command;

use anyhow::{Result, ensure};
use tests::lab::{self, PATIENCE, run_inside, start_ready};
use tools::{Flow, edit, pings, reload};
use xtask::command::Run as _;
use xtask::lab::gateway::Gateway;
use xtask::lab::{Netns, Options, Side, address, traffic};
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

/// Packets of the LAN that the XDP programs redirected.
fn steered(gateway: &mut Gateway) -> Result<u64> {
    Ok(gateway.counters()?.verdicts.get("redirect_lan").copied().unwrap_or_default())
}

fn is_free(namespace: &Netns, port: u16) -> Result<bool> {
    run_inside(namespace, move || Ok(UdpSocket::bind(("0.0.0.0", port)).is_ok()))
}

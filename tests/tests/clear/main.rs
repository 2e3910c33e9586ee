//! In clear, never: whatever happens to the gateways, no LAN packet is on the underlay as it is.
//!
//! The gateways forward, and have default routes onto the underlay, so what the tunnels do not take would
//! leave there, and the sites would even reach each other. Every underlay cable is watched from before the
//! first handshake on; what counts as a violation is `xtask::lab::eavesdrop`'s filter.
//!
//! What the design promises is narrower than "never" at one place: without `guard = "keep"` the machine is
//! left as it was found, so from the moment a stop begins the operator's own routes decide, and with this
//! lab's default route they decide for the underlay. With it nothing leaves until `forwarder down`.

mod odd;
mod pings;
mod watch;

use std::fs;
use std::net::IpAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use forwarder::xdp::query;
use libbpf_rs::query::{ProgInfoIter, ProgInfoQueryOptions};
use libbpf_rs::{MapCore as _, MapHandle};
use nix::net::if_::if_nametoindex;
use nix::sys::signal::Signal;
use tests::datagrams::Datagrams;
use tests::lab::{
    PATIENCE, WITHOUT_AF_XDP, down, keep_guard, lab, mac, run_inside, send, start, start_ready,
};
use xtask::lab::address::{lan_prefixes, lan4, lan6, tunnel};
use xtask::lab::gateway::Gateway;
use xtask::lab::traffic::wait_reachable;
use xtask::lab::{Family, Lab, Netns, Options, Side, Site, Wire};
use xtask::progress::wait_until;

use pings::{ping, pings, refused};
use watch::{assert_clear_only_in, assert_silent, wait_frames};

const OPTIONS: Options =
    Options { ports: 2, queues: 1, underlay: Family::V4, wire: Wire::Switch, bond: false };
const UNDERLAYS: [Options; 2] = [OPTIONS, Options { underlay: Family::V6, ..OPTIONS }];

/// The control: without gateways everything does leave in clear, and every kind of packet is caught.
#[test]
fn what_leaves_in_clear_is_caught() -> Result<()> {
    for options in UNDERLAYS {
        let Some(lab) = lab("what_leaves_in_clear_is_caught", options)? else { return Ok(()) };
        let ears = lab.eavesdrop()?;
        ears.prove(&lab)?;
        for target in [IpAddr::from(lan4(Side::B, 10)), lan6(Side::B, 10).into()] {
            let seen = ears.frames()?.len();
            wait_reachable(&lab.a.host, target, PATIENCE)?;
            wait_frames(&ears, seen + 2).with_context(|| format!("a ping of {target} and its answer"))?;
        }
        for odd in odd::all().iter().filter(|odd| odd.forwarded) {
            let seen = ears.frames()?.len();
            send(&lab.a.host, "eth0", &odd.frame(mac(&lab.a.gateway, "lan0")?))?;
            wait_frames(&ears, seen + 1).context(odd.what)?;
        }
        ears.finish()?;
    }
    Ok(())
}

#[test]
fn odd_packets() -> Result<()> {
    for options in UNDERLAYS {
        let Some(lab) = lab("odd_packets", options)? else { return Ok(()) };
        let ears = lab.eavesdrop()?;
        let (mut a, mut b) = (start_ready(&lab, &lab.a, &[])?, start_ready(&lab, &lab.b, &[])?);
        a.wait_tunnels(PATIENCE)?;
        b.wait_tunnels(PATIENCE)?;
        odd::send_all(&lab)?;
        pings(&lab)?;

        // With no socket for any frame, the kernel has them all, and routes them into the TUN.
        for site in lab.sites() {
            empty_socket_slots(&site.gateway, site.ports(options))?;
        }
        let passed = |gateway: &mut Gateway| {
            Ok::<_, anyhow::Error>(gateway.counters()?.verdicts.get("pass_no_socket").copied().unwrap_or(0))
        };
        ensure!(passed(&mut a)? == 0 && passed(&mut b)? == 0, "frames found no socket before");
        odd::send_all(&lab)?;
        pings(&lab)?;
        ensure!(passed(&mut a)? > 0 && passed(&mut b)? > 0, "frames still find a socket");

        assert_silent(ears)?;
    }
    Ok(())
}

/// Where the kernel has no AF_XDP it carries every packet as far as the TUN.
#[test]
fn odd_packets_without_af_xdp() -> Result<()> {
    for options in UNDERLAYS {
        let Some(lab) = lab("odd_packets_without_af_xdp", options)? else { return Ok(()) };
        let ears = lab.eavesdrop()?;
        let start = |site| start_ready(&lab, site, WITHOUT_AF_XDP);
        let (mut a, mut b) = (start(&lab.a)?, start(&lab.b)?);
        a.wait_tunnels(PATIENCE)?;
        b.wait_tunnels(PATIENCE)?;
        odd::send_all(&lab)?;
        pings(&lab)?;
        assert_silent(ears)?;
    }
    Ok(())
}

#[test]
fn without_a_session() -> Result<()> {
    without_a_session_by("without_a_session", &[])
}

#[test]
fn without_a_session_without_af_xdp() -> Result<()> {
    without_a_session_by("without_a_session_without_af_xdp", WITHOUT_AF_XDP)
}

fn without_a_session_by(test: &str, arguments: &[&str]) -> Result<()> {
    let Some(lab) = lab(test, OPTIONS)? else { return Ok(()) };
    let ears = lab.eavesdrop()?;
    let guard = keep_guard(&lab)?;
    let keep: Vec<&str> = guard.iter().map(String::as_str).chain(arguments.iter().copied()).collect();
    let datagrams = {
        let mut a = start_ready(&lab, &lab.a, &keep)?;
        let datagrams = Datagrams::start(&lab.a, Side::B, 9000)?;
        // No peer yet.
        datagrams.more(2000)?;

        // B keeps its guard: its LAN host still answers what came before the end.
        let mut b = start_ready(&lab, &lab.b, &keep)?;
        b.wait_tunnels(PATIENCE)?;
        a.wait_tunnels(PATIENCE)?;
        let before = a.counters()?.tunnels.iter().map(|tunnel| tunnel.tx_packets).sum::<u64>();
        datagrams.more(500)?;
        let after = a.counters()?.tunnels.iter().map(|tunnel| tunnel.tx_packets).sum::<u64>();
        ensure!(after - before >= 500, "the datagrams do not go through the tunnels");

        // A peer that is dead, under a session that is not.
        b.daemon.end_with(Signal::SIGKILL)?;
        datagrams.more(4000)?;
        // A cable that is cut, and mended. It is not the one of the default route, which would go with it.
        lab.a.gateway.ip("link set wan1 down")?;
        datagrams.more(1000)?;
        lab.a.gateway.ip("link set wan1 up")?;
        datagrams.more(1000)?;
        // The TUN is taken down, and its routes with it.
        lab.a.gateway.ip("link set forwarder0 down")?;
        datagrams.more(1000)?;
        ensure!(a.daemon.ended()?.is_none(), "forwarder has ended: {}", a.daemon.output()?);
        datagrams
    };
    datagrams.finish()?;
    assert_silent(ears)
}

/// Phases of the tests below, as ports of the datagrams sent in them: in clear, and not.
const CLEAR: u16 = 9001;
const GUARDED: u16 = 9002;

#[test]
fn from_the_first_route_until_down() -> Result<()> {
    let Some(lab) = lab("from_the_first_route_until_down", OPTIONS)? else { return Ok(()) };
    until_down(&lab)
}

#[test]
fn from_the_first_route_until_down_with_all_the_internet_behind_the_peer() -> Result<()> {
    let name = "from_the_first_route_until_down_with_all_the_internet_behind_the_peer";
    let Some(lab) = lab(name, OPTIONS)? else { return Ok(()) };
    change_tunnels(&lab.a, "AllowedIPs", |_| "AllowedIPs = 0.0.0.0/0, ::/0".to_owned())?;
    until_down(&lab)
}

fn until_down(lab: &Lab) -> Result<()> {
    let ears = lab.eavesdrop()?;
    let guard = keep_guard(lab)?;
    let keep: Vec<&str> = guard.iter().map(String::as_str).collect();
    let mut b = start_ready(lab, &lab.b, &keep)?;
    let datagrams = Datagrams::start(&lab.a, Side::B, CLEAR)?;
    datagrams.more(100)?;

    let mut a = start(lab, &lab.a, &keep)?;
    wait_guard(&lab.a)?;
    datagrams.phase(GUARDED);
    a.wait_tunnels(PATIENCE)?;
    datagrams.more(500)?;
    for end in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGINT] {
        a.daemon.end_with(end)?;
        datagrams.more(500)?;
        a = start(lab, &lab.a, &keep)?;
        a.wait_tunnels(PATIENCE)?;
        datagrams.more(500)?;
    }
    // Killed while it starts, at a different stage each time.
    for milliseconds in [0, 20, 50, 100, 200, 400] {
        a.daemon.end_with(Signal::SIGKILL)?;
        a = start(lab, &lab.a, &keep)?;
        thread::sleep(Duration::from_millis(milliseconds));
        ensure!(a.daemon.ended()?.is_none(), "forwarder does not start: {}", a.daemon.output()?);
    }
    a.daemon.end_with(Signal::SIGKILL)?;
    datagrams.more(500)?;

    datagrams.phase(CLEAR);
    let seen = ears.frames()?.len();
    down(&lab.a)?;
    wait_frames(&ears, seen + 10).context("after `down` the operator's routes are to hold")?;
    datagrams.finish()?;
    b.daemon.stop()?;
    assert_clear_only_in(CLEAR, ears)
}

/// Without a guard: from the first route until the stop begins.
#[test]
fn from_the_first_route_until_the_stop() -> Result<()> {
    let Some(lab) = lab("from_the_first_route_until_the_stop", OPTIONS)? else { return Ok(()) };
    let ears = lab.eavesdrop()?;
    let guard = keep_guard(&lab)?;
    let keep: Vec<&str> = guard.iter().map(String::as_str).collect();
    let mut b = start_ready(&lab, &lab.b, &keep)?;
    let datagrams = Datagrams::start(&lab.a, Side::B, CLEAR)?;
    for end in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
        let mut a = start(&lab, &lab.a, &[])?;
        wait_guard(&lab.a)?;
        datagrams.phase(GUARDED);
        a.wait_tunnels(PATIENCE)?;
        datagrams.more(500)?;

        datagrams.phase(CLEAR);
        datagrams.more(2)?;
        let seen = ears.frames()?.len();
        a.daemon.end_with(end)?;
        wait_frames(&ears, seen + 10).context("after the stop the operator's routes are to hold")?;
    }
    datagrams.finish()?;
    b.daemon.stop()?;
    assert_clear_only_in(CLEAR, ears)
}

/// The operator's own routes decide what the tunnels take; until there are any, nothing leaves at all.
#[test]
fn table_off() -> Result<()> {
    let Some(lab) = lab("table_off", OPTIONS)? else { return Ok(()) };
    for site in lab.sites() {
        change_tunnels(site, "Address", |line| format!("{line}\nTable = off"))?;
    }
    let ears = lab.eavesdrop()?;
    let (mut a, mut b) = (start_ready(&lab, &lab.a, &[])?, start_ready(&lab, &lab.b, &[])?);
    a.wait_tunnels(PATIENCE)?;
    b.wait_tunnels(PATIENCE)?;
    let text = ping(&lab.a.host, &lan4(Side::B, 10).to_string())?;
    ensure!(text.contains("nreachable"), "the gateway does not say that it has no route: {text}");
    let datagrams = Datagrams::start(&lab.a, Side::B, 9000)?;
    refused(&lab)?;
    for verb in ["add", "del", "add"] {
        for (site, far) in [(&lab.a, Side::B), (&lab.b, Side::A)] {
            // The gateways' own addresses, too: A's gateway pings.
            let tunnels = (0..OPTIONS.ports).map(|index| format!("{}/32", tunnel(far, index)));
            for prefix in lan_prefixes(far).into_iter().chain(tunnels) {
                site.gateway.ip(&format!("route {verb} {prefix} dev forwarder0"))?;
            }
        }
        datagrams.more(500)?;
        if verb == "add" { pings(&lab)? } else { refused(&lab)? }
    }
    datagrams.finish()?;
    assert_silent(ears)
}

/// Takes the sockets out of the running programs' map: their redirects become passes.
fn empty_socket_slots(gateway: &Netns, interfaces: Vec<String>) -> Result<()> {
    run_inside(gateway, move || {
        for interface in interfaces {
            let attached = query::attached(if_nametoindex(interface.as_str())?)?;
            let attached = attached.with_context(|| format!("no program on {interface}"))?;
            let options = ProgInfoQueryOptions::default().include_map_ids(true);
            let program = ProgInfoIter::with_query_opts(options).find(|program| program.id == attached.id);
            let maps = program.context("the program is gone")?.map_ids;
            let maps = maps.into_iter().map(MapHandle::from_map_id).collect::<Result<Vec<_>, _>>()?;
            let sockets = maps.iter().find(|map| map.name() == "SOCKETS").context("no map of sockets")?;
            sockets.delete(&0_u32.to_ne_bytes())?;
        }
        Ok(())
    })
}

/// Waits until a gateway's fail-closed routes stand, and its rules if it has any.
fn wait_guard(site: &Site) -> Result<()> {
    let stands = wait_until(PATIENCE, || {
        for family in ["-4", "-6"] {
            let routes =
                site.gateway.ip(&format!("{family} route show table all type unreachable proto 151"))?;
            let rules = site.gateway.ip(&format!("{family} rule show"))?;
            let by_rule = routes.contains("default") && !rules.contains("lookup 51820");
            if routes.is_empty() || by_rule {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    ensure!(stands, "there are no fail-closed routes");
    Ok(())
}

/// Rewrites the lines of a site's tunnel files that begin with `key`.
fn change_tunnels(site: &Site, key: &str, change: impl Fn(&str) -> String) -> Result<()> {
    for file in fs::read_dir(&site.tunnels)? {
        let file = file?.path();
        let text = fs::read_to_string(&file)?;
        let lines =
            text.lines().map(|line| if line.starts_with(key) { change(line) } else { line.to_owned() });
        fs::write(&file, lines.collect::<Vec<_>>().join("\n") + "\n")?;
    }
    Ok(())
}

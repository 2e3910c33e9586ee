//! One measurement of one system.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::lab::counters::{self, CpuTime, Link};
use crate::lab::eavesdrop::Eavesdropper;
use crate::lab::generator::{Generator, Load};
use crate::lab::system::{Carried, Running, System};
use crate::lab::traffic::{self, TcpRun};
use crate::lab::{Lab, Site};
use crate::progress::{Progress, Stopwatch};
use crate::workspace;

const TCP_FLOWS: u32 = 10;
const UDP_FLOWS: u16 = 1024;
const PINGS: u32 = 10;
/// Greatest share of packets that may be lost.
const LOSS: f64 = 0.005;

/// What one system carried.
#[derive(Clone, Debug)]
pub struct Round {
    /// From A to B, and from B to A.
    pub tcp: [TcpRun; 2],
    /// CPUs that were busy meanwhile: 1.0 is one of them all the time.
    pub cpus: f64,
    /// UDP from A to B, inner IP length 46.
    pub udp46: Udp,
    /// UDP from B to A, inner IP length 1420.
    pub udp1420: Udp,
    /// Site A's slaves, under UDP, whose flows are equal: TCP's are not.
    pub slaves: Vec<Carried>,
    /// Site A's tunnels, under UDP.
    pub tunnels: Vec<Carried>,
    /// Packets dropped by both gateways and by their interfaces (`interface`).
    pub drops: BTreeMap<String, u64>,
    /// Frames on the underlay that were not the tunnels'.
    pub clear_frames: u64,
}

/// The highest rate of UDP packets.
#[derive(Clone, Copy, Debug)]
pub struct Udp {
    /// Packets per second.
    pub pps: u64,
    /// Packets that arrived after a later one of their flow, in a trial at that rate.
    pub reordered: u64,
    /// The generator's own ceiling is too near for the rate to be the gateways'.
    pub generator_bound: bool,
}

/// Starts `system` at both sites, measures it and stops it.
pub fn measure(
    lab: &Lab,
    system: &System,
    ears: &Eavesdropper,
    seconds: u32,
    progress: Progress,
) -> Result<Round> {
    let clear_before = ears.frames()?.len();
    let dropped_before = lab.interface_drops()?;
    let mut running = system.start(lab)?;
    ping(lab, progress)?;
    let (tcp, cpus) = tcp(lab, seconds, progress)?;

    let before = (slaves(lab)?, running.tunnels(lab)?);
    let udp46 = udp([&lab.a, &lab.b], "46", progress)?;
    let udp1420 = udp([&lab.b, &lab.a], "1420", progress)?;
    let slaves = since(slaves(lab)?, &before.0);
    let tunnels = since(running.tunnels(lab)?, &before.1);

    let drops = drops(&mut running, lab.interface_drops()? - dropped_before)?;
    drop(running);
    thread::sleep(Duration::from_millis(100)); // what was sent last is still on its way to the listeners
    let clear_frames = (ears.frames()?.len() - clear_before) as u64;
    Ok(Round { tcp, cpus, udp46, udp1420, slaves, tunnels, drops, clear_frames })
}

fn ping(lab: &Lab, progress: Progress) -> Result<()> {
    let target = lab.b.host_address().into();
    traffic::wait_reachable(&lab.a.host, target, Duration::from_secs(10))?;
    let ping = traffic::ping(&lab.a.host, target, PINGS)?;
    progress.step(format!("  ping: {} of {} answered", ping.received, ping.sent));
    ensure!(ping.received == ping.sent, "pings from LAN host to LAN host were lost");
    Ok(())
}

fn tcp(lab: &Lab, seconds: u32, progress: Progress) -> Result<([TcpRun; 2], f64)> {
    let before = CpuTime::now()?;
    let watch = Stopwatch::start();
    let a_to_b = tcp_one_way(lab, [&lab.a, &lab.b], seconds, progress)?;
    let b_to_a = tcp_one_way(lab, [&lab.b, &lab.a], seconds, progress)?;
    let cpus = CpuTime::now()?.since(before).busy() / watch.seconds();
    Ok(([a_to_b, b_to_a], cpus))
}

fn tcp_one_way(lab: &Lab, [from, to]: [&Site; 2], seconds: u32, progress: Progress) -> Result<TcpRun> {
    let run = traffic::tcp(from, to, TCP_FLOWS, seconds, &lab.directory().join("iperf3.log"))?;
    let (from, to) = (from.side.letter(), to.side.letter());
    progress.step(format!("  TCP {from} to {to}, {TCP_FLOWS} flows: {:.0} Mbit/s", run.mbps));
    Ok(run)
}

fn udp([from, to]: [&Site; 2], size: &str, progress: Progress) -> Result<Udp> {
    // The receiving gateway's core: it has less to do than the one that seals.
    let load = Load { size, flows: UDP_FLOWS, core: to.side.core(), ..Load::SMALL };
    let program = workspace::program("release", "bench")?;
    let rate = Generator { program: &program, ends: [from, to] }.rate(load, LOSS)?;
    let (from, to) = (from.side.letter(), to.side.letter());
    let bound = if rate.generator_bound { " (generator-bound)" } else { "" };
    progress.step(format!(
        "  UDP {from} to {to}, {size} bytes, {UDP_FLOWS} flows: {} packets/s{bound}",
        rate.pps
    ));
    let reordered = rate.trial.map_or(0, |trial| trial.reordered);
    Ok(Udp { pps: rate.pps, reordered, generator_bound: rate.generator_bound })
}

fn slaves(lab: &Lab) -> Result<Vec<Carried>> {
    let slaves = lab.a.slaves(lab.options).into_iter().map(|name| {
        let Link { tx_bytes, rx_bytes, .. } = counters::link(&lab.a.gateway, &name)?;
        Ok(Carried { name, tx_bytes, rx_bytes })
    });
    slaves.collect()
}

fn since(now: Vec<Carried>, before: &[Carried]) -> Vec<Carried> {
    let pairs = now.into_iter().zip(before);
    pairs
        .map(|(now, before)| Carried {
            name: now.name,
            tx_bytes: now.tx_bytes - before.tx_bytes,
            rx_bytes: now.rx_bytes - before.rx_bytes,
        })
        .collect()
}

fn drops(running: &mut Running, interface: u64) -> Result<BTreeMap<String, u64>> {
    let mut drops = running.drops()?;
    drops.insert("interface".to_owned(), interface);
    drops.retain(|_, count| *count > 0);
    Ok(drops)
}

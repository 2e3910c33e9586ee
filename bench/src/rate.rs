//! The highest rate that a path carries, and the highest that generator and sink themselves can do.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use crate::host::{self, Interface};
use crate::ladder;
use crate::packet::{Route, Template};
use crate::sender::Sender;
use crate::sink::Sink;
use crate::trial::{self, Measured};

/// A result is only the gateway's when the generator could have done this much more.
const HEADROOM: f64 = 1.3;

/// One end of the path.
#[derive(Clone, Debug, clap::Args)]
pub struct Ends {
    /// Network namespace of the sending host: a name or a path
    #[arg(long)]
    pub from_ns: String,
    /// Its interface
    #[arg(long)]
    pub from_iface: String,
    /// Network namespace of the receiving host: a name or a path
    #[arg(long)]
    pub to_ns: String,
    /// Its interface
    #[arg(long)]
    pub to_iface: String,
    /// Address of the sending host
    #[arg(long)]
    pub src: Ipv4Addr,
    /// Address of the receiving host
    #[arg(long)]
    pub dst: Ipv4Addr,
}

/// What is sent.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// Length of the IP packets in bytes
    #[arg(long, default_value_t = crate::packet::SMALLEST as u16,
          value_parser = clap::value_parser!(u16).range(crate::packet::SMALLEST as i64..=crate::packet::LARGEST as i64))]
    pub size: u16,
    /// Number of flows
    #[arg(long, default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(crate::packet::MOST_FLOWS)))]
    pub flows: u16,
    /// Greatest share of packets that may be lost
    #[arg(long, default_value_t = 0.005)]
    pub loss: f64,
    /// Length of a trial in seconds, without its warm-up
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
}

/// The result of a search.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Length of the IP packets in bytes.
    pub size: u16,
    /// Number of flows.
    pub flows: u16,
    /// The highest rate in packets per second with a loss within the limit; 0 when there is none.
    pub pps: u64,
    /// The share of packets lost at that rate, from 0 to 1.
    pub loss: f64,
    /// Packets sent in the last trial at that rate.
    pub sent: u64,
    /// Packets that arrived.
    pub received: u64,
    /// Packets that arrived after a later one of their flow.
    pub reordered: u64,
    /// Packets that arrived more than once.
    pub duplicates: u64,
    /// Latency at that rate, in microseconds.
    pub latency: Latency,
    /// The highest rate of generator and sink over a plain veth pair.
    pub ceiling_pps: u64,
    /// The ceiling is too near for the rate to be the gateway's.
    pub generator_bound: bool,
}

/// One-way latency in microseconds, by percentile.
#[derive(Debug, Default, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p99_9: f64,
}

/// Searches the highest rate between two hosts, after the ceiling.
///
/// # Errors
/// A namespace or an interface is missing, the hosts do not reach each other, or the privileges are missing.
pub fn measure(ends: &Ends, load: &Load) -> anyhow::Result<Report> {
    let ceiling_pps = ceiling(load)?.pps;
    let (mut sender, mut sink) = open(ends, load)?;
    let report = search(&mut sender, &mut sink, load)?;
    let generator_bound = (ceiling_pps as f64) < HEADROOM * report.pps as f64;
    Ok(Report { ceiling_pps, generator_bound, ..report })
}

/// Offers one rate between two hosts.
///
/// # Errors
/// Those of [`measure`].
pub fn offer(ends: &Ends, load: &Load, rate: u64) -> anyhow::Result<Report> {
    let (mut sender, mut sink) = open(ends, load)?;
    let measured = trial::run(&mut sender, &mut sink, rate, Duration::from_secs_f64(load.seconds), 0)?;
    Ok(report(load, rate, &measured))
}

fn open(ends: &Ends, load: &Load) -> anyhow::Result<(Sender, Sink)> {
    host::enter(&ends.from_ns)?;
    let from = Interface::find(&ends.from_iface)?;
    let route = Route {
        source_mac: from.mac,
        next_hop_mac: from.next_hop_mac(ends.dst)?,
        source: ends.src,
        destination: ends.dst,
    };
    let sender = Sender::open(&from, Template::new(&route, load.flows, load.size.into()))?;
    host::enter(&ends.to_ns)?;
    Ok((sender, Sink::open(&Interface::find(&ends.to_iface)?)?))
}

/// The highest rate of generator and sink over a veth pair in a namespace of its own.
///
/// # Errors
/// The privileges are missing.
pub fn ceiling(load: &Load) -> anyhow::Result<Report> {
    let load = load.clone();
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace: run as root")?;
        host::output("ip", &["link", "add", "near", "type", "veth", "peer", "name", "far"])?;
        host::output("ip", &["link", "set", "far", "up"])?;
        host::output("ip", &["link", "set", "near", "up"])?;
        let (near, far) = (Interface::find("near")?, Interface::find("far")?);
        let route = Route {
            source_mac: near.mac,
            next_hop_mac: far.mac,
            source: Ipv4Addr::new(198, 18, 0, 1),
            destination: Ipv4Addr::new(198, 19, 0, 1),
        };
        let mut sender = Sender::open(&near, Template::new(&route, load.flows, load.size.into()))?;
        let mut sink = Sink::open(&far)?;
        let report = search(&mut sender, &mut sink, &load)?;
        Ok(Report { ceiling_pps: report.pps, ..report })
    });
    thread.join().map_err(|_| anyhow!("the ceiling's thread panicked"))?
}

fn search(sender: &mut Sender, sink: &mut Sink, load: &Load) -> anyhow::Result<Report> {
    let duration = Duration::from_secs_f64(load.seconds);
    let mut trial = 0u16;
    let mut best = None;
    let rung = ladder::search(|rate| -> anyhow::Result<bool> {
        let measured = trial::run(sender, sink, rate, duration, trial)?;
        trial = trial.wrapping_add(2);
        let passes = measured.was_offered() && measured.loss() <= load.loss;
        eprintln!("{}", describe(rate, &measured, passes));
        if passes {
            best = Some(measured);
        }
        Ok(passes)
    })?;
    Ok(match (rung, best) {
        // The last trial that passed is the last confirmation of this rung.
        (Some(rung), Some(best)) => report(load, ladder::rate(rung), &best),
        _ => Report { size: load.size, flows: load.flows, ..Report::default() },
    })
}

fn report(load: &Load, pps: u64, measured: &Measured) -> Report {
    let microseconds = |quantile| measured.latency.value_at_quantile(quantile) as f64 / 1000.0;
    Report {
        size: load.size,
        flows: load.flows,
        pps,
        loss: measured.loss(),
        sent: measured.sent,
        received: measured.account.received,
        reordered: measured.account.reordered,
        duplicates: measured.account.duplicates,
        latency: Latency { p50: microseconds(0.5), p99: microseconds(0.99), p99_9: microseconds(0.999) },
        ..Report::default()
    }
}

fn describe(rate: u64, measured: &Measured, passes: bool) -> String {
    let verdict = if passes { "passes" } else { "fails" };
    let offered = if measured.was_offered() { "" } else { ", the generator did not keep up" };
    let loss = 100.0 * measured.loss();
    format!("{rate:>8} pps: {loss:.2} % lost, {} in the sink{offered}: {verdict}", measured.sink_lost)
}

//! The highest rates that a path carries, and the highest that generator and sink themselves can do.

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use nix::sched::{CloneFlags, unshare};

use crate::host::{self, Interface};
use crate::packet::{Route, Template};
use crate::report::{Goal, Observed, Report};
use crate::search::{self, Outcome, Plan};
use crate::sender::{Sender, Shape};
use crate::sink::Sink;
use crate::size::Size;
use crate::trial;

/// Packets per second that a search begins and ends with.
const RANGE: [u64; 2] = [1000, 5_000_000];
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
    /// Length of the IP packets in bytes, or imix: 28 x 46, 16 x 552, 4 x 1420 within every flow
    #[arg(long, default_value_t = Size::One(46))]
    pub size: Size,
    /// Number of flows
    #[arg(long, default_value_t = 64,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(crate::packet::MOST_FLOWS)))]
    pub flows: u16,
    /// Length of a trial in seconds, without its warm-up
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Packets that are sent back to back, at the same mean rate
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub burst: u64,
    /// Microseconds from one wakeup of the generator to the next one: what became due meanwhile is sent together
    #[arg(long, default_value_t = trial::TURN.as_micros() as u64, value_parser = clap::value_parser!(u64).range(10..))]
    pub tick: u64,
}

impl Load {
    /// When its packets are to be sent.
    pub fn shape(&self) -> Shape {
        Shape { tick: Duration::from_micros(self.tick), burst: self.burst }
    }
}

/// How rates are searched.
#[derive(Clone, Debug, clap::Args)]
pub struct Search {
    /// Greatest share of packets that may be lost; repeatable [default: 0 and 0.005]
    #[arg(long = "loss", default_values_t = [0.0, 0.005], hide_default_value = true)]
    pub goals: Vec<f64>,
    /// How near the result is to the truth, as a share of it
    #[arg(long, default_value_t = 0.05)]
    pub width: f64,
    /// Most trials of a search
    #[arg(long, default_value_t = 60)]
    pub trials: usize,
    /// Trials that may be needed for one rate at the end; more than half of them decide
    #[arg(long, default_value_t = 3)]
    pub repeats: u32,
}

/// Searches the highest rates between two hosts. The generator's own ceiling is searched before, unless it is known.
///
/// # Errors
/// A namespace or an interface is missing, the hosts do not reach each other, or the privileges are missing.
pub fn measure(
    ends: &Ends,
    load: &Load,
    search: &Search,
    ceiling_pps: Option<u64>,
) -> anyhow::Result<Report> {
    let ceiling_pps = ceiling_pps.map_or_else(|| Ok(ceiling(load, search)?.highest()), anyhow::Ok)?;
    let (mut sender, mut sink) = open(ends, load)?;
    // A disturbance may have lowered the ceiling; it shall not lower the result.
    let highest = ceiling_pps.saturating_mul(2).min(RANGE[1]);
    let mut report = run(&mut sender, &mut sink, load, search, highest)?;
    report.ceiling_pps = ceiling_pps;
    for goal in &mut report.goals {
        goal.generator_bound |= (ceiling_pps as f64) < HEADROOM * goal.pps as f64;
    }
    Ok(report)
}

/// Offers one rate between two hosts.
///
/// # Errors
/// Those of [`measure`].
pub fn offer(ends: &Ends, load: &Load, rate: u64) -> anyhow::Result<Observed> {
    let (mut sender, mut sink) = open(ends, load)?;
    one(&mut sender, &mut sink, load, rate)
}

fn one(sender: &mut Sender, sink: &mut Sink, load: &Load, rate: u64) -> anyhow::Result<Observed> {
    let duration = Duration::from_secs_f64(load.seconds);
    Ok(Observed::new(rate, duration, &trial::run(sender, sink, rate, duration, 0)?))
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
    let sender = Sender::open(&from, Template::new(&route, load.flows, load.size), load.shape())?;
    host::enter(&ends.to_ns)?;
    Ok((sender, Sink::open(&Interface::find(&ends.to_iface)?)?))
}

/// The highest rates of generator and sink over a veth pair in a namespace of its own.
///
/// # Errors
/// The privileges are missing.
pub fn ceiling(load: &Load, search: &Search) -> anyhow::Result<Report> {
    let (load, search) = (load.clone(), search.clone());
    alone(&load.clone(), move |sender, sink| {
        let mut report = run(sender, sink, &load, &search, RANGE[1])?;
        report.ceiling_pps = report.highest();
        Ok(report)
    })
}

/// Offers one rate over such a pair: what generator and sink themselves cost.
///
/// # Errors
/// The privileges are missing.
pub fn offer_alone(load: &Load, rate: u64) -> anyhow::Result<Observed> {
    let owned = load.clone();
    alone(load, move |sender, sink| one(sender, sink, &owned, rate))
}

/// Does `work` with a sender and a sink at the ends of a veth pair.
fn alone<T: Send + 'static>(
    load: &Load,
    work: impl FnOnce(&mut Sender, &mut Sink) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
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
        let template = Template::new(&route, load.flows, load.size);
        work(&mut Sender::open(&near, template, load.shape())?, &mut Sink::open(&far)?)
    });
    thread.join().map_err(|_| anyhow!("the generator's thread panicked"))?
}

fn run(
    sender: &mut Sender,
    sink: &mut Sink,
    load: &Load,
    search: &Search,
    highest: u64,
) -> anyhow::Result<Report> {
    let plan = Plan {
        goals: search.goals.clone(),
        range: [RANGE[0], highest],
        width: search.width,
        longest: Duration::from_secs_f64(load.seconds),
        repeats: search.repeats,
        trials: search.trials,
    };
    let mut trials: Vec<Observed> = Vec::new();
    let bounds = search::search(&plan, |rate, duration| {
        let measured = trial::run(sender, sink, rate, duration, 2 * trials.len() as u16)?;
        let trial = Observed::new(rate, duration, &measured);
        eprintln!("{}", trial.line());
        let loss = if trial.was_offered() { trial.loss } else { 1.0 };
        let outcome = Outcome { loss, delivered: trial.delivered_pps };
        trials.push(trial);
        anyhow::Ok(outcome)
    })?;
    let goals = search.goals.iter().zip(bounds);
    Ok(Report {
        size: load.size.to_string(),
        flows: load.flows,
        ceiling_pps: 0,
        trials: trials.len(),
        goals: goals.map(|(loss_limit, bounds)| Goal::new(*loss_limit, bounds, &trials)).collect(),
    })
}

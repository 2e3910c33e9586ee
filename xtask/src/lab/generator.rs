//! The UDP generator of the `bench` package, from LAN host to LAN host.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Site, pin};
use crate::command::Run as _;

/// Equal flows of packets.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// Inner IP length in bytes, or `imix`.
    pub size: &'a str,
    /// Number of flows.
    pub flows: u16,
    /// Seconds of a trial.
    pub seconds: f64,
    /// Microseconds from one wakeup of the generator to the next one. Seldom is cheap, often is smooth.
    pub tick: u32,
    /// The generator's core, counted round where there are fewer. It has one because each move by the scheduler
    /// would be a burst, and the rate found that of the scheduler.
    pub core: usize,
}

impl Load<'_> {
    /// Packets of 46 bytes in 64 flows.
    pub const SMALL: Self = Self { size: "46", flows: 64, seconds: 1.0, tick: 487, core: 1 };
}

/// How the highest rates are searched.
#[derive(Clone, Copy, Debug)]
pub struct Search<'a> {
    /// Greatest share of packets that may be lost, from 0 to 1, for each rate.
    pub losses: &'a [f64],
    /// How near the result shall be to the truth, as a share of it.
    pub width: f64,
    /// Trials that may be needed for one rate; more than half of them decide.
    pub repeats: u32,
    /// Most trials.
    pub trials: u32,
}

/// A search for the highest rates.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// How many trials it took.
    pub trials: usize,
    /// A result for each loss, in the same order.
    pub goals: Vec<Rate>,
}

/// The highest rate with so much loss.
#[derive(Clone, Debug, Deserialize)]
pub struct Rate {
    /// Packets per second, 0 when no rate is carried.
    pub pps: u64,
    /// The trials were enough to get as near as asked.
    pub complete: bool,
    /// The generator's own ceiling is too near for the rate to be the gateways'.
    pub generator_bound: bool,
    /// The last good trial at that rate.
    pub trial: Option<Trial>,
}

/// What became of the packets of one trial.
#[derive(Clone, Debug, Deserialize)]
pub struct Trial {
    /// The rate offered, in packets per second.
    pub pps: u64,
    /// Packets that were to be sent.
    pub offered: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets that arrived of them.
    pub received: u64,
    /// The rate that arrived, in packets per second.
    pub delivered_pps: u64,
    /// The share lost, from 0 to 1.
    pub loss: f64,
    /// Packets that arrived after a later one of their flow.
    pub reordered: u64,
    /// Most packets of a flow that overtook one.
    pub reordering_extent: u64,
    /// How many packets arrived by so many places early (below 0) or late (above 0) in their flow (RFC 5236).
    pub reorder_density: BTreeMap<i64, u64>,
    /// One-way latency from the time when a packet was to be sent.
    pub latency: Latency,
    /// How much later than that packets were sent.
    pub lateness: Latency,
    /// CPU time of the whole machine meanwhile.
    pub cpu: Cpu,
}

impl Trial {
    /// The share of the packets that arrived which were early or late in their flow, from 0 to 1.
    pub fn displaced(&self) -> f64 {
        let in_place = self.reorder_density.get(&0).copied().unwrap_or_default();
        (self.received - in_place) as f64 / self.received.max(1) as f64
    }
}

/// A distribution of times in microseconds.
#[derive(Clone, Debug, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p99_9: f64,
    /// Percentile, from 0 to 100, and time.
    pub curve: Vec<[f64; 2]>,
}

/// Seconds of all CPUs together.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq)]
pub struct Cpu {
    /// All that they were not idle.
    pub busy: f64,
    /// In user space. This and the next ones are rough: kernels guess them once a clock tick.
    pub user: f64,
    /// In system calls and kernel threads.
    pub system: f64,
    /// In interrupts.
    pub softirq: f64,
}

/// The generator, between two sites.
#[derive(Clone, Copy, Debug)]
pub struct Generator<'a> {
    /// The `bench` program.
    pub program: &'a Path,
    /// From where, and to where.
    pub ends: [&'a Site; 2],
}

impl Generator<'_> {
    /// Searches the highest rates, where the generator itself can do `ceiling` packets a second.
    ///
    /// # Errors
    /// The generator fails.
    pub fn search(&self, load: Load, search: Search, ceiling: u64) -> Result<Report> {
        let mut command = self.between("rate", load)?;
        search.add_to(&mut command);
        output(command.args(["--ceiling", &ceiling.to_string()]))
    }

    /// Searches the highest rate at which at most this share of the packets is lost, after the ceiling.
    ///
    /// # Errors
    /// The generator fails.
    pub fn rate(&self, load: Load, loss: f64) -> Result<Rate> {
        let mut command = self.between("rate", load)?;
        let report: Report = output(command.args(["--loss", &loss.to_string()]))?;
        report.goals.into_iter().next().context("the generator has no result")
    }

    /// Offers `pps` packets a second.
    ///
    /// # Errors
    /// The generator fails.
    pub fn offer(&self, load: Load, pps: u64) -> Result<Trial> {
        output(self.between("offer", load)?.args(["--rate", &pps.to_string()]))
    }

    fn between(&self, what: &str, load: Load) -> Result<Command> {
        let [from, to] = self.ends;
        let mut command = command(self.program, what, load)?;
        command.args(["--from-iface", "eth0", "--to-iface", "eth0"]);
        command.args(["--from-ns", from.host.name(), "--to-ns", to.host.name()]);
        command.args(["--src", &from.host_address().to_string(), "--dst", &to.host_address().to_string()]);
        Ok(command)
    }
}

impl Search<'_> {
    fn add_to(&self, command: &mut Command) {
        command.args(["--width", &self.width.to_string(), "--repeats", &self.repeats.to_string()]);
        command.args(["--trials", &self.trials.to_string()]);
        for loss in self.losses {
            command.args(["--loss", &loss.to_string()]);
        }
    }
}

/// The highest rates of the generator itself.
///
/// # Errors
/// The generator fails.
pub fn ceiling(program: &Path, load: Load, search: Search) -> Result<Report> {
    let mut command = command(program, "ceiling", load)?;
    search.add_to(&mut command);
    output(&mut command)
}

/// Offers `pps` packets a second to the generator's own sink: what the two cost.
///
/// # Errors
/// The generator fails.
pub fn offer_alone(program: &Path, load: Load, pps: u64) -> Result<Trial> {
    output(command(program, "ceiling", load)?.args(["--rate", &pps.to_string()]))
}

fn command(program: &Path, what: &str, load: Load) -> Result<Command> {
    let mut command = Command::new("taskset");
    pin(&mut command, load.core)?;
    command.arg(program).args([what, "--json", "--size", load.size, "--flows", &load.flows.to_string()]);
    command.args(["--seconds", &load.seconds.to_string(), "--tick", &load.tick.to_string()]);
    Ok(command)
}

fn output<T: DeserializeOwned>(command: &mut Command) -> Result<T> {
    serde_json::from_str(&command.text()?).context("the generator's report")
}

//! `cargo xtask bench line-rate`: the highest rates of all systems, what they deliver when they are offered more,
//! and what a packet costs.
//!
//! The systems take turns, round by round. In each turn and for each size:
//!
//! 1. Start, warm up, search NDR (no loss) and PDR (0.5 %).
//! 2. Offer 100, 150, 200 and 300 % of NDR.
//! 3. When all have had this: CPU time of the whole machine at the best peer's PDR, less the generator's own.

use anyhow::{Result, bail};
use clap::Args;

use super::figures::{Plot, Results};
use super::options::Common;
use super::samples::Samples;
use super::stand::{self, PDR_LOSS, SIZES, Stand};
use crate::lab;
use crate::lab::generator::{Search, Trial};
use crate::lab::system::System;
use crate::progress::Progress;

/// Offered loads, as a share of NDR in percent.
const OVERLOADS: [u64; 4] = [100, 150, 200, 300];
const LOSSES: [f64; 2] = [0.0, PDR_LOSS];
/// Less CPU time than this per second is within the error of the kernel's clock.
const LEAST_CPUS: f64 = 0.02;

/// Options of `cargo xtask bench line-rate`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Inner IP length in bytes, or imix; repeatable [default: all]
    #[arg(long = "size", value_name = "SIZE", value_parser = clap::builder::PossibleValuesParser::new(SIZES))]
    sizes: Vec<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

impl Options {
    /// Those of a part of `bench all`.
    pub fn of(common: &Common) -> Self {
        Self { sizes: Vec::new(), common: common.clone() }
    }
}

/// Lengths of trials in seconds, and how rates are searched.
struct Effort {
    rounds: u32,
    seconds: f64,
    /// Of a measurement of CPU time, whose clock is coarse.
    cpu_seconds: f64,
    search: Search<'static>,
}

impl Effort {
    fn new(options: &Options) -> Self {
        let search = Search { losses: &LOSSES, width: 0.05, repeats: 3, trials: 60 };
        if options.common.quick {
            let search = Search { repeats: 1, trials: 30, ..search };
            return Self { rounds: 1, seconds: 0.4, cpu_seconds: 1.0, search };
        }
        Self { rounds: options.common.rounds, seconds: 0.5, cpu_seconds: 3.0, search }
    }
}

/// Measures.
///
/// # Errors
/// The lab cannot be built, or the generator fails. A system that fails is a warning.
pub fn run(options: &Options, progress: Progress) -> Result<Results> {
    let mut results = Results::default();
    let mut samples = Samples::default();
    let mut stand = Stand::build(&options.common.names(), lab::Options::default(), progress, &mut results)?;
    let effort = Effort::new(options);
    let sizes = stand::sizes(&options.sizes, options.common.quick);
    let ceiling = |size: &String| {
        let search = Search { losses: &LOSSES[1..], ..effort.search };
        stand.ceiling(stand.load(size, effort.seconds), search, &mut samples)
    };
    let ceilings = sizes.iter().map(ceiling).collect::<Result<Vec<_>>>()?;
    stand.sweep_null(options.common.quick);

    for round in 1..=effort.rounds {
        for (size, ceiling) in sizes.iter().zip(&ceilings) {
            progress.step(format!("round {round} of {}, {size}", effort.rounds));
            let turn = Turn { stand: &stand, effort: &effort, size, ceiling: *ceiling, progress };
            turn.all(&mut samples, &mut results.warnings)?;
        }
    }
    samples.add_to(&mut results);
    Ok(results)
}

/// One round with one size.
struct Turn<'a> {
    stand: &'a Stand,
    effort: &'a Effort,
    size: &'a str,
    ceiling: u64,
    progress: Progress,
}

impl Turn<'_> {
    fn all(&self, samples: &mut Samples, warnings: &mut Vec<String>) -> Result<()> {
        let mut carried = Vec::new();
        for system in &self.stand.systems {
            match self.rates(system, samples, warnings) {
                Ok(pdr) => carried.push((system, pdr)),
                Err(error) => self.warn(warnings, format!("not measured at {}: {error:#}", self.size)),
            }
        }
        let peers = carried.iter().filter(|(system, _)| stand::is_peer(system));
        let Some(pps) = peers.map(|(_, pdr)| *pdr).max().filter(|pps| *pps > 0) else { return Ok(()) };
        let load = self.stand.load(self.size, self.effort.cpu_seconds);
        let baseline = self.stand.baseline(load, pps)?;
        samples.add("generator", "cpu at the best peer's pdr", self.size, "CPUs", baseline);
        for (system, _) in carried.iter().filter(|(_, pdr)| *pdr >= pps) {
            if let Err(error) = self.cost(system, pps, baseline, samples) {
                self.warn(warnings, format!("no CPU time at {}: {error:#}", self.size));
            }
        }
        Ok(())
    }

    /// Searches, and offers more; returns PDR in packets per second.
    fn rates(&self, system: &System, samples: &mut Samples, warnings: &mut Vec<String>) -> Result<u64> {
        let (name, size) = (system.name(), self.size);
        let load = self.stand.load(size, self.effort.seconds);
        let generator = self.stand.generator();
        self.stand.with(system, |running| {
            let before = self.stand.slave_bytes()?;
            let report = generator.search(load, self.effort.search, self.ceiling)?;
            for (measure, rate) in ["ndr", "pdr"].into_iter().zip(&report.goals) {
                samples.add(&name, measure, size, "packets/s", rate.pps as f64);
                warnings.extend(stand::doubts(system, measure, size, rate, self.ceiling));
            }
            let [ndr, pdr] = [0, 1].map(|goal| report.goals.get(goal).map_or(0, |rate| rate.pps));
            let at_pdr = report.goals.get(1).and_then(|rate| rate.trial.as_ref());
            if let Some(trial @ Trial { reordered, reordering_extent, .. }) = at_pdr {
                samples.add(&name, "reordered at pdr", size, "packets", *reordered as f64);
                samples.add(&name, "reordering extent at pdr", size, "packets", *reordering_extent as f64);
                samples.add(&name, "displaced at pdr", size, "%", 100.0 * trial.displaced());
            }
            self.progress.step(format!("  {name}: ndr {ndr}, pdr {pdr} packets/s, {} trials", report.trials));

            let mut points = vec![[0.0, 0.0]];
            // Without a rate that loses nothing there is still one that loses little.
            let base = if ndr > 0 { ndr } else { pdr };
            if ndr == 0 {
                warnings
                    .push(format!("{name} at {size}: no rate without loss: it is offered shares of its pdr"));
            }
            for percent in OVERLOADS {
                let trial = generator.offer(load, base * percent / 100)?;
                let sent = trial.sent as f64 / load.seconds;
                samples.add(
                    &name,
                    &format!("delivered at {percent} % of ndr"),
                    size,
                    "packets/s",
                    trial.delivered_pps as f64,
                );
                if trial.sent * 20 < trial.offered * 19 {
                    warnings
                        .push(format!("{name} at {size}: the generator could not send {percent} % of ndr"));
                }
                points.push([sent, trial.delivered_pps as f64]);
            }
            samples.curve(&name, Plot::Load, size, points);
            self.slaves(&name, &before, samples)?;
            if let Some(kib) = running.peak_kib()? {
                samples.add(&name, "peak memory of both gateways", size, "MiB", kib as f64 / 1024.0);
            }
            Ok(pdr)
        })
    }

    fn slaves(&self, name: &str, before: &[u64], samples: &mut Samples) -> Result<()> {
        let bytes = self.stand.slave_bytes()?;
        let bytes = (0..).zip(bytes.iter().zip(before));
        let points = bytes.map(|(slave, (now, before))| [f64::from(slave), (now - before) as f64]);
        samples.curve(name, Plot::Slaves, self.size, points.collect());
        Ok(())
    }

    /// CPU time at a rate that all of them carry.
    fn cost(&self, system: &System, pps: u64, baseline: f64, samples: &mut Samples) -> Result<()> {
        let (name, size) = (system.name(), self.size);
        let load = self.stand.load(size, self.effort.cpu_seconds);
        let trial = self.stand.with(system, |_| self.stand.generator().offer(load, pps))?;
        let cpus = |seconds: f64| seconds / load.seconds;
        let own = cpus(trial.cpu.busy) - baseline;
        for (kind, seconds) in
            [("user", trial.cpu.user), ("system", trial.cpu.system), ("softirq", trial.cpu.softirq)]
        {
            let measure = format!("cpu at the best peer's pdr with the generator's: {kind}");
            samples.add(&name, &measure, size, "CPUs", cpus(seconds));
        }
        if own > LEAST_CPUS {
            samples.add(&name, "cpu at the best peer's pdr", size, "CPUs", own);
            let packets = trial.delivered_pps as f64 / own;
            samples.add(&name, "packets per CPU-second", size, "packets/CPU-second", packets);
            self.progress.step(format!("  {name}: {packets:.0} packets/CPU-second at {pps} packets/s"));
            return Ok(());
        }
        bail!("{name} took hardly more than the generator does alone: other programs kept the machine busy")
    }

    fn warn(&self, warnings: &mut Vec<String>, warning: String) {
        self.progress.step(&warning);
        warnings.push(warning);
    }
}

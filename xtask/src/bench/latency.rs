//! `cargo xtask bench latency`: one-way latency of all systems, each at shares of its own PDR, and all of them at
//! half of the best peer's.

use anyhow::{Result, ensure};
use clap::Args;

use super::figures::{Plot, Results};
use super::options::Common;
use super::samples::Samples;
use super::stand::{self, PDR_LOSS, SIZES, Stand};
use crate::lab;
use crate::lab::generator::{Load, Search, Trial};
use crate::lab::system::System;
use crate::progress::Progress;

/// Loads, as a share of the system's own PDR in percent.
const LOADS: [u64; 3] = [10, 50, 90];
/// The load whose curve is drawn, and that of the comparison.
const HALF: u64 = 50;
/// Microseconds between wakeups of the generator: its bursts are not to be what is measured.
const TICK: u32 = 100;
/// A generator that was this late shows in the figures, in microseconds.
const LATE: f64 = 200.0;

/// Options of `cargo xtask bench latency`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Inner IP length in bytes, or imix; repeatable [default: 46, 1420 and imix]
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

    fn sizes(&self) -> Vec<String> {
        if self.sizes.is_empty() && self.common.quick {
            return vec!["46".to_owned()];
        }
        stand::sizes(&self.sizes, true)
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
    let (rounds, seconds) = if options.common.quick { (1, 1.0) } else { (options.common.rounds, 3.0) };
    let search = Search { losses: &[PDR_LOSS], width: 0.1, repeats: 1, trials: 20 };
    let sizes = options.sizes();
    let ceiling = |size: &String| stand.ceiling(stand.load(size, 0.4), search, &mut samples);
    let ceilings = sizes.iter().map(ceiling).collect::<Result<Vec<_>>>()?;
    stand.sweep_null(options.common.quick);

    for round in 1..=rounds {
        for (size, ceiling) in sizes.iter().zip(&ceilings) {
            progress.step(format!("round {round} of {rounds}, {size}"));
            let mut turn = Turn { stand: &stand, search, size, seconds, progress, warnings: Vec::new() };
            turn.all(*ceiling, &mut samples);
            results.warnings.extend(turn.warnings);
        }
    }
    samples.add_to(&mut results);
    Ok(results)
}

/// One round with one size.
struct Turn<'a> {
    stand: &'a Stand,
    search: Search<'static>,
    size: &'a str,
    seconds: f64,
    progress: Progress,
    warnings: Vec<String>,
}

impl Turn<'_> {
    fn all(&mut self, ceiling: u64, samples: &mut Samples) {
        let mut carried = Vec::new();
        for system in &self.stand.systems {
            match self.at_own_loads(system, ceiling, samples) {
                Ok(pdr) => carried.push((system, pdr)),
                Err(error) => self.warn(format!("not measured at {}: {error:#}", self.size)),
            }
        }
        let peers = carried.iter().filter(|(system, _)| stand::is_peer(system));
        let Some(pdr) = peers.map(|(_, pdr)| *pdr).max().filter(|pdr| *pdr > 0) else { return };
        let pps = pdr * HALF / 100;
        for (system, _) in carried.iter().filter(|(_, pdr)| *pdr >= pps) {
            let offer = || self.stand.with(system, |_| self.stand.generator().offer(self.load(), pps));
            match offer() {
                Ok(trial) => {
                    self.note(system, &format!("at {HALF} % of the best peer's pdr"), &trial, samples);
                }
                Err(error) => self.warn(format!("no latency at {}: {error:#}", self.size)),
            }
        }
    }

    /// Searches PDR, and offers shares of it; returns it in packets per second.
    fn at_own_loads(&mut self, system: &System, ceiling: u64, samples: &mut Samples) -> Result<u64> {
        let generator = self.stand.generator();
        let (pdr, doubts, trials) = self.stand.with(system, |_| {
            let report = generator.search(self.stand.load(self.size, 0.4), self.search, ceiling)?;
            let pdr = report.goals.first().map_or(0, |rate| rate.pps);
            ensure!(pdr > 0, "it carries no rate");
            let offers =
                LOADS.map(|percent| Ok((percent, generator.offer(self.load(), pdr * percent / 100)?)));
            let doubt = |rate| stand::doubts(system, "pdr", self.size, rate, ceiling);
            let doubts: Vec<_> = report.goals.first().map(doubt).into_iter().flatten().collect();
            Ok((pdr, doubts, offers.into_iter().collect::<Result<Vec<_>>>()?))
        })?;
        self.warnings.extend(doubts);
        for (percent, trial) in trials {
            self.note(system, &format!("at {percent} % of pdr"), &trial, samples);
            if percent == HALF {
                samples.curve(&system.name(), Plot::Latency, self.size, trial.latency.curve);
            }
        }
        Ok(pdr)
    }

    fn load(&self) -> Load<'_> {
        Load { tick: TICK, ..self.stand.load(self.size, self.seconds) }
    }

    fn note(&mut self, system: &System, load: &str, trial: &Trial, samples: &mut Samples) {
        let name = system.name();
        if trial.received == 0 {
            return self.warn(format!("{name} {load} at {}: nothing arrived", self.size));
        }
        let (latency, lateness) = (&trial.latency, &trial.lateness);
        for (percentile, time) in [("p50", latency.p50), ("p99", latency.p99), ("p99.9", latency.p99_9)] {
            samples.add(&name, &format!("latency {percentile} {load}"), self.size, "us", time);
        }
        self.progress.step(format!(
            "  {name} {load}, {} packets/s: p50 {:.0} us, p99 {:.0} us, p99.9 {:.0} us",
            trial.pps, latency.p50, latency.p99, latency.p99_9
        ));
        if lateness.p99 > LATE {
            self.warnings.push(format!(
                "{name} {load} at {}: the generator itself was late, by more than {LATE:.0} us at p99",
                self.size
            ));
        }
        if trial.loss > PDR_LOSS {
            self.warnings
                .push(format!("{name} {load} at {}: packets were lost, which have no latency", self.size));
        }
    }

    fn warn(&mut self, warning: String) {
        self.progress.step(&warning);
        self.warnings.push(warning);
    }
}

//! What is found, as JSON objects and as text.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::cpu::CpuSeconds;
use crate::search::Bounds;
use crate::trial::Measured;

/// The percentiles of a latency curve.
const PERCENTILES: [f64; 16] =
    [0.0, 5.0, 10.0, 25.0, 50.0, 75.0, 80.0, 85.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.99, 100.0];

/// The result of a search.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Length of the IP packets in bytes, or imix.
    pub size: String,
    /// Number of flows.
    pub flows: u16,
    /// The highest rate of generator and sink over a plain veth pair.
    pub ceiling_pps: u64,
    /// How many trials it took.
    pub trials: usize,
    /// One for each loss that was allowed.
    pub goals: Vec<Goal>,
}

/// The highest rate with so much loss.
#[derive(Debug, Serialize)]
pub struct Goal {
    /// Greatest share of packets lost, from 0 to 1.
    pub loss_limit: f64,
    /// The highest rate in packets per second that is known to be good; 0 when there is none.
    pub pps: u64,
    /// The lowest rate that is known to be bad.
    pub upper_pps: Option<u64>,
    /// The trials were enough to get as near as asked.
    pub complete: bool,
    /// The ceiling is too near for the rate to be the gateway's, or what failed above it is the generator alone.
    pub generator_bound: bool,
    /// The last and longest good trial at that rate.
    pub trial: Option<Observed>,
}

/// What became of the packets of one trial.
#[derive(Clone, Debug, Serialize)]
pub struct Observed {
    /// The rate that was offered, in packets per second.
    pub pps: u64,
    /// Its length.
    pub seconds: f64,
    /// Packets that were to be sent.
    pub offered: u64,
    /// Packets sent.
    pub sent: u64,
    /// Packets that arrived.
    pub received: u64,
    /// The rate that arrived, in packets per second.
    pub delivered_pps: u64,
    /// The share of packets lost, from 0 to 1.
    pub loss: f64,
    /// Packets that arrived after a later one of their flow (RFC 4737).
    pub reordered: u64,
    /// Most packets of a flow that overtook one.
    pub reordering_extent: u64,
    /// How many packets arrived by so many places early (below 0) or late (above 0) in their flow (RFC 5236).
    pub reorder_density: BTreeMap<i64, u64>,
    /// Packets that arrived more than once.
    pub duplicates: u64,
    /// Packets that the sink lost, not the gateway.
    pub sink_lost: u64,
    /// One-way latency from the time when a packet was to be sent.
    pub latency: Latency,
    /// How much later than that packets were sent: part of their latency.
    pub lateness: Latency,
    /// CPU time of the whole machine meanwhile.
    pub cpu: CpuSeconds,
}

/// A distribution of times in microseconds.
#[derive(Clone, Debug, Serialize)]
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

impl Report {
    /// The highest rate of all goals.
    pub fn highest(&self) -> u64 {
        self.goals.iter().map(|goal| goal.pps).max().unwrap_or_default()
    }

    /// Lines of text.
    pub fn text(&self) -> String {
        let head = format!(
            "{} bytes in {} flows, {} trials, ceiling {} pps\n",
            self.size, self.flows, self.trials, self.ceiling_pps
        );
        head + &self.goals.iter().map(Goal::text).collect::<String>()
    }
}

impl Goal {
    /// Of the trials, the last good one at the lower bound is what it stands for.
    pub fn new(loss_limit: f64, bounds: Bounds, trials: &[Observed]) -> Self {
        let good = trials.iter().rev().find(|trial| trial.pps == bounds.lower && trial.loss <= loss_limit);
        let above = trials.iter().filter(|trial| Some(trial.pps) == bounds.upper);
        let mut failed = above.filter(|trial| trial.loss > loss_limit || !trial.was_offered()).peekable();
        Self {
            loss_limit,
            pps: bounds.lower,
            upper_pps: bounds.upper,
            complete: bounds.complete,
            generator_bound: failed.peek().is_some() && failed.all(|trial| trial.loss <= loss_limit),
            trial: good.cloned(),
        }
    }

    fn text(&self) -> String {
        let upper = self.upper_pps.map_or("not reached".to_owned(), |pps| pps.to_string());
        let notes =
            [(!self.complete, ": too few trials to be sure"), (self.generator_bound, ": generator-bound")];
        let notes: String = notes.iter().filter(|(applies, _)| *applies).map(|(_, note)| *note).collect();
        let head =
            format!("loss up to {} %: {} pps, limit {upper}{notes}\n", 100.0 * self.loss_limit, self.pps);
        head + &self.trial.as_ref().map(Observed::text).unwrap_or_default()
    }
}

impl Observed {
    /// Of one trial.
    pub fn new(pps: u64, duration: Duration, measured: &Measured) -> Self {
        let account = &measured.account;
        Self {
            pps,
            seconds: duration.as_secs_f64(),
            offered: measured.offered,
            sent: measured.sent,
            received: account.received,
            delivered_pps: account.received * 1_000_000 / (duration.as_micros() as u64).max(1),
            loss: measured.loss(),
            reordered: account.reordered,
            reordering_extent: account.extent,
            reorder_density: account.density(),
            duplicates: account.duplicates,
            sink_lost: measured.sink_lost,
            latency: Latency::new(&measured.latency),
            lateness: Latency::new(&measured.lateness),
            cpu: measured.cpu,
        }
    }

    /// Whether the generator kept the rate up, less half a percent.
    pub fn was_offered(&self) -> bool {
        self.sent as f64 >= 0.995 * self.offered as f64
    }

    /// One line.
    pub fn line(&self) -> String {
        let late = if self.sent < self.offered { ", the generator did not keep up" } else { "" };
        format!(
            "{:>8} pps for {:.2} s: {:.3} % lost, {} in the sink{late}",
            self.pps,
            self.seconds,
            100.0 * self.loss,
            self.sink_lost
        )
    }

    /// Lines of text.
    pub fn text(&self) -> String {
        let times = |name, latency: &Latency| {
            let Latency { p50, p99, p99_9, .. } = latency;
            format!("  {name} p50 {p50:.0} us, p99 {p99:.0} us, p99.9 {p99_9:.0} us\n")
        };
        let density: Vec<_> =
            self.reorder_density.iter().map(|(by, count)| format!("{by:+}: {count}")).collect();
        format!(
            "  sent {} of {}, received {}, loss {:.3} %\n  reordered {} (by {} at most), duplicates {}\n  \
             packets by displacement {}\n{}{}",
            self.sent,
            self.offered,
            self.received,
            100.0 * self.loss,
            self.reordered,
            self.reordering_extent,
            self.duplicates,
            density.join(", "),
            times("latency", &self.latency),
            times("generator late by", &self.lateness),
        )
    }
}

impl Latency {
    /// Of a distribution in nanoseconds.
    fn new(nanoseconds: &Histogram<u64>) -> Self {
        let at = |percentile: f64| nanoseconds.value_at_percentile(percentile) as f64 / 1000.0;
        Self {
            p50: at(50.0),
            p99: at(99.0),
            p99_9: at(99.9),
            curve: PERCENTILES.map(|percentile| [percentile, at(percentile)]).to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::Account;

    /// Of a trial at this rate in which so many packets were sent of a thousand.
    fn observed(pps: u64, sent: u64, received: u32) -> Observed {
        let mut account = Account::new(1);
        for sequence in 0..received {
            account.arrive(0, sequence);
        }
        let (latency, lateness) = (Histogram::new(3).expect("valid"), Histogram::new(3).expect("valid"));
        let cpu = CpuSeconds::default();
        let measured = Measured { offered: 1000, sent, account, latency, lateness, sink_lost: 0, cpu };
        Observed::new(pps, Duration::from_secs(1), &measured)
    }

    #[test]
    fn a_rate_is_the_generators_when_only_that_failed_above_it() {
        let bounds = Bounds { lower: 900, upper: Some(950), complete: true };
        let good = observed(900, 1000, 1000);
        let bound = |above: &[Observed]| {
            let goal = Goal::new(0.005, bounds, &[std::slice::from_ref(&good), above].concat());
            assert_eq!(goal.trial.map(|trial| trial.received), Some(1000));
            goal.generator_bound
        };
        let (late, lossy) = (observed(950, 900, 900), observed(950, 1000, 900));
        assert!(bound(&[late.clone(), late.clone()]));
        assert!(!bound(&[late, lossy.clone()]));
        assert!(!bound(&[lossy]));
    }
}

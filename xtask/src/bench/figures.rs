//! What benchmarks find, as it stands in their tables, `--json` files and reports.

use serde::{Deserialize, Serialize};

/// All that one run found.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Results {
    /// Single numbers.
    pub figures: Vec<Figure>,
    /// Numbers along an axis.
    pub curves: Vec<Curve>,
    /// What makes the figures untrue, or less true than they look: too few cores, noise, a generator at its limit.
    pub warnings: Vec<String>,
}

/// One measure of one system.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Figure {
    /// The system measured, `forwarder` or a peer, `null` or `kernel ip_forward`.
    pub system: String,
    /// What is measured: `pdr`, `ndr`, `tcp`, `latency p99 at 50 % of pdr`, ...
    pub measure: String,
    /// Inner IP length in bytes, `imix`, or a number of flows.
    pub size: String,
    /// Its unit: `packets/s`, `us`, `Mbit/s`, `packets/CPU-second`, ...
    pub unit: String,
    /// The median of all repetitions.
    pub median: f64,
    /// The lowest and the highest repetition.
    pub spread: [f64; 2],
    /// How many repetitions.
    pub samples: usize,
}

impl Results {
    /// Adds what another run found.
    pub fn add(&mut self, other: Self) {
        self.figures.extend(other.figures);
        self.curves.extend(other.curves);
        self.warnings.extend(other.warnings);
    }
}

/// A line in one of the report's plots.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Curve {
    /// The system measured.
    pub system: String,
    /// Which plot it belongs to.
    pub plot: Plot,
    /// Inner IP length in bytes, or `imix`.
    pub size: String,
    /// Points from left to right.
    pub points: Vec<[f64; 2]>,
}

/// A plot, and what its axes are.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plot {
    /// Percentile, from 0 to 100, against one-way latency in microseconds at 50 % of the system's PDR.
    Latency,
    /// Offered against delivered packets per second.
    Load,
    /// Slave, from 0, against bytes that it carried.
    Slaves,
}

impl Figure {
    /// The figure of repetitions; `None` without any.
    pub fn of(system: &str, measure: &str, size: &str, unit: &str, mut samples: Vec<f64>) -> Option<Self> {
        samples.sort_by(f64::total_cmp);
        let (low, high) = (*samples.first()?, *samples.last()?);
        let half = samples.len() / 2;
        let median = if samples.len() % 2 == 1 {
            samples[half]
        } else {
            f64::midpoint(samples[half - 1], samples[half])
        };
        Some(Self {
            system: system.to_owned(),
            measure: measure.to_owned(),
            size: size.to_owned(),
            unit: unit.to_owned(),
            median,
            spread: [low, high],
            samples: samples.len(),
        })
    }

    /// The farthest that a repetition lies from the median, as a share of it.
    pub fn deviation(&self) -> f64 {
        let farthest = self.spread.map(|end| (end - self.median).abs()).into_iter().fold(0.0, f64::max);
        if self.median == 0.0 { farthest.min(1.0) } else { farthest / self.median.abs() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_and_the_spread() {
        let figure = |samples: &[f64]| Figure::of("null", "pdr", "46", "packets/s", samples.to_vec());
        assert_eq!(figure(&[]), None);
        let odd = figure(&[3.0, 1.0, 2.0]).expect("there are samples");
        assert!((odd.median, odd.spread, odd.samples) == (2.0, [1.0, 3.0], 3));
        assert!((figure(&[4.0, 1.0]).expect("there are samples").median - 2.5).abs() < 1e-9);
        assert!((odd.deviation() - 0.5).abs() < 1e-9);
    }
}

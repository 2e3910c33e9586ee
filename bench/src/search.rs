//! The search for the highest rates that lose no more than they may, in the manner of `MLRsearch`
//! (draft-ietf-bmwg-mlrsearch): one search serves several goals, short trials narrow the range down, and longer
//! ones decide.
//!
//! A goal's *lower bound* is the highest rate that is known to be good below its *upper bound*, the lowest rate
//! known to be bad. A phase ends when these are no further apart than its width.

#![expect(clippy::cast_sign_loss, reason = "rates are positive")]

use std::time::Duration;

/// Each phase has trials twice as long as those before, and half the width.
const PHASES: u32 = 3;

/// How a search is done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Greatest share of packets that may be lost, from 0 to 1, of each goal.
    pub goals: Vec<f64>,
    /// Packets per second: lowest and highest rate.
    pub range: [u64; 2],
    /// Upper over lower bound, less one, at the end.
    pub width: f64,
    /// Length of the trials that decide.
    pub longest: Duration,
    /// How many of those may be needed for one rate; more than half of them decide.
    pub repeats: u32,
    /// Most trials.
    pub trials: usize,
}

/// What a trial found.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Share of packets lost, from 0 to 1; 1 when the rate was not offered.
    pub loss: f64,
    /// Packets per second that arrived.
    pub delivered: u64,
}

/// What is known of a goal at the end. Rates are in packets per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The highest rate that is good; 0 if none is.
    pub lower: u64,
    /// The lowest rate that is bad; `None` if none is.
    pub upper: Option<u64>,
    /// The trials were enough to get as near as asked, with the longest ones.
    pub complete: bool,
}

#[derive(Clone, Copy, Debug)]
struct Trial {
    rate: u64,
    duration: Duration,
    loss: f64,
}

/// Trials of one length, and how near they get.
#[derive(Clone, Copy, Debug)]
struct Phase {
    duration: Duration,
    width: f64,
    /// From an upper bound to where the lower one is looked for, as a factor.
    leap: f64,
    repeats: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Good,
    Bad,
    Undecided,
}

/// Searches all goals of the plan; returns their bounds in the same order.
///
/// # Errors
/// Those of `trial`.
pub fn search<E>(
    plan: &Plan,
    mut trial: impl FnMut(u64, Duration) -> Result<Outcome, E>,
) -> Result<Vec<Bounds>, E> {
    let mut log: Vec<Trial> = Vec::new();
    let mut found = vec![Bounds { lower: 0, upper: None, complete: false }; plan.goals.len()];
    // What comes through of too much is a good first guess of what can be carried.
    let mut guess = plan.range[1];
    for phase in plan.phases() {
        for (goal, bounds) in plan.goals.iter().zip(&mut found) {
            bounds.complete = false;
            let before = *bounds;
            loop {
                let known = bounds_of(&log, phase, *goal);
                let Some(rate) = next(plan, phase, known, before.hints(guess, phase)) else {
                    *bounds = Bounds { complete: true, ..known };
                    break;
                };
                if log.len() >= plan.trials {
                    // What longer trials have not refuted is what is known.
                    let refuted = known.upper.is_some_and(|upper| upper <= before.lower);
                    bounds.lower = if refuted { known.lower } else { known.lower.max(before.lower) };
                    bounds.upper = known.upper.or(before.upper.filter(|upper| *upper > bounds.lower));
                    break;
                }
                let outcome = trial(rate, phase.duration)?;
                if log.is_empty() {
                    guess = outcome.delivered.clamp(plan.range[0], plan.range[1]);
                }
                log.push(Trial { rate, duration: phase.duration, loss: outcome.loss });
            }
        }
    }
    Ok(found)
}

impl Plan {
    fn phases(&self) -> impl Iterator<Item = Phase> + '_ {
        (0..PHASES).rev().map(|left| {
            let width = self.width * f64::from(1 << left);
            Phase {
                duration: self.longest / (1 << left),
                width,
                leap: if left + 1 == PHASES { 2.0 } else { (1.0 + width) * (1.0 + width) },
                repeats: if left == 0 { self.repeats } else { 1 },
            }
        })
    }
}

impl Bounds {
    /// Where a phase that comes after these bounds looks first.
    fn hints(self, guess: u64, phase: Phase) -> Hints {
        let low = if self.lower == 0 { guess } else { self.lower };
        let high = self.upper.unwrap_or(guess);
        let near = high as f64 <= low as f64 * (1.0 + phase.width);
        Hints { low, first: if near { low } else { middle(low, high) }, high }
    }
}

/// Rates that were bounds before, and the one to begin with.
#[derive(Clone, Copy, Debug)]
struct Hints {
    low: u64,
    first: u64,
    high: u64,
}

fn middle(low: u64, high: u64) -> u64 {
    (low as f64 * high as f64).sqrt() as u64
}

fn bounds_of(log: &[Trial], phase: Phase, goal: f64) -> Bounds {
    let rates = || log.iter().map(|trial| trial.rate);
    let upper = rates().filter(|rate| class(log, phase, goal, *rate) == Class::Bad).min();
    let below = rates().filter(|rate| upper.is_none_or(|upper| *rate < upper));
    let lower = below.filter(|rate| class(log, phase, goal, *rate) == Class::Good).max();
    Bounds { lower: lower.unwrap_or(0), upper, complete: false }
}

/// More than half of the repeats decide, so that one disturbance does not.
fn class(log: &[Trial], phase: Phase, goal: f64, rate: u64) -> Class {
    let trials = || log.iter().filter(|trial| trial.rate == rate && trial.duration >= phase.duration);
    let good = trials().filter(|trial| trial.loss <= goal).count();
    let bad = trials().count() - good;
    let majority = phase.repeats as usize / 2 + 1;
    if good >= majority {
        Class::Good
    } else if bad >= majority {
        Class::Bad
    } else {
        Class::Undecided
    }
}

/// The rate to try next; `None` when the phase is over for this goal. A rate that is undecided comes again.
fn next(plan: &Plan, phase: Phase, known: Bounds, hints: Hints) -> Option<u64> {
    let [lowest, highest] = plan.range;
    let Bounds { lower, upper, .. } = known;
    let step = 1.0 + phase.width;
    let is_over = match upper {
        None => lower >= highest,
        Some(upper) if lower == 0 => upper <= lowest,
        Some(upper) => upper as f64 <= lower as f64 * step || upper <= lower + 1,
    };
    if is_over {
        return None;
    }
    let hints = [hints.first, hints.low, hints.high].map(|rate| rate.clamp(lowest, highest));
    let is_open = |rate: &u64| *rate > lower && upper.is_none_or(|upper| *rate < upper);
    let beyond = (lower as f64 * step * step) as u64 + 1;
    Some(hints.into_iter().find(is_open).unwrap_or(match upper {
        None => beyond.min(highest),
        Some(upper) if lower == 0 => ((upper as f64 / phase.leap) as u64).max(lowest),
        // The bounds may still be far apart; the truth is rather near the lower one, which was a hint.
        Some(upper) => middle(lower, upper).clamp(lower + 1, beyond),
    }))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const GOALS: [f64; 2] = [0.0, 0.005];

    fn plan() -> Plan {
        Plan {
            goals: GOALS.to_vec(),
            range: [1000, 4_000_000],
            width: 0.02,
            longest: Duration::from_secs(1),
            repeats: 3,
            trials: 200,
        }
    }

    /// A gateway that loses nothing up to `lossless` and delivers `most` at most.
    struct Gateway {
        lossless: f64,
        most: f64,
        noise: f64,
        random: u32,
        trials: Vec<(u64, Duration)>,
    }

    impl Gateway {
        fn new(lossless: f64, most: f64, noise: f64) -> Self {
            Self { lossless, most, noise, random: 1, trials: Vec::new() }
        }

        fn random(&mut self) -> f64 {
            self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(self.random >> 8) / f64::from(1 << 24)
        }

        fn trial(&mut self, rate: u64, duration: Duration) -> Outcome {
            self.trials.push((rate, duration));
            // Short trials are noisier.
            let noise = self.noise * (2.0 * self.random() - 1.0) / duration.as_secs_f64().sqrt();
            let (offered, scale) = (rate as f64, 1.0 + noise);
            // From the lossless rate to the highest, loss grows to 0.4 %.
            let beyond = (offered / scale - self.lossless) / (self.most - self.lossless);
            let slight = beyond.clamp(0.0, 1.0) * 0.004;
            let delivered = (offered * (1.0 - slight)).min(self.most * scale);
            Outcome { loss: 1.0 - delivered / offered, delivered: delivered as u64 }
        }

        fn search(&mut self, plan: &Plan) -> Vec<Bounds> {
            let Ok(bounds) = search(plan, |rate, duration| Ok::<_, Infallible>(self.trial(rate, duration)));
            bounds
        }
    }

    #[test]
    fn one_search_finds_both_rates() {
        for (lossless, most) in [(300_000.0, 500_000.0), (2_000.0, 3_000_000.0), (480_000.0, 500_000.0)] {
            let mut gateway = Gateway::new(lossless, most, 0.0);
            let found = gateway.search(&plan());
            for (bounds, truth) in found.iter().zip([lossless, most / 0.995]) {
                let upper = bounds.upper.expect("it is not endless") as f64;
                assert!(
                    bounds.complete && bounds.lower as f64 <= truth && truth <= upper,
                    "{truth}: {bounds:?}"
                );
                assert!(upper <= bounds.lower as f64 * 1.02, "{bounds:?}");
            }
            assert!(gateway.trials.len() < 36, "{} trials", gateway.trials.len());
        }
    }

    #[test]
    fn trials_grow_longer() {
        let mut gateway = Gateway::new(300_000.0, 500_000.0, 0.0);
        gateway.search(&plan());
        assert!(gateway.trials.is_sorted_by_key(|(_, duration)| *duration));
        assert_eq!(gateway.trials[0].1, Duration::from_millis(250));
        let longest = gateway.trials.iter().filter(|trial| trial.1 == Duration::from_secs(1)).count();
        assert!(longest <= 8, "{longest} long trials");
        assert!(gateway.trials.len() < 24, "{} trials", gateway.trials.len());
    }

    #[test]
    fn noise_moves_the_result_by_little() {
        for seed in 1..200 {
            let mut gateway = Gateway { random: seed * 77_777, ..Gateway::new(300_000.0, 500_000.0, 0.02) };
            let found = gateway.search(&plan());
            for (bounds, truth) in found.iter().zip([300_000.0, 500_000.0]) {
                let error = bounds.lower as f64 / truth - 1.0;
                assert!(bounds.complete && error.abs() < 0.05, "seed {seed}: {bounds:?}");
            }
        }
    }

    #[test]
    fn one_disturbance_does_not_decide() {
        for disturbed in 0..40 {
            let mut gateway = Gateway::new(500_000.0, 510_000.0, 0.0);
            let mut count = 0;
            let Ok(found) = search(&plan(), |rate, duration| {
                count += 1;
                let outcome = gateway.trial(rate, duration);
                let hit = count > 1 && count == disturbed;
                Ok::<_, Infallible>(if hit { Outcome { loss: 0.5, ..outcome } } else { outcome })
            });
            assert!(found[1].lower > 490_000, "disturbed at {disturbed}: {found:?}");
        }
    }

    #[test]
    fn the_ends_of_the_range_are_found() {
        let all = Gateway::new(5e6, 6e6, 0.0).search(&plan());
        assert_eq!(all[0], Bounds { lower: 4_000_000, upper: None, complete: true });
        let none = Gateway::new(10.0, 20.0, 0.0).search(&plan());
        assert_eq!(none[1], Bounds { lower: 0, upper: Some(1000), complete: true });
    }

    #[test]
    fn the_number_of_trials_is_bounded() {
        for trials in [1, 5, 9] {
            let mut gateway = Gateway::new(300_000.0, 500_000.0, 0.0);
            let found = gateway.search(&Plan { trials, ..plan() });
            assert_eq!(gateway.trials.len(), trials);
            assert!(!found[1].complete);
            assert!(found[1].lower <= 500_000);
        }
    }
}

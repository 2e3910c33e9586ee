//! The search for the highest rate that passes, on a fixed ladder of rates.

const LOWEST: f64 = 1000.0;
const STEP: f64 = 1.05;
/// The highest rung is 5.1 million packets a second.
const RUNGS: usize = 176;
/// Trials that must pass at the rate that is reported, beyond the one that found it.
const CONFIRMATIONS: usize = 2;

/// Packets per second at a rung.
pub fn rate(rung: usize) -> u64 {
    (LOWEST * STEP.powi(rung as i32)).round() as u64
}

/// The highest rung at which `passes` holds, and holds again; `None` when it fails at the lowest.
/// A failed trial is repeated once, so that one disturbance does not decide.
///
/// # Errors
/// Those of `passes`.
pub fn search<E>(mut passes: impl FnMut(u64) -> Result<bool, E>) -> Result<Option<usize>, E> {
    let (mut passed, mut failed) = (None, RUNGS);
    while passed.map_or(0, |rung| rung + 1) < failed {
        let middle = usize::midpoint(passed.map_or(0, |rung| rung + 1), failed - 1);
        if passes(rate(middle))? || passes(rate(middle))? {
            passed = Some(middle);
        } else {
            failed = middle;
        }
    }
    while let Some(rung) = passed {
        let mut confirmed = 0;
        while confirmed < CONFIRMATIONS && passes(rate(rung))? {
            confirmed += 1;
        }
        if confirmed == CONFIRMATIONS {
            break;
        }
        passed = rung.checked_sub(1);
    }
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    fn found(mut passes: impl FnMut(u64) -> bool) -> Option<u64> {
        let Ok(rung) = search(|rate| Ok::<_, Infallible>(passes(rate)));
        rung.map(rate)
    }

    #[test]
    fn finds_the_highest_rate_that_passes() {
        for rung in [0, 1, 87, RUNGS - 1] {
            assert_eq!(found(|pps| pps <= rate(rung)), Some(rate(rung)));
        }
        assert_eq!(found(|_| false), None);
    }

    #[test]
    fn one_disturbance_does_not_decide() {
        let mut trials = 0;
        let found = found(|pps| {
            trials += 1;
            trials != 1 && pps <= rate(120)
        });
        assert_eq!(found, Some(rate(120)));
    }

    #[test]
    fn a_rate_that_passed_by_luck_is_not_reported() {
        let mut lucky = true;
        let found = found(|pps| pps <= rate(50) || (pps == rate(51) && std::mem::take(&mut lucky)));
        assert_eq!(found, Some(rate(50)));
    }
}

//! The protocol on simulated networks; and each property on a gateway that has a bug.

use sim::campaign::run_all;
use sim::{Bug, run};

/// An hour each: some 45 ms of a core, most of it Curve25519.
const SEEDS: u64 = 2000;
/// Every planted bug shows within as many seeds.
const ENOUGH: u64 = 200;

#[test]
fn what_must_hold_does() {
    let outcome = run_all(0..SEEDS, None, |_| {});
    if let Some((seed, violation)) = outcome.failure {
        panic!("seed {seed}: {violation}\nagain: cargo xtask sim --seeds 1 --seed {seed}");
    }
    let total = outcome.total;
    assert_eq!(outcome.seeds, SEEDS);
    assert!(total.time.as_secs() >= SEEDS * 3600 && total.rekeys >= SEEDS * 10, "{total:?}");
    for often in [total.delivered, total.replays, total.restarts, total.sleeps, total.clock_steps] {
        assert!(often >= SEEDS, "too little happens: {total:?}");
    }
    assert!(total.rebindings > 0, "{total:?}");
}

/// A bug may well violate other properties, too.
#[test]
fn every_planted_bug_violates_its_property() {
    for bug in Bug::ALL {
        let shows = |seed| run(seed, Some(bug)).is_err_and(|violation| violation.property == bug.violates());
        let seed = (0..ENOUGH).find(|seed| shows(*seed));
        println!("{bug:?} violates {:?}: seed {seed:?}", bug.violates());
        assert!(seed.is_some(), "{ENOUGH} seeds do not show that {bug:?} violates {:?}", bug.violates());
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    for seed in 0..4 {
        assert_eq!(run(seed, None).ok(), run(seed, None).ok());
    }
    assert_ne!(run(0, None).ok(), run(1, None).ok());
}

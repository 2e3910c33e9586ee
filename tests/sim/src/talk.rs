//! Who has something to say on a link, and for how long.

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::plan::Plan;

/// A link's present phase.
#[derive(Clone, Copy, Default)]
pub struct Talk {
    /// Which sides send.
    pub speaks: [bool; 2],
    /// Phases so far: what was planned for an earlier one is stale.
    pub phase: u32,
}

impl Talk {
    /// The next phase, and how long it takes.
    pub fn next(self, plan: &Plan, rng: &mut StdRng) -> (Self, Duration) {
        let spoke = self.speaks != [false; 2];
        let speaks = match rng.random_range(0..4) {
            _ if spoke && rng.random_bool(0.7) => [false; 2],
            0 if plan.one_way() => [true, false],
            1 if plan.one_way() => [false, true],
            _ => [true; 2],
        };
        let seconds = match (speaks, rng.random_range(0..10)) {
            ([false, false], 0) => rng.random_range(500.0..1000.0),
            ([false, false], 1..5) => rng.random_range(110.0..190.0),
            ([false, false], _) => rng.random_range(2.0..110.0),
            (_, 0) => rng.random_range(100.0..600.0),
            _ => rng.random_range(10.0..100.0),
        };
        (Self { speaks, phase: self.phase + 1 }, Duration::from_secs_f64(seconds))
    }

    /// The pause after a packet. While data has to prove that it flows, it comes often.
    pub fn pause(proving: bool, rng: &mut StdRng) -> Duration {
        Duration::from_secs_f64(if proving { rng.random_range(0.2..1.0) } else { rng.random_range(0.2..5.0) })
    }
}

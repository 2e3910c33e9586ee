//! Many seeds, on all cores.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use crate::{Bug, Summary, Violation, run};

/// What a campaign found.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Seeds that were run.
    pub seeds: u64,
    /// All their summaries, added up.
    pub total: Summary,
    /// The least seed at which something did not hold, of those that were run.
    pub failure: Option<(u64, Violation)>,
}

/// Runs the seeds on all cores until one fails. `progress` hears now and then how many are done.
pub fn run_all(seeds: Range<u64>, bug: Option<Bug>, progress: impl Fn(u64) + Sync) -> Outcome {
    let next = AtomicU64::new(seeds.start);
    let failed = AtomicBool::new(false);
    let work = || {
        let mut part = Outcome { seeds: 0, total: Summary::default(), failure: None };
        while !failed.load(Relaxed) && part.failure.is_none() {
            let seed = next.fetch_add(1, Relaxed);
            if !seeds.contains(&seed) {
                break;
            }
            match run(seed, bug) {
                Ok(summary) => part.total = part.total.plus(summary),
                Err(violation) => {
                    part.failure = Some((seed, violation));
                    failed.store(true, Relaxed);
                }
            }
            part.seeds += 1;
            progress(seed - seeds.start + 1);
        }
        part
    };
    let cores = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let parts = threads.into_iter().map(|thread| thread.join().expect("a simulation does not panic"));
        parts.fold(Outcome { seeds: 0, total: Summary::default(), failure: None }, Outcome::plus)
    })
}

impl Outcome {
    fn plus(self, other: Self) -> Self {
        let failures = self.failure.into_iter().chain(other.failure);
        Self {
            seeds: self.seeds + other.seeds,
            total: self.total.plus(other.total),
            failure: failures.min_by_key(|(seed, _)| *seed),
        }
    }
}

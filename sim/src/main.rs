//! `cargo xtask sim`: many seeds, with progress; the first seed that fails is printed.

use std::ops::Range;
use std::process::ExitCode;

use clap::Parser;
use sim::campaign;

/// Simulates networks for the WireGuard protocol, a seed each
#[derive(Parser)]
struct Options {
    /// Number of seeds
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    let Options { seeds, seed } = Options::parse();
    let range: Range<u64> = seed..seed.saturating_add(seeds);
    let step = (seeds / 20).max(1);
    let outcome = campaign::run_all(range, None, |done| {
        if done % step == 0 {
            eprintln!("{done} of {seeds} seeds");
        }
    });
    println!("{outcome:#?}");
    match outcome.failure {
        None => ExitCode::SUCCESS,
        Some((seed, violation)) => {
            println!("seed {seed}: {violation}\nagain: cargo xtask sim --seeds 1 --seed {seed}");
            ExitCode::FAILURE
        }
    }
}

//! `cargo xtask sim`: many seeds, with progress; the first seed that fails is printed.

use std::process::ExitCode;

use clap::Parser;
use sim::{Summary, campaign};

/// Simulates networks for the WireGuard protocol, a seed each
#[derive(Parser)]
struct Options {
    /// Number of seeds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

fn main() -> ExitCode {
    let Options { seeds, seed } = Options::parse();
    let step = (seeds / 20).max(1);
    let outcome = campaign::run_all(seed..seed.saturating_add(seeds), None, |done| {
        if done % step == 0 {
            eprintln!("{done} of {seeds} seeds");
        }
    });
    let Summary { time, events, rekeys, delivered, replays, restarts, sleeps, rebindings, clock_steps } =
        outcome.total;
    println!(
        "{} seeds, {} h of virtual time, {events} events: {rekeys} rekeys, {delivered} packets delivered, \
         {replays} replays, {restarts} restarts, {sleeps} suspends, {rebindings} NAT rebindings, \
         {clock_steps} clock steps",
        outcome.seeds,
        time.as_secs() / 3600,
    );
    let Some((seed, violation)) = outcome.failure else { return ExitCode::SUCCESS };
    println!("{violation}\nseed {seed} failed; again: cargo xtask sim --seeds 1 --seed {seed}");
    ExitCode::FAILURE
}

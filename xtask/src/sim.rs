//! `cargo xtask sim`: the protocol on simulated networks, a seed each.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::progress::Progress;
use crate::{install, workspace};

/// Options of `cargo xtask sim`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Number of seeds
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// Builds the simulation with optimisation and runs it; fails at the first seed that does.
///
/// # Errors
/// Something is missing and cannot be installed, or the simulation cannot be run.
pub fn run(options: &Options) -> Result<ExitCode> {
    let progress = Progress::start();
    install::install(progress, install::BUILD)?;
    progress.step("building the simulation");
    workspace::build_release(&["sim"])?;
    progress.step(format!("{} seeds from {}", options.seeds, options.seed));
    let mut command = Command::new(workspace::program("release", "sim")?);
    command.args(["--seeds", &options.seeds.to_string(), "--seed", &options.seed.to_string()]);
    let status = command.status().context("cannot run the simulation")?;
    progress.step(if status.success() { "every property holds" } else { "a property does not hold" });
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

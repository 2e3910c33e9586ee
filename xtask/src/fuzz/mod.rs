//! `cargo xtask fuzz`: what `forwarder::fuzzing` promises, under libFuzzer.

mod coverage;
mod planted;

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{Run as _, exists};
use crate::progress::Progress;
use crate::{install, workspace};

/// What there is to fuzz.
const TARGETS: [&str; 6] = ["wire", "config", "uapi", "handshake", "pipeline", "aead"];

/// What to do.
#[derive(clap::Args)]
pub struct Options {
    /// Which targets; all of them if none is named
    #[arg(value_parser = TARGETS)]
    targets: Vec<String>,
    /// How long each of them runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Instead, plant bugs and see whether each target finds its own
    #[arg(long, conflicts_with = "seconds")]
    planted: bool,
    /// Instead, tell how much of the sources each target's corpus reaches
    #[arg(long, conflicts_with_all = ["seconds", "planted"])]
    coverage: bool,
}

/// Runs the targets, one after another. What they find joins the corpus.
///
/// # Errors
/// Something is missing and cannot be installed, an input breaks a promise, or a planted bug is not found.
pub fn run(options: &Options) -> Result<()> {
    if !exists("cargo-fuzz") {
        bail!("cargo-fuzz is missing: cargo install cargo-fuzz --locked");
    }
    let progress = Progress::start();
    install::install(progress, install::BUILD)?;
    install::install(progress, install::PLANTING)?;
    let named = options.targets.iter().map(String::as_str);
    let targets: Vec<&str> = if options.targets.is_empty() { TARGETS.to_vec() } else { named.collect() };
    for target in targets {
        if options.planted {
            planted::find(target)?;
        } else if options.coverage {
            coverage::report(target)?;
        } else {
            fuzz(target, options.seconds)?;
        }
    }
    Ok(())
}

/// Runs a target, then keeps of the corpus what it takes to reach all that it reaches.
fn fuzz(target: &str, seconds: u32) -> Result<()> {
    let time = format!("-max_total_time={seconds}");
    cargo_fuzz("run", target)
        .args(["--", &time, "-timeout=10"])
        .visibly()
        .with_context(|| format!("{target}: libFuzzer's words above name the input that breaks a promise"))?;
    cargo_fuzz("cmin", target).visibly()
}

/// Without a sanitizer, so that the stable toolchain will do. The unsafe code that is reached here has tests of its
/// own: the vector code of `aead/batch` with buffers at the edge of memory, `port/frame.rs` with any range.
fn cargo_fuzz(action: &str, target: &str) -> Command {
    let mut command = workspace::cargo();
    command.args(["fuzz", action, "--fuzz-dir", "tests/fuzz", "--sanitizer", "none", target]);
    command
}

//! `cargo xtask bench aead`: what sealing and opening cost, beside other implementations; and `constant-time`:
//! whether that shows secrets. They need no lab.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::command::Run as _;
use crate::progress::Progress;
use crate::{install, workspace};

/// Options of `cargo xtask bench aead` and `constant-time`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// `--json FILE`; for aead also `--grid`, or `--batch PACKETS` and `--size BYTES` (repeatable); for
    /// constant-time `--samples N`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds the `bench` package with all contenders, and measures what they cost.
///
/// # Errors
/// Something is missing and cannot be installed, it does not compile, or it fails.
pub fn run(options: &Options, progress: Progress) -> Result<()> {
    bench(&["--features", "aws-lc", "--", "aead"], options, progress)
}

/// Builds the `bench` package, and tests whether the time of the engines shows secrets.
///
/// # Errors
/// As [`run`]; or it does.
pub fn constant_time(options: &Options, progress: Progress) -> Result<()> {
    bench(&["--", "constant-time"], options, progress)
}

fn bench(what: &[&str], options: &Options, progress: Progress) -> Result<()> {
    install::install(progress, install::BUILD)?;
    let mut command = workspace::cargo();
    command.args(["run", "--release", "--locked", "--quiet", "-p", "bench"]);
    command.args(what).args(&options.arguments).visibly()
}

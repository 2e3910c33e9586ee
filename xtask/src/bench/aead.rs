//! `cargo xtask bench aead`: what sealing and opening cost, beside other implementations. It needs no lab.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::command::Run as _;
use crate::progress::Progress;
use crate::{install, workspace};

/// Options of `cargo xtask bench aead`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Options of the measurement: `--json FILE`, `--batch PACKETS` and `--size BYTES` (repeatable)
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds the `bench` package with all contenders, and runs it.
///
/// # Errors
/// Something is missing and cannot be installed, it does not compile, or it fails.
pub fn run(options: &Options, progress: Progress) -> Result<()> {
    install::install(progress, install::BUILD)?;
    let mut command = workspace::cargo();
    command.args(["run", "--release", "--locked", "--quiet", "-p", "bench", "--features", "aws-lc", "--"]);
    command.arg("aead").args(&options.arguments).visibly()
}

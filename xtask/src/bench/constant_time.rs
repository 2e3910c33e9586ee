//! `cargo xtask bench constant-time`: whether the time of the AEAD engines shows secrets. It needs no lab.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::command::Run as _;
use crate::progress::Progress;
use crate::{install, workspace};

/// Options of `cargo xtask bench constant-time`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// `--samples N`, `--engine ENGINE` (repeatable), `--json FILE`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Builds the `bench` package, and tests.
///
/// # Errors
/// It does not compile, or the time shows secrets, or a planted leak is not seen.
pub fn run(options: &Options, progress: Progress) -> Result<()> {
    install::install(progress, install::BUILD)?;
    let mut command = workspace::cargo();
    command.args(["run", "--release", "--locked", "--quiet", "-p", "bench", "--", "constant-time"]);
    command.args(&options.arguments).visibly()
}

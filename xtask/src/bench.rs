//! `cargo xtask bench`: measurements that need no lab.

use std::ffi::OsString;

use anyhow::Result;
use clap::Args;

use crate::command::Run as _;
use crate::workspace;

/// Options of `cargo xtask bench`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What to measure, and its options: `aead`, `aead --json FILE`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, default_value = "aead")]
    arguments: Vec<OsString>,
}

/// Builds the `bench` package with all contenders, and runs it.
///
/// # Errors
/// It does not compile, or fails.
pub fn run(options: &Options) -> Result<()> {
    let mut command = workspace::cargo();
    command.args(["run", "--release", "--locked", "--quiet", "-p", "bench", "--features", "aws-lc", "--"]);
    command.args(&options.arguments).visibly()
}

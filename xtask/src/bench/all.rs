//! `cargo xtask bench all`: every benchmark, one after another, and one report.

use anyhow::{Result, ensure};
use clap::Args;

use super::figures::Results;
use super::machine::Begun;
use super::report::Output;
use super::{aead, handshake, latency, line_rate, pipeline, stand, tcp};
use crate::lab;
use crate::progress::Progress;

/// Options of `cargo xtask bench all`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Fewer sizes, systems and repetitions, in less than ten minutes
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    output: Output,
    /// Only the part that needs root: everything is installed and built
    #[arg(long, hide = true)]
    pub(super) lab_only: bool,
}

/// Installs and builds what all parts need.
///
/// # Errors
/// It cannot be had here, or does not compile.
pub fn prepare(options: &Options, progress: Progress) -> Result<()> {
    lab::prepare(progress)?;
    stand::prepare(&stand::names(&[], options.quick), progress)?;
    handshake::prepare(progress)?;
    // The last to build the `bench` package, as it wants a feature of it.
    aead::prepare(progress)
}

/// Runs all parts and shows what they found. A part that fails does not take the others with it.
///
/// # Errors
/// A part failed, or a file cannot be written.
pub fn run(options: &Options, progress: Progress) -> Result<()> {
    let begun = Begun::now()?;
    let mut results = Results::default();
    let mut failed = Vec::new();
    for (name, part) in PARTS {
        progress.step(format!("bench {name}"));
        match part(options.quick, progress) {
            Ok(found) => results.add(found),
            Err(error) => {
                progress.step(format!("{name} failed: {error:#}"));
                results.warnings.push(format!("{name} was not measured: {error:#}"));
                failed.push(name);
            }
        }
    }
    options.output.show(begun, results)?;
    ensure!(failed.is_empty(), "not measured: {}", failed.join(", "));
    Ok(())
}

/// A part's name and what it runs, quickly or not.
type Part = (&'static str, fn(bool, Progress) -> Result<Results>);

const PARTS: [Part; 6] = [
    ("line-rate", |quick, progress| line_rate::run(&line_rate::Options::of(quick), progress)),
    ("latency", |quick, progress| latency::run(&latency::Options::of(quick), progress)),
    ("tcp", |quick, progress| tcp::run(&tcp::Options::of(quick, Some(tcp::Cable::Affordable)), progress)),
    ("pipeline", pipeline::measure),
    ("aead", |quick, progress| {
        aead::measure(if quick { &["--size", "64", "--size", "1424"] } else { &[] }, progress)
    }),
    ("handshake", |quick, progress| {
        let (rounds, seconds) = if quick { (1, 2) } else { (3, 5) };
        handshake::measure(handshake::Length { rounds, seconds }, &handshake::OTHERS, progress)
    }),
];

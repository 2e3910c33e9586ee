//! `cargo xtask bench all`: every benchmark, one after another, and one report.

use anyhow::{Result, ensure};

use super::figures::Results;
use super::options::Common;
use super::{aead, handshake, latency, line_rate, pipeline, stand, tcp};
use crate::lab;
use crate::progress::Progress;

/// Installs and builds what all parts need.
///
/// # Errors
/// It cannot be had here, or does not compile.
pub fn prepare(options: &Common, progress: Progress) -> Result<()> {
    lab::prepare(progress)?;
    stand::prepare(&options.names(), progress)?;
    handshake::prepare(progress)?;
    // The last to build the `bench` package, as it wants a feature of it.
    aead::prepare(progress)
}

/// Runs all parts and shows what they found. A part that fails does not take the others with it.
///
/// # Errors
/// A part failed, or a file cannot be written.
pub fn run(options: &Common, progress: Progress) -> Result<()> {
    let begun = options.output.begin()?;
    let mut results = Results::default();
    let mut failed = Vec::new();
    for (name, part) in PARTS {
        progress.step(format!("bench {name}"));
        match part(options, progress) {
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

/// A part's name and what it runs.
type Part = (&'static str, fn(&Common, Progress) -> Result<Results>);

const PARTS: [Part; 6] = [
    ("line-rate", |common, progress| line_rate::run(&line_rate::Options::of(common), progress)),
    ("latency", |common, progress| latency::run(&latency::Options::of(common), progress)),
    ("tcp", |common, progress| tcp::run(&tcp::Options::of(common, Some(tcp::Cable::Affordable)), progress)),
    ("pipeline", |common, progress| pipeline::measure(common.quick, progress)),
    ("aead", |common, progress| {
        aead::measure(if common.quick { &["--size", "64", "--size", "1424"] } else { &[] }, progress)
    }),
    ("handshake", |common, progress| {
        let (rounds, seconds) = if common.quick { (1, 2) } else { (common.rounds, 5) };
        handshake::measure(handshake::Length { rounds, seconds }, &handshake::OTHERS, progress)
    }),
];

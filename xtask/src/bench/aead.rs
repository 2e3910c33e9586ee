//! `cargo xtask bench aead`: what sealing and opening cost, beside other implementations. It needs no lab.

use std::process::Command;

use anyhow::Result;
use clap::Args;
use serde::Deserialize;

use super::figures::{Figure, Results};
use super::report::Output;
use super::rows;
use crate::command::Run as _;
use crate::progress::Progress;
use crate::{install, workspace};

/// Options of `cargo xtask bench aead`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Packets of a batch
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Bytes of a packet; repeatable [default: 64 to 1424, and IMIX]
    #[arg(long, value_name = "BYTES")]
    size: Vec<u16>,
    /// Instead, look for batches that ring does faster, among all of 1 to 64 packets and many lengths and mixes
    #[arg(long, conflicts_with_all = ["batch", "size", "json", "html"])]
    grid: bool,
    #[command(flatten)]
    output: Output,
}

/// A figure of `bench aead`.
#[derive(Debug, Deserialize)]
struct Row {
    engine: String,
    op: String,
    size: String,
    ns_per_packet: f64,
    spread: [f64; 2],
    runs: usize,
}

impl From<Row> for Figure {
    fn from(row: Row) -> Self {
        // Engines of our own, beside those that are libraries.
        let ours = row.engine.starts_with("avx");
        Self {
            system: if ours { format!("forwarder {}", row.engine) } else { row.engine },
            measure: format!("AEAD {}", row.op),
            size: row.size,
            unit: "ns/packet".to_owned(),
            median: row.ns_per_packet,
            spread: row.spread,
            samples: row.runs,
        }
    }
}

/// Builds the `bench` package with all contenders, measures and shows the figures.
///
/// # Errors
/// Something is missing and cannot be installed, it does not compile, or an engine computes wrong results.
pub fn run(options: &Options, progress: Progress) -> Result<()> {
    prepare(progress)?;
    if options.grid {
        return Command::new(workspace::program("release", "bench")?).args(["aead", "--grid"]).visibly();
    }
    let begun = options.output.begin()?;
    let batch = options.batch.to_string();
    let sizes: Vec<_> = options.size.iter().map(u16::to_string).collect();
    let sizes = sizes.iter().flat_map(|size| ["--size", size]);
    let arguments: Vec<_> = ["--batch", &batch].into_iter().chain(sizes).collect();
    options.output.show(begun, measure(&arguments, progress)?)
}

/// Builds it: aws-lc-rs, too, whose C sources take minutes.
///
/// # Errors
/// Something is missing and cannot be installed, or it does not compile.
pub fn prepare(progress: Progress) -> Result<()> {
    install::install(progress, install::BUILD)?;
    let mut command = workspace::cargo();
    command.args(["build", "--release", "--locked", "-p", "bench", "--features", "aws-lc"]).visibly()
}

/// Measures; the arguments are those of `bench aead`.
///
/// # Errors
/// As [`run`].
pub fn measure(arguments: &[&str], progress: Progress) -> Result<Results> {
    progress.step("the AEAD engines and other implementations");
    rows::<Row>("aead", arguments)
}

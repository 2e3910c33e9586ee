//! `cargo xtask bench pipeline`: what the packet pipeline costs beside the AEAD. It needs no lab.

use anyhow::Result;
use clap::Args;
use serde::Deserialize;

use super::figures::{Figure, Results};
use super::report::Output;
use super::rows;
use crate::progress::Progress;
use crate::{install, workspace};

/// Options of `cargo xtask bench pipeline`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Fewer rounds
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    output: Output,
}

/// A figure of `bench pipeline`.
#[derive(Debug, Deserialize)]
struct Row {
    direction: String,
    part: String,
    size: String,
    ns_per_packet: f64,
    spread: [f64; 2],
    runs: usize,
}

impl From<Row> for Figure {
    fn from(row: Row) -> Self {
        Self {
            system: "forwarder".to_owned(),
            measure: format!("pipeline {}: {}", row.direction, row.part),
            size: row.size,
            unit: "ns/packet".to_owned(),
            median: row.ns_per_packet,
            spread: row.spread,
            samples: row.runs,
        }
    }
}

/// Builds the `bench` package, measures and shows the figures.
///
/// # Errors
/// Something is missing and cannot be installed, it does not compile, or what the pipeline gives is wrong.
pub fn run(options: &Options, progress: Progress) -> Result<()> {
    install::install(progress, install::BUILD)?;
    workspace::build_release(&["bench"])?;
    let begun = options.output.begin()?;
    options.output.show(begun, measure(options.quick, progress)?)
}

/// Measures.
///
/// # Errors
/// As [`run`].
pub fn measure(quick: bool, progress: Progress) -> Result<Results> {
    progress.step("the pipeline in memory, beside the AEAD");
    let rounds = if quick { "200" } else { "1000" };
    rows::<Row>("pipeline", &["--rounds", rounds])
}

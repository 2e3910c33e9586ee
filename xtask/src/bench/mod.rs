//! `cargo xtask bench`: measurements that compare, in one run, and judge by ratios.

mod aead;
mod all;
mod constant_time;
pub mod figures;
mod flood;
mod handshake;
mod latency;
mod line_rate;
mod machine;
mod options;
mod pipeline;
mod report;
mod samples;
mod stand;
mod tcp;

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::de::DeserializeOwned;

use crate::command::Run as _;
use crate::progress::Progress;
use crate::{elevate, lab, workspace};
use figures::{Figure, Results};
use options::Common;

/// The benchmarks.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// What encryption costs, beside other implementations
    Aead(aead::Options),
    /// All that measures speed, and one report
    All(Common),
    /// Whether the time of encryption shows secrets, by dudect's method
    ConstantTime(constant_time::Options),
    /// What a tunnel keeps under four floods of handshake messages, beside a flood to a port nobody owns
    Flood(flood::Options),
    /// One-way latency at shares of each system's own highest rate, and at half of the best peer's
    Latency(latency::Options),
    /// TCP over three slaves, perhaps of a real cable's rate; and what idle systems cost
    Tcp(tcp::Options),
    /// The highest rates without loss and with little, overload, and what a packet costs: all systems in turns
    LineRate(line_rate::Options),
    /// Handshakes per second of CPU time as a responder, beside wireguard-go and gotatun
    Handshake(handshake::Options),
    /// What the packet pipeline costs beside the AEAD, in memory
    Pipeline(pipeline::Options),
}

/// Runs one of them.
///
/// # Errors
/// Something is missing and cannot be installed, a step failed, or a goal was missed.
pub fn run(bench: &Bench) -> Result<()> {
    let progress = Progress::start();
    match bench {
        Bench::Aead(options) => aead::run(options, progress),
        Bench::ConstantTime(options) => constant_time::run(options, progress),
        Bench::All(options) => {
            if !options.lab_only {
                all::prepare(options, progress)?;
            }
            elevate::do_as_root(|| all::run(options, progress))
        }
        Bench::Flood(options) => {
            if !options.lab_only {
                lab::prepare(progress)?;
            }
            elevate::do_as_root(|| flood::run(options, progress))
        }
        Bench::LineRate(options) => {
            in_lab(&options.common, &options.common.names(), progress, || line_rate::run(options, progress))
        }
        Bench::Latency(options) => {
            in_lab(&options.common, &options.common.names(), progress, || latency::run(options, progress))
        }
        Bench::Tcp(options) => {
            in_lab(&options.common, &options.names(), progress, || tcp::run(options, progress))
        }
        Bench::Handshake(options) => {
            if !options.lab_only {
                lab::prepare(progress)?;
                handshake::prepare(progress)?;
            }
            elevate::do_as_root(|| handshake::run(options, progress))
        }
        Bench::Pipeline(options) => pipeline::run(options, progress),
    }
}

/// Installs the systems, unless that is done, becomes root, measures them and shows what was found.
fn in_lab(
    options: &Common,
    systems: &[stand::Name],
    progress: Progress,
    measure: impl FnOnce() -> Result<Results>,
) -> Result<()> {
    if !options.lab_only {
        lab::prepare(progress)?;
        stand::prepare(systems, progress)?;
    }
    elevate::do_as_root(|| {
        let begun = options.output.begin()?;
        options.output.show(begun, measure()?)
    })
}

/// The figures that a measurement of the `bench` package writes with `--json`. What it prints is progress here.
///
/// # Errors
/// It is not built, or it fails.
fn rows<Row: DeserializeOwned + Into<Figure>>(measurement: &str, arguments: &[&str]) -> Result<Results> {
    let file = workspace::target()?.join(format!("bench-{measurement}-{}.json", std::process::id()));
    let mut command = Command::new(workspace::program("release", "bench")?);
    command.arg(measurement).args(arguments).arg("--json").arg(&file).stdout(std::io::stderr());
    command.visibly()?;
    let text = fs::read_to_string(&file)?;
    fs::remove_file(file)?;
    let rows: Vec<Row> = serde_json::from_str(&text).context("the figures of the bench package")?;
    Ok(Results { figures: rows.into_iter().map(Into::into).collect(), ..Results::default() })
}

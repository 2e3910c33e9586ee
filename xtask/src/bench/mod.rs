//! `cargo xtask bench`: measurements that compare, in one run, and judge by ratios.

mod aead;
mod all;
pub mod figures;
mod flood;
mod handshake;
mod machine;
mod pipeline;
mod report;

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use clap::Subcommand;
use serde::de::DeserializeOwned;

use crate::command::Run as _;
use crate::progress::Progress;
use crate::{elevate, lab, workspace};
use figures::{Figure, Results};

/// The benchmarks.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// What encryption costs, beside other implementations
    Aead(aead::Options),
    /// All of it, and one report: pipeline, AEAD, handshakes
    All(all::Options),
    /// What a tunnel keeps under four floods of handshake messages, beside a flood to a port nobody owns
    Flood(flood::Options),
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
        Bench::All(options) => {
            if !options.lab_only {
                all::prepare(progress)?;
            }
            elevate::do_as_root(|| all::run(options, progress))
        }
        Bench::Flood(options) => {
            if !options.lab_only {
                lab::prepare(progress)?;
            }
            elevate::do_as_root(|| flood::run(options, progress))
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

//! `cargo xtask bench`: measurements that compare, in one run, and judge by ratios.

mod aead;
pub mod figures;
mod flood;
mod handshake;
mod latency;
mod line_rate;
mod stand;
mod tcp;

use std::path::Path;

use anyhow::Result;
use clap::Subcommand;

use crate::progress::Progress;
use crate::{elevate, json, lab};
use figures::Results;

/// The benchmarks.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// What encryption costs, beside other implementations
    Aead(aead::Options),
    /// Whether the time of encryption shows secrets, by dudect's method
    ConstantTime(aead::Options),
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
}

/// Runs one of them.
///
/// # Errors
/// Something is missing and cannot be installed, a step failed, or a goal was missed.
pub fn run(bench: &Bench) -> Result<()> {
    let progress = Progress::start();
    match bench {
        Bench::Aead(options) => aead::run(options, progress),
        Bench::ConstantTime(options) => aead::constant_time(options, progress),
        Bench::Flood(options) => {
            if !options.lab_only {
                lab::prepare(progress)?;
            }
            elevate::do_as_root(|| flood::run(options, progress))
        }
        Bench::LineRate(options) => {
            if !options.lab_only {
                lab::prepare(progress)?;
                stand::prepare(&options.names(), progress)?;
            }
            elevate::do_as_root(|| show(&line_rate::run(options, progress)?, options.json.as_deref()))
        }
        Bench::Latency(options) => {
            if !options.lab_only {
                lab::prepare(progress)?;
                stand::prepare(&options.names(), progress)?;
            }
            elevate::do_as_root(|| show(&latency::run(options, progress)?, options.json.as_deref()))
        }
        Bench::Tcp(options) => {
            if !options.lab_only {
                lab::prepare(progress)?;
                stand::prepare(&options.names(), progress)?;
            }
            elevate::do_as_root(|| show(&tcp::run(options, progress)?, options.json.as_deref()))
        }
        Bench::Handshake(options) => {
            if !options.lab_only {
                lab::prepare(progress)?;
                handshake::prepare(options, progress)?;
            }
            elevate::do_as_root(|| handshake::run(options, progress))
        }
    }
}

/// Prints what was found, and writes it to the file.
fn show(results: &Results, file: Option<&Path>) -> Result<()> {
    for warning in &results.warnings {
        println!("warning: {warning}");
    }
    for figures::Figure { system, measure, size, unit, median, spread, samples } in &results.figures {
        let [low, high] = spread;
        println!(
            "{size:<6}{system:<24}{measure:<48}{median:>14.1} {unit} ({low:.1} to {high:.1}, {samples})"
        );
    }
    file.map_or(Ok(()), |file| json::write(file, results))
}

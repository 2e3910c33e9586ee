//! `cargo xtask bench`: measurements that compare, in one run, and judge by ratios.

mod aead;
pub mod figures;
mod flood;
mod handshake;

use anyhow::Result;
use clap::Subcommand;

use crate::progress::Progress;
use crate::{elevate, lab};

/// The benchmarks.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// What encryption costs, beside other implementations
    Aead(aead::Options),
    /// Whether the time of encryption shows secrets, by dudect's method
    ConstantTime(aead::Options),
    /// What a tunnel keeps under four floods of handshake messages, beside a flood to a port nobody owns
    Flood(flood::Options),
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
        Bench::Handshake(options) => {
            if !options.lab_only {
                lab::prepare(progress)?;
                handshake::prepare(options, progress)?;
            }
            elevate::do_as_root(|| handshake::run(options, progress))
        }
    }
}

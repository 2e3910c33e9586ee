//! `cargo xtask bench`: measurements that compare, in one run, and judge by ratios.

mod aead;
mod flood;
mod handshake;

use anyhow::Result;
use clap::Subcommand;

use crate::command::Run as _;
use crate::progress::Progress;
use crate::{elevate, install, workspace};

/// The benchmarks.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// What encryption costs, beside other implementations
    Aead(aead::Options),
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
        Bench::Flood(options) => in_lab(options.lab_only, progress, || flood::run(options, progress)),
        Bench::Handshake(options) => {
            if !options.lab_only {
                handshake::prepare(options, progress)?;
            }
            in_lab(options.lab_only, progress, || handshake::run(options, progress))
        }
    }
}

/// Installs and builds as the invoking user, then runs `work` as root.
fn in_lab(prepared: bool, progress: Progress, work: impl FnOnce() -> Result<()>) -> Result<()> {
    if !prepared {
        elevate::check()?;
        install::install(progress, install::BUILD)?;
        install::install(progress, install::LAB)?;
        progress.step("building forwarder and the generator (a few minutes the first time)");
        workspace::build_release(&["forwarder", "bench"])?;
    }
    if elevate::is_root() {
        return work();
    }
    let mut arguments = std::env::args_os();
    let _ = arguments.next();
    elevate::command(std::env::current_exe()?)?.args(arguments).arg("--lab-only").visibly()
}

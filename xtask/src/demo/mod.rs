//! `cargo xtask demo`: two sites, three tunnels over three slaves, and what they carry.
//!
//! 1. Install what is missing, build, become root.
//! 2. Build the lab and listen on every underlay cable from before the first handshake on.
//! 3. For each system in turn: start both gateways, ping, TCP both ways, UDP at two sizes, stop.
//! 4. Let clear frames out on purpose: they must be caught.
//! 5. Print the table; fail unless traffic flowed over all slaves and nothing left in clear.

mod report;
mod round;
mod table;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::command::Run as _;
use crate::lab::peer::Implementation;
use crate::lab::system::System;
use crate::lab::{self, Lab};
use crate::progress::Progress;
use crate::{elevate, json};
use report::Report;
use round::Round;

/// Options of `cargo xtask demo`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Leave the lab and the gateways up and say how to enter them
    #[arg(long)]
    keep: bool,
    /// Run this system, too, in turns in the same lab, and show ratios
    #[arg(long, value_name = "SYSTEM")]
    compare: Option<Other>,
    /// Write the figures to this file as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seconds of each TCP measurement
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Times that each system is measured
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only the part that needs root: everything is installed and built
    #[arg(long, hide = true)]
    lab_only: bool,
}

/// Systems to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Other {
    WireguardGo,
}

/// Runs the demo.
///
/// # Errors
/// Something is missing and cannot be installed, a step failed, no traffic flowed over a slave, or a
/// frame left in clear.
pub fn run(options: &Options) -> Result<()> {
    let progress = Progress::start();
    if !options.lab_only {
        lab::prepare(progress)?;
        if options.compare.is_some() {
            lab::wireguard_go::fetch(progress)?;
        }
    }
    elevate::do_as_root(|| run_in_lab(options, progress))
}

fn run_in_lab(options: &Options, progress: Progress) -> Result<()> {
    options.json.as_deref().map_or(Ok(()), json::writable)?;
    let bond = lab::kernel_has("bond")?;
    progress.step(format!("building two sites: {}", if bond { "bond0, 802.3ad" } else { NO_BONDING }));
    let mut lab = Lab::build(lab::Options { bond, ..lab::Options::default() })?;
    let ears = lab.eavesdrop()?;

    let mut systems = vec![System::forwarder()?];
    if options.compare.is_some() {
        systems.push(System::peer(Implementation::WireguardGo, 1, progress)?);
    }
    let mut rounds: Vec<Vec<Round>> = systems.iter().map(|_| Vec::new()).collect();
    for number in 1..=options.rounds {
        for (system, rounds) in systems.iter().zip(&mut rounds) {
            progress.step(format!("{}, round {number} of {}", system.name(), options.rounds));
            rounds.push(round::measure(&lab, system, &ears, options.seconds, progress)?);
        }
    }
    progress.step("control: clear frames are let out and must be caught");
    ears.prove(&lab)?;
    // A capture that lost frames has not shown that nothing left in clear.
    ears.finish()?;

    let report = Report::new(&rounds);
    print!("{}", report.table());
    if let Some(path) = &options.json {
        json::write(path, &report)?;
    }
    let verdict = report.verdict();
    if options.keep {
        let mut running = systems[0].start(&lab)?;
        running.keep();
        lab.keep();
        print!("{}", how_to_enter(&lab));
    }
    verdict
}

const NO_BONDING: &str = "three plain slaves each, as this kernel has no bonding driver";

fn how_to_enter(lab: &Lab) -> String {
    let enter = |name: &str, what: &str| format!("  ip netns exec {name} bash    # {what}\n");
    let sites = lab.sites().map(|site| {
        let letter = site.side.letter();
        let gateway = enter(site.gateway.name(), &format!("gateway {letter}"));
        gateway + &enter(site.host.name(), &format!("LAN host of {letter}"))
    });
    format!(
        "\nThe lab is up, with forwarder at both sites. Enter it by\n{}\
         Logs and wg-quick files are in {}.\nTake it down by: cargo xtask lab-down\n",
        sites.concat(),
        lab.directory().display()
    )
}

/// `cargo xtask lab-down`: removes all labs, even of demos and tests that run.
///
/// # Errors
/// Not root, or `ip` cannot remove a namespace.
pub fn take_down() -> Result<()> {
    if !elevate::is_root() {
        return elevate::command(std::env::current_exe()?)?.arg("lab-down").visibly();
    }
    let count = lab::remove_kept(true)?;
    println!("{count} namespaces removed");
    Ok(())
}

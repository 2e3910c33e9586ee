//! `cargo xtask bench handshake`: handshakes per second of CPU time as a responder, in turns with the other
//! implementations, each on one core.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::Deserialize;

use super::figures::{Figure, Results};
use super::report::Output;
use crate::command::Run as _;
use crate::lab::gateway::Gateway;
use crate::lab::peer::Implementation;
use crate::lab::{self, Daemon, Lab, address};
use crate::progress::Progress;
use crate::workspace;

/// Peers of the responder: at most one handshake each in 30 ms.
const PEERS: u32 = 512;
const MEASURE: &str = "handshakes as the responder of 512 peers";
/// Whom to compare with.
pub const OTHERS: [Implementation; 2] = [Implementation::WireguardGo, Implementation::Gotatun];

/// Options of `cargo xtask bench handshake`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    length: Length,
    /// Only forwarder, as long as that takes: for a profiler
    #[arg(long)]
    alone: bool,
    #[command(flatten)]
    output: Output,
    /// Only the part that needs root: everything is installed and built
    #[arg(long, hide = true)]
    pub(super) lab_only: bool,
}

/// How long it takes.
#[derive(Args, Clone, Copy, Debug)]
pub struct Length {
    /// Times that each system is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
}

/// A responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum System {
    Forwarder,
    Other(Implementation),
}

impl System {
    fn name(self) -> &'static str {
        match self {
            Self::Forwarder => "forwarder",
            Self::Other(implementation) => implementation.name(),
        }
    }
}

/// What one measurement found.
#[derive(Clone, Copy, Debug)]
struct Found {
    /// Responses per second of the responder's CPU time.
    per_cpu_second: f64,
    cookie_replies: u64,
}

/// What the generator reports.
#[derive(Debug, Deserialize)]
struct Answers {
    responses: u64,
    cookie_replies: u64,
    authentic: bool,
}

/// Installs what the comparison needs.
///
/// # Errors
/// It cannot be had here.
pub fn prepare(progress: Progress) -> Result<()> {
    for implementation in OTHERS {
        implementation.install(progress)?;
    }
    Ok(())
}

/// Measures, compares and shows the figures.
///
/// # Errors
/// The lab fails, or forwarder is not ahead.
pub fn run(options: &Options, progress: Progress) -> Result<()> {
    let begun = options.output.begin()?;
    let others = if options.alone { &[][..] } else { &OTHERS };
    let results = measure(options.length, others, progress)?;
    options.output.show(begun, results.clone())?;
    let rates = results.figures.iter().filter(|figure| figure.measure == MEASURE);
    let (ours, others): (Vec<_>, Vec<_>) =
        rates.partition(|figure| figure.system == System::Forwarder.name());
    for other in others {
        ensure!(ours.iter().all(|ours| ours.median > other.median), "{} is ahead of forwarder", other.system);
    }
    Ok(())
}

/// Measures forwarder and others in turns.
///
/// # Errors
/// The lab fails.
pub fn measure(length: Length, others: &[Implementation], progress: Progress) -> Result<Results> {
    let bench = workspace::program("release", "bench")?;
    let lab = Lab::build(lab::Options { ports: 1, ..lab::Options::default() })?;
    add_peers(&lab, &bench)?;
    let others = others.iter().copied().map(System::Other);
    let systems: Vec<_> = [System::Forwarder].into_iter().chain(others).collect();
    let mut found: Vec<Vec<Found>> = vec![Vec::new(); systems.len()];
    for round in 1..=length.rounds {
        for (system, found) in systems.iter().zip(&mut found) {
            let one = respond(&lab, &bench, *system, length.seconds, progress)
                .with_context(|| format!("{}, round {round}", system.name()))?;
            progress.step(format!(
                "{}, round {round}: {:.0} per CPU second",
                system.name(),
                one.per_cpu_second
            ));
            found.push(one);
        }
    }
    let mut results = Results::default();
    for (system, found) in systems.iter().zip(&found) {
        let mut add = |measure, unit, value: fn(&Found) -> f64| {
            let samples = found.iter().map(value).collect();
            results.figures.extend(Figure::of(system.name(), measure, &PEERS.to_string(), unit, samples));
        };
        add(MEASURE, "handshakes/CPU-second", |found| found.per_cpu_second);
        add("cookie replies of a responder", "replies", |found| found.cookie_replies as f64);
    }
    Ok(results)
}

/// Adds the generator's peers to A's tunnel.
fn add_peers(lab: &Lab, bench: &Path) -> Result<()> {
    let keys = Command::new(bench).args(["peers", "--count", &PEERS.to_string()]).text()?;
    let mut text = String::new();
    for (i, key) in keys.lines().enumerate() {
        write!(text, "\n[Peer]\nPublicKey = {key}\nAllowedIPs = 10.97.{}.{}/32\n", i / 256, i % 256)?;
    }
    let mut tunnel = File::options().append(true).open(lab.a.tunnels.join("wg0.conf"))?;
    Ok(tunnel.write_all(text.as_bytes())?)
}

fn respond(lab: &Lab, bench: &Path, system: System, seconds: u32, progress: Progress) -> Result<Found> {
    lab.offload(system != System::Forwarder)?;
    let (mut gateway, mut peer);
    let daemon: &mut Daemon = match system {
        System::Forwarder => {
            let program = workspace::program("release", "forwarder")?;
            gateway = Gateway::start(&program, &lab.a, lab.options, 0, &[])?;
            gateway.wait_ready(Duration::from_secs(15))?;
            &mut gateway.daemon
        }
        System::Other(implementation) => {
            peer = implementation.install(progress)?.start(&lab.a, 0)?;
            &mut peer.daemon
        }
    };
    let pid = daemon.pid().to_string();
    // All threads that there are; later ones take it from them.
    Command::new("taskset").args(["-a", "-c", "-p", "0", &pid]).quietly()?;
    progress.step(format!("{}, process {pid}", system.name()));
    let before = daemon.cpu_seconds()?;
    let mut command = lab.b.gateway.command(bench);
    let to = std::net::SocketAddr::new(lab.a.endpoint(lab.options, 0), address::listen_port(0));
    command.args(["handshakes", "--to", &to.to_string(), "--public-key", lab.a.public_key()]);
    command.args(["--peers", &PEERS.to_string(), "--seconds", &seconds.to_string()]);
    let answers: Answers = serde_json::from_str(&command.text()?).context("the generator's report")?;
    ensure!(answers.authentic, "its responses are not authentic");
    let per_cpu_second = answers.responses as f64 / (daemon.cpu_seconds()? - before);
    daemon.stop()?;
    Ok(Found { per_cpu_second, cookie_replies: answers.cookie_replies })
}

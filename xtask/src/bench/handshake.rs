//! `cargo xtask bench handshake`: handshakes per second of CPU time as a responder, in turns with the other
//! implementations, each on one core.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::command::Run as _;
use crate::lab::gateway::Gateway;
use crate::lab::peer::Implementation;
use crate::lab::{self, Daemon, Lab, address};
use crate::progress::{Progress, Stopwatch};
use crate::{json, workspace};

/// Peers of the responder: at most one handshake each in 30 ms.
const PEERS: u32 = 512;

/// Options of `cargo xtask bench handshake`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Write the figures to this file as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Times that each system is measured
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5)]
    seconds: u32,
    /// Only forwarder, as long as that takes: for a profiler
    #[arg(long)]
    alone: bool,
    /// Only the part that needs root: everything is installed and built
    #[arg(long, hide = true)]
    pub(super) lab_only: bool,
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

/// One system's figures over all rounds.
#[derive(Clone, Debug, Default, Serialize)]
struct Figures {
    system: &'static str,
    responses: u64,
    cookie_replies: u64,
    cpu_seconds: f64,
    wall_seconds: f64,
    /// Responses per second of the responder's CPU time.
    per_cpu_second: f64,
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
pub fn prepare(options: &Options, progress: Progress) -> Result<()> {
    if !options.alone {
        Implementation::WireguardGo.install(progress)?;
        Implementation::Gotatun.install(progress)?;
    }
    Ok(())
}

/// Measures and compares.
///
/// # Errors
/// The lab fails, or forwarder is not ahead.
pub fn run(options: &Options, progress: Progress) -> Result<()> {
    let bench = workspace::program("release", "bench")?;
    let lab = Lab::build(lab::Options { ports: 1, ..lab::Options::default() })?;
    add_peers(&lab, &bench)?;
    let others = [Implementation::WireguardGo, Implementation::Gotatun].map(System::Other);
    let all = [System::Forwarder, others[0], others[1]];
    let systems = if options.alone { &all[..1] } else { &all[..] };
    let mut figures = vec![Figures::default(); systems.len()];
    for round in 0..options.rounds {
        for (system, figures) in systems.iter().zip(&mut figures) {
            measure(&lab, &bench, *system, options, progress, figures)
                .with_context(|| format!("{}, round {}", system.name(), round + 1))?;
            let per_second = figures.responses as f64 / figures.cpu_seconds;
            figures.per_cpu_second = per_second;
            progress.step(format!("{}, round {}: {per_second:.0} per CPU second", system.name(), round + 1));
        }
    }
    print!("{}", table(&figures));
    if let Some(path) = &options.json {
        json::write(path, &figures)?;
    }
    let (ours, others) = figures.split_first().context("nothing was measured")?;
    for other in others {
        ensure!(ours.per_cpu_second > other.per_cpu_second, "{} is ahead of forwarder", other.system);
    }
    Ok(())
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

fn measure(
    lab: &Lab,
    bench: &Path,
    system: System,
    options: &Options,
    progress: Progress,
    figures: &mut Figures,
) -> Result<()> {
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
    let (watch, before) = (Stopwatch::start(), daemon.cpu_seconds()?);
    let mut command = lab.b.gateway.command(bench);
    let to = std::net::SocketAddr::new(lab.a.endpoint(lab.options, 0), address::listen_port(0));
    command.args(["handshakes", "--to", &to.to_string(), "--public-key", lab.a.public_key()]);
    command.args(["--peers", &PEERS.to_string(), "--seconds", &options.seconds.to_string()]);
    let answers: Answers = serde_json::from_str(&command.text()?).context("the generator's report")?;
    ensure!(answers.authentic, "its responses are not authentic");
    figures.system = system.name();
    figures.responses += answers.responses;
    figures.cookie_replies += answers.cookie_replies;
    figures.cpu_seconds += daemon.cpu_seconds()? - before;
    figures.wall_seconds += watch.seconds();
    daemon.stop()?;
    Ok(())
}

fn table(figures: &[Figures]) -> String {
    let mut lines = vec![format!(
        "\n{:<14}{:>12}{:>9}{:>9}{:>16}{:>9}\n",
        "responder", "handshakes", "cookies", "CPU s", "per CPU second", "ratio"
    )];
    let first = figures.first().map_or(0.0, |figures| figures.per_cpu_second);
    for Figures { system, responses, cookie_replies, cpu_seconds, per_cpu_second, .. } in figures {
        let ratio = first / per_cpu_second;
        lines.push(format!(
            "{system:<14}{responses:>12}{cookie_replies:>9}{cpu_seconds:>9.2}{per_cpu_second:>16.0}{ratio:>7.2} x\n"
        ));
    }
    lines.concat()
}

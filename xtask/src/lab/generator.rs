//! The UDP generator of the `bench` package, from LAN host to LAN host.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::{Site, pin};
use crate::command::Run as _;

/// A rate that was searched or offered, and what became of the packets.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Rate {
    /// Packets per second, 0 when no rate of the ladder is carried.
    pub pps: u64,
    /// Packets sent in the trial at that rate.
    pub sent: u64,
    /// Packets that arrived of them.
    pub received: u64,
    /// Packets that arrived after a later one of their flow.
    pub reordered: u64,
    /// The generator's own ceiling is too near for the rate to be the gateways'.
    pub generator_bound: bool,
}

/// Equal flows of packets.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Inner IP length in bytes.
    pub size: u16,
    /// Number of flows.
    pub flows: u16,
    /// The generator's core, counted round where there are fewer. It has one because each move by the scheduler
    /// would be a burst, and the rate found that of the scheduler.
    pub core: usize,
}

/// Searches the highest rate at which at most 0.5 % of the packets are lost.
///
/// # Errors
/// The generator fails.
pub fn rate(program: &Path, ends: [&Site; 2], load: Load) -> Result<Rate> {
    run(program, "rate", ends, load, &[])
}

/// Searches the highest rate at which at most one packet in a thousand is lost.
///
/// # Errors
/// The generator fails.
pub fn lossless(program: &Path, ends: [&Site; 2], load: Load) -> Result<Rate> {
    run(program, "rate", ends, load, &["--loss", "0.001"])
}

/// Offers `pps` packets a second for `seconds`.
///
/// # Errors
/// The generator fails.
pub fn offer(program: &Path, ends: [&Site; 2], load: Load, pps: u64, seconds: u32) -> Result<Rate> {
    run(program, "offer", ends, load, &["--rate", &pps.to_string(), "--seconds", &seconds.to_string()])
}

fn run(program: &Path, what: &str, [from, to]: [&Site; 2], load: Load, more: &[&str]) -> Result<Rate> {
    let mut command = Command::new("taskset");
    pin(&mut command, load.core)?;
    command.arg(program).args([what, "--json", "--from-iface", "eth0", "--to-iface", "eth0"]);
    command.args(["--from-ns", from.host.name(), "--to-ns", to.host.name()]);
    command.args(["--src", &from.host_address().to_string(), "--dst", &to.host_address().to_string()]);
    command.args(["--size", &load.size.to_string(), "--flows", &load.flows.to_string()]).args(more);
    serde_json::from_str(&command.text()?).context("the generator's report")
}

//! What the pipeline costs beside the AEAD, in nanoseconds per packet: no sockets, no kernel, one thread.
//!
//! Bursts go from LAN to LAN through two gateways in memory with three tunnels. In the same round the AEAD seals and
//! opens the same packets by itself. Each of seven runs has many rounds and keeps the median round; the median of the
//! seven is reported.

mod batch;
mod port;
mod round;
mod sealing;
mod site;
mod stages;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::Serialize;

use crate::size::Size;
use round::{Bench, Times};

/// Options of `bench pipeline`.
#[derive(Args)]
pub struct Options {
    /// Write the figures to this file, as an array of JSON objects
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Inner IP length in bytes, at most 1420, or imix; repeatable [default: 46 to 1420, and imix]
    #[arg(long)]
    size: Vec<Size>,
    /// Hosts that a burst's packets go to, in one random order
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=i64::from(site::HOSTS)))]
    hosts: u8,
    /// Rounds of each of the seven runs
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// One figure.
#[derive(Serialize)]
struct Row {
    /// `outbound` or `inbound`.
    direction: &'static str,
    /// `pipeline` (all of it), `AEAD`, `beyond` (the difference), or a stage by itself.
    part: &'static str,
    /// Inner IP length in bytes; `imix` is 7 of 46, 4 of 552, 1 of 1420.
    size: String,
    /// Hosts that the packets go to.
    hosts: u8,
    ns_per_packet: f64,
    /// Lowest and highest of the seven runs.
    spread: [f64; 2],
    runs: usize,
}

const SIZES: [Size; 8] = [
    Size::One(46),
    Size::One(110),
    Size::One(238),
    Size::One(494),
    Size::One(1006),
    Size::One(1262),
    Size::One(1420),
    Size::Imix,
];
const RUNS: usize = 7;
const DIRECTIONS: [&str; 2] = ["outbound", "inbound"];

/// Measures, prints a table, writes the file.
///
/// # Errors
/// What comes out of the gateways is wrong, or the file cannot be written.
pub fn run(options: &Options) -> anyhow::Result<()> {
    ensure!(cfg!(not(debug_assertions)), "a debug build's figures say nothing: cargo run --release");
    let (engine, hosts) = (forwarder::aead::engine().name(), options.hosts);
    println!("AEAD engine {engine}, bursts of 64, 3 tunnels, hosts behind them: {hosts}, ns per packet");
    println!("stages by themselves, behind the bar, are a guide: they do not add up\n");
    let sizes: &[Size] = if options.size.is_empty() { &SIZES } else { &options.size };
    let mut rows = Vec::new();
    for size in sizes {
        rows.extend(measure(*size, hosts, options.rounds)?);
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// One size, both directions.
fn measure(size: Size, hosts: u8, rounds: u32) -> anyhow::Result<Vec<Row>> {
    let mut bench = Bench::new(size, hosts)?;
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        let round = (0..rounds).map(|_| bench.round());
        runs.push(round.collect::<anyhow::Result<Vec<_>>>()?);
    }
    let name = size.to_string();
    let packets = bench.packets() as f64;
    let mut rows = Vec::new();
    for (d, direction) in DIRECTIONS.into_iter().enumerate() {
        let parts = ["pipeline", "AEAD", "beyond"].into_iter().chain(stages::NAMES[d]);
        let row = |(i, part)| {
            let run = |run: &Vec<Times>| median(run.iter().map(|times| times.parts(d)[i] / packets));
            let mut medians: Vec<f64> = runs.iter().map(run).collect();
            medians.sort_by(f64::total_cmp);
            let spread = [medians[0], medians[RUNS - 1]];
            Row {
                direction,
                part,
                size: name.clone(),
                hosts,
                ns_per_packet: medians[RUNS / 2],
                spread,
                runs: RUNS,
            }
        };
        let direction: Vec<_> = parts.enumerate().map(row).collect();
        println!("{}", line(&direction));
        rows.extend(direction);
    }
    Ok(rows)
}

fn line(rows: &[Row]) -> String {
    let (whole, stages) = rows.split_at(3);
    let figure = |row: &Row| {
        format!("{} {:.0} ({:.0} to {:.0})", row.part, row.ns_per_packet, row.spread[0], row.spread[1])
    };
    let stage = |row: &Row| format!("{} {:.0}", row.part, row.ns_per_packet);
    let whole: Vec<_> = whole.iter().map(figure).collect();
    let stages: Vec<_> = stages.iter().map(stage).collect();
    format!("{:>5} {:<9} {} | {}", rows[0].size, rows[0].direction, whole.join(", "), stages.join(", "))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

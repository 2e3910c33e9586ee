//! `cargo xtask bench flood`: a tunnel from B to A carries 90 % of what it carries without loss, and gateway
//! A is flooded by its first slave.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::lab::attack::{Flood, Newcomer, Range, Sent};
use crate::lab::gateway::{Counters, Gateway};
use crate::lab::generator::{Generator, Load};
use crate::lab::{self, Lab, Wire, counters};
use crate::progress::Progress;
use crate::{json, workspace};

/// Percentage of the lossless rate that the tunnel is offered.
const OFFERED: u64 = 90;
/// Share of packets that is as good as nothing lost.
const NO_LOSS: f64 = 0.001;
/// Share of what the tunnel keeps under the flood to compare with, that it must keep under an attack.
const KEPT: f64 = 0.8;
/// Most KiB that the gateway's memory may grow by under a flood.
const GROWTH: i64 = 1024;
/// Longest time to a new peer's session.
const HANDSHAKE: f64 = 15.0;
/// Length of a flood in seconds: as long as the new peer may take for both its handshakes.
const FLOOD: u32 = 34;
/// Reasons to drop that a rekey must not cause.
const SESSION_DROPS: [&str; 5] =
    ["no_session", "session_expired", "unknown_index", "auth_failed", "replayed"];

/// Options of `cargo xtask bench flood`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Write the figures to this file as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Times that each flood comes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Packets per second of each flood
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
    /// Seconds of the tunnel's traffic under each flood
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOOD)))]
    seconds: u32,
    /// Inner IP length of the tunnel's packets in bytes
    #[arg(long, default_value_t = 494)]
    size: u16,
    /// Offer the tunnel this many packets per second instead of 90 % of a rate that is searched
    #[arg(long, value_name = "PPS")]
    offer: Option<u64>,
    /// Only the part that needs root: everything is installed and built
    #[arg(long, hide = true)]
    pub(super) lab_only: bool,
}

/// The result.
#[derive(Debug, Serialize)]
struct Report {
    /// Packets per second that the tunnel was offered.
    offered_pps: u64,
    /// Packets per second of the floods.
    flood_pps: u64,
    /// One entry a flood, the one to compare with first.
    floods: Vec<Figures>,
}

/// One flood, over all rounds: means of rates, worst cases of the rest.
#[derive(Clone, Debug, Default, Serialize)]
struct Figures {
    flood: &'static str,
    /// Packets per second that the tunnel kept.
    kept_pps: f64,
    /// That, by what it kept under the flood to compare with.
    ratio: f64,
    /// The flood's own packets per second.
    sent_pps: f64,
    /// Cookie replies that the attacker heard.
    cookie_replies: u64,
    /// Longest time to the new peer's session; none when once there was none.
    handshake_seconds: Option<f64>,
    /// Whether the new peer's rekey always came about.
    rekeyed: bool,
    /// Pings of the new peer that were not answered.
    pings_lost: u32,
    /// Packets that gateway A dropped, or the new peer could not open, for want of the right session.
    session_drops: u64,
    /// Packets that gateway A dropped, by reason.
    drops: BTreeMap<String, u64>,
    /// KiB by which gateway A's resident memory grew at most.
    growth_kib: i64,
    /// Seconds of CPU time that gateway A used.
    cpu_seconds: f64,
}

/// Runs the floods and judges.
///
/// # Errors
/// The lab fails, or a goal is missed.
pub fn run(options: &Options, progress: Progress) -> Result<()> {
    options.json.as_deref().map_or(Ok(()), json::writable)?;
    progress.step("building two sites");
    let lab = Lab::build(lab::Options { ports: 1, wire: Wire::Switch, ..lab::Options::default() })?;
    lab.offload(false)?;
    let bench = workspace::program("release", "bench")?;
    let range = Range::prepare(&lab, &bench)?;
    let program = workspace::program("release", "forwarder")?;
    let start = |site, core| Gateway::start(&program, site, lab.options, core, &[]);
    let (mut a, mut b) = (start(&lab.a, 0)?, start(&lab.b, 1)?);
    for gateway in [&mut a, &mut b] {
        gateway.wait_tunnels(Duration::from_secs(15))?;
    }
    // Not on the core of the gateway that is flooded.
    let size = options.size.to_string();
    let load = Load { size: &size, core: lab::Side::B.core(), ..Load::SMALL };
    let offered_pps = if let Some(pps) = options.offer {
        pps
    } else {
        progress.step("searching the rate without loss");
        Generator { program: &bench, ends: [&lab.b, &lab.a] }.rate(load, NO_LOSS)?.pps * OFFERED / 100
    };
    progress.step(format!("the tunnel is offered {offered_pps} packets/s of {} bytes", options.size));

    let floods: Vec<Flood> = [Flood::Unowned].into_iter().chain(Flood::ATTACKS).collect();
    let mut figures = vec![Figures::default(); floods.len()];
    for round in 0..options.rounds {
        for (flood, figures) in floods.iter().zip(&mut figures) {
            let trial = Trial { lab: &lab, range: &range, bench: &bench, load, offered_pps, options };
            let measured = trial.run(&mut a, *flood)?;
            progress.step(format!("{}, round {}: {measured}", flood.name(), round + 1));
            figures.add(flood.name(), &measured, options);
        }
    }
    let reference = figures[0].kept_pps;
    for figures in &mut figures {
        figures.ratio = figures.kept_pps / reference;
    }
    let report = Report { offered_pps, flood_pps: options.rate, floods: figures };
    print!("{}", report.table());
    if let Some(path) = &options.json {
        json::write(path, &report)?;
    }
    report.verdict()
}

/// One flood, once.
struct Trial<'a> {
    lab: &'a Lab,
    range: &'a Range<'a>,
    bench: &'a Path,
    load: Load<'a>,
    offered_pps: u64,
    options: &'a Options,
}

/// What it showed.
struct Measured {
    kept_pps: f64,
    sent: Sent,
    newcomer: Newcomer,
    drops: BTreeMap<String, u64>,
    growth_kib: i64,
    cpu_seconds: f64,
}

impl Trial<'_> {
    fn run(&self, a: &mut Gateway, flood: Flood) -> Result<Measured> {
        let before = a.counters()?;
        let (resident, cpu) = (counters::memory(a.daemon.pid())?, a.daemon.cpu_seconds()?);
        counters::forget_peak(a.daemon.pid())?;
        let running = self.range.flood(flood, self.options.rate, FLOOD)?;
        let (newcomer, carried) = std::thread::scope(|scope| {
            let newcomer = scope.spawn(|| self.range.newcomer());
            let [from, to] = [&self.lab.b, &self.lab.a];
            let seconds = self.options.seconds;
            let load = Load { seconds: seconds.into(), ..self.load };
            let carried = Generator { program: self.bench, ends: [from, to] }.offer(load, self.offered_pps);
            (newcomer.join().expect("no panic"), carried)
        });
        let sent = running.finish()?;
        let peak = counters::memory(a.daemon.pid())?.peak_kib;
        Ok(Measured {
            kept_pps: carried?.received as f64 / f64::from(self.options.seconds),
            sent,
            newcomer: newcomer?,
            cpu_seconds: a.daemon.cpu_seconds()? - cpu,
            drops: dropped(&before, &a.counters()?),
            growth_kib: peak - resident.resident_kib,
        })
    }
}

fn dropped(before: &Counters, after: &Counters) -> BTreeMap<String, u64> {
    let earlier = |reason: &String| before.drops.get(reason).copied().unwrap_or(0);
    let grown = after.drops.iter().map(|(reason, count)| (reason.clone(), count - earlier(reason)));
    grown.filter(|(_, count)| *count > 0).collect()
}

impl std::fmt::Display for Measured {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { kept_pps, sent, newcomer, growth_kib, cpu_seconds, .. } = self;
        write!(
            f,
            "kept {kept_pps:.0}/s, {sent:?}, {newcomer:?}, +{growth_kib} KiB, {cpu_seconds:.1} CPU s, "
        )?;
        write!(f, "dropped {:?}", self.drops)
    }
}

impl Figures {
    fn add(&mut self, flood: &'static str, measured: &Measured, options: &Options) {
        let Measured { kept_pps, sent, newcomer, drops, .. } = measured;
        let first = self.flood.is_empty();
        self.flood = flood;
        let rounds = f64::from(options.rounds);
        self.kept_pps += kept_pps / rounds;
        self.sent_pps += sent.sent as f64 / f64::from(FLOOD) / rounds;
        self.cookie_replies += sent.cookie_replies;
        let earlier = if first { Some(0.0) } else { self.handshake_seconds };
        self.handshake_seconds = earlier.zip(newcomer.handshake_seconds).map(|(a, b)| a.max(b));
        self.rekeyed = (first || self.rekeyed) && newcomer.rekeyed;
        self.pings_lost += newcomer.pings - newcomer.answered;
        for (reason, count) in drops {
            *self.drops.entry(reason.clone()).or_default() += count;
        }
        let dropped: u64 = SESSION_DROPS.iter().filter_map(|reason| drops.get(*reason)).sum();
        self.session_drops += dropped + u64::from(newcomer.unopened);
        self.growth_kib = self.growth_kib.max(measured.growth_kib);
        self.cpu_seconds += measured.cpu_seconds;
    }
}

impl Report {
    fn table(&self) -> String {
        let mut lines = vec![format!(
            "\n{:<18}{:>10}{:>7}{:>11}{:>9}{:>11}{:>9}{:>12}{:>14}{:>10}{:>8}\n",
            "flood",
            "kept/s",
            "ratio",
            "flood/s",
            "cookies",
            "handshake",
            "rekey",
            "pings lost",
            "session drops",
            "memory",
            "CPU s"
        )];
        for figures in &self.floods {
            let handshake = figures.handshake_seconds.map_or("none".to_owned(), |s| format!("{s:.1} s"));
            lines.push(format!(
                "{:<18}{:>10.0}{:>7.2}{:>11.0}{:>9}{:>11}{:>9}{:>12}{:>14}{:>10}{:>8.1}\n",
                figures.flood,
                figures.kept_pps,
                figures.ratio,
                figures.sent_pps,
                figures.cookie_replies,
                handshake,
                if figures.rekeyed { "done" } else { "missed" },
                figures.pings_lost,
                figures.session_drops,
                format!("{:+} KiB", figures.growth_kib),
                figures.cpu_seconds,
            ));
        }
        lines.concat()
    }

    /// Every goal of every attack.
    fn verdict(&self) -> Result<()> {
        for Figures {
            flood, ratio, sent_pps, handshake_seconds, rekeyed, session_drops, growth_kib, ..
        } in &self.floods
        {
            ensure!(
                *sent_pps >= 0.95 * self.flood_pps as f64,
                "{flood}: the generator sent {sent_pps:.0}/s only"
            );
            ensure!(
                *ratio >= KEPT,
                "{flood}: the tunnel kept {ratio:.2} of what it keeps beside an unowned port"
            );
            let in_time = handshake_seconds.is_some_and(|seconds| seconds <= HANDSHAKE);
            ensure!(in_time, "{flood}: the new peer got no session within {HANDSHAKE} s");
            ensure!(*rekeyed, "{flood}: the new peer's session was not renewed");
            ensure!(
                *session_drops == 0,
                "{flood}: {session_drops} packets dropped for want of the right session"
            );
            ensure!(*growth_kib <= GROWTH, "{flood}: memory grew by {growth_kib} KiB");
        }
        let heard =
            |flood: Flood| self.floods.iter().any(|f| f.flood == flood.name() && f.cookie_replies > 0);
        ensure!(
            heard(Flood::NoCookie) && heard(Flood::Replay),
            "no cookie was demanded: this proves nothing"
        );
        Ok(())
    }
}

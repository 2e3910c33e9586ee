//! `cargo xtask bench tcp`: what one and many TCP flows get over three slaves, which may have the rate of a real
//! cable; and what all systems cost when nobody sends.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;

use super::figures::{Plot, Results};
use super::options::Common;
use super::samples::Samples;
use super::stand::{self, Name, Stand};
use crate::lab::shaper::{affordable, payload_ceiling};
use crate::lab::system::{Running, System};
use crate::lab::{self, Wire};
use crate::progress::Progress;

/// Numbers of flows.
const FLOWS: [u32; 2] = [1, MANY];
const MANY: u32 = 64;

/// Options of `cargo xtask bench tcp`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Give each slave this many Mbit/s, as on a wire of Ethernet; `auto`: what the machine can carry, by what
    /// forwarder (or the first system) carries without a limit
    #[arg(long, value_name = "MBIT")]
    shape: Option<Cable>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// The rate of a slave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cable {
    /// What the machine can carry.
    Affordable,
    /// This many Mbit/s.
    Mbit(u32),
}

impl FromStr for Cable {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Self::Affordable),
            (_, Ok(mbit)) if mbit > 0 => Ok(Self::Mbit(mbit)),
            _ => Err("it is a number of Mbit/s, or auto"),
        }
    }
}

impl Options {
    /// Those of a part of `bench all`.
    pub fn of(common: &Common, shape: Option<Cable>) -> Self {
        Self { shape, common: common.clone() }
    }

    /// The systems that it measures. null carries no TCP.
    pub fn names(&self) -> Vec<Name> {
        if self.common.systems.is_empty() && self.common.quick {
            return vec![Name::Forwarder, Name::WireguardGo];
        }
        let names = stand::names(&self.common.systems, false).into_iter();
        names.filter(|name| *name != Name::Null).collect()
    }
}

/// Measures.
///
/// # Errors
/// The lab cannot be built. A system that fails is a warning.
pub fn run(options: &Options, progress: Progress) -> Result<Results> {
    let mut results = Results::default();
    let mut samples = Samples::default();
    let wire = if options.shape.is_some() { Wire::Switch } else { Wire::Direct };
    let lab = lab::Options { wire, ..lab::Options::default() };
    let stand = Stand::build(&options.names(), lab, progress, &mut results)?;
    for site in stand.lab.sites() {
        // The payload ceiling is that of segments without options.
        site.host.sysctl("net.ipv4.tcp_timestamps", "0")?;
    }
    let (rounds, seconds, idle) =
        if options.common.quick { (1, 5, 2) } else { (options.common.rounds, 10, 10) };
    let cable = options.shape.map(|cable| shape(&stand, cable, seconds, &mut samples)).transpose()?;
    for round in 1..=rounds {
        progress.step(format!("round {round} of {rounds}"));
        for system in &stand.systems {
            let turn = Turn { stand: &stand, system, cable, seconds, idle, progress };
            if let Err(error) = turn.run(&mut samples) {
                let warning = format!("TCP was not measured: {error:#}");
                progress.step(&warning);
                results.warnings.push(warning);
            }
        }
    }
    samples.add_to(&mut results);
    Ok(results)
}

/// Gives the slaves a rate; returns it, in Mbit/s.
fn shape(stand: &Stand, cable: Cable, seconds: u32, samples: &mut Samples) -> Result<u32> {
    stand.lab.make_shapeable()?;
    let mbit = match cable {
        Cable::Mbit(mbit) => mbit,
        Cable::Affordable => {
            let ours = stand.systems.iter().find(|system| matches!(system, System::Forwarder { .. }));
            let system = ours.or(stand.systems.first()).context("there is no system to be measured")?;
            let carried = stand.with(system, |_| Ok(stand.tcp(MANY, seconds)?.mbps))?;
            samples.add(
                &system.name(),
                "tcp over slaves without a limit",
                &MANY.to_string(),
                "Mbit/s",
                carried,
            );
            let mbit = affordable(carried, stand.lab.options.ports);
            let name = system.name();
            stand.progress.step(format!("  {name} without a limit: {carried:.0} Mbit/s; slaves get {mbit}"));
            mbit
        }
    };
    stand.lab.shape(mbit)?;
    Ok(mbit)
}

/// One system in one round.
struct Turn<'a> {
    stand: &'a Stand,
    system: &'a System,
    /// Mbit/s of each slave, if it is limited.
    cable: Option<u32>,
    seconds: u32,
    /// Seconds without traffic.
    idle: u32,
    progress: Progress,
}

impl Turn<'_> {
    fn run(&self, samples: &mut Samples) -> Result<()> {
        self.stand.with(self.system, |running| {
            self.idle(running, samples)?;
            for flows in FLOWS {
                let before = self.drops(running)?;
                self.flows(flows, samples)?;
                for (reason, count) in self.drops(running)? {
                    let grown = count - before.get(&reason).copied().unwrap_or_default();
                    if grown > 0 {
                        self.progress.step(format!("    dropped by the gateways: {grown}, {reason}"));
                    }
                }
            }
            Ok(())
        })
    }

    /// Packets dropped so far, by the gateways' reasons and by their interfaces.
    fn drops(&self, running: &mut Running) -> Result<BTreeMap<String, u64>> {
        let mut drops = running.drops()?;
        drops.insert("interface".to_owned(), self.stand.lab.interface_drops()?);
        Ok(drops)
    }

    /// CPU time of the gateways' own processes: the kernel has none without packets.
    fn idle(&self, running: &Running, samples: &mut Samples) -> Result<()> {
        let Some(before) = running.cpu_seconds()? else { return Ok(()) };
        thread::sleep(Duration::from_secs(self.idle.into()));
        let spent = running.cpu_seconds()?.unwrap_or(before) - before;
        let percent = 100.0 * spent / f64::from(self.idle);
        samples.add(&self.system.name(), "idle cpu of both gateways", "0", "% of a CPU", percent);
        Ok(())
    }

    fn flows(&self, flows: u32, samples: &mut Samples) -> Result<()> {
        let (name, size, lab) = (self.system.name(), flows.to_string(), &self.stand.lab);
        let before = self.stand.slave_bytes()?;
        let run = self.stand.tcp(flows, self.seconds)?;
        let after = self.stand.slave_bytes()?;
        let bytes: Vec<f64> =
            after.iter().zip(&before).map(|(after, before)| (after - before) as f64).collect();

        let measure = self.cable.map_or("tcp".to_owned(), |mbit| format!("tcp over slaves of {mbit} Mbit/s"));
        samples.add(&name, &measure, &size, "Mbit/s", run.mbps);
        let sent = run.tcp.retransmits as f64 / run.tcp.segments.max(1) as f64;
        samples.add(&name, "tcp loss, as retransmitted", &size, "%", 100.0 * sent);
        self.progress.step(format!("  {name}, {flows} flows: {:.0} Mbit/s", run.mbps));
        if let Some(mbit) = self.cable {
            let cable = payload_ceiling(mbit);
            let fill = |mbps: f64, ceiling: f64| 100.0 * mbps / ceiling;
            let all = cable * f64::from(lab.options.ports);
            samples.add(&name, "tcp fill of all slaves", &size, "%", fill(run.mbps, all));
            // One flow has one slave.
            let slaves = if flows == MANY { shares(&bytes) } else { Vec::new() };
            for (slave, share) in slaves.into_iter().enumerate() {
                let measure = format!("tcp fill of slave {slave}");
                samples.add(&name, &measure, &size, "%", fill(run.mbps * share, cable));
            }
        }
        let points = (0..).zip(bytes).map(|(slave, bytes)| [f64::from(slave), bytes]).collect();
        samples.curve(&name, Plot::Slaves, &format!("{size} TCP flows"), points);
        Ok(())
    }
}

/// Each slave's share of all bytes, from 0 to 1.
fn shares(bytes: &[f64]) -> Vec<f64> {
    let all = bytes.iter().sum::<f64>().max(1.0);
    bytes.iter().map(|bytes| bytes / all).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cable_has_a_rate_or_an_affordable_one() {
        assert_eq!(("auto".parse(), "300".parse()), (Ok(Cable::Affordable), Ok(Cable::Mbit(300))));
        for wrong in ["0", "-1", "fast", ""] {
            wrong.parse::<Cable>().expect_err(wrong);
        }
    }

    #[test]
    fn shares_add_up() {
        assert_eq!(shares(&[1.0, 2.0, 1.0]), [0.25, 0.5, 0.25]);
        assert_eq!(shares(&[0.0, 0.0]), [0.0, 0.0]);
    }
}

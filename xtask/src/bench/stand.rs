//! The test stand: a lab, the systems that take turns in it, and the generator between its LAN hosts.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;

use super::figures::Results;
use super::samples::Samples;
use crate::lab::generator::{self, Generator, Load, Rate, Search};
use crate::lab::peer::Implementation;
use crate::lab::system::{Running, System};
use crate::lab::traffic::TcpRun;
use crate::lab::{self, Lab, counters, traffic};
use crate::progress::Progress;
use crate::workspace;

/// Sizes of packets: inner IP lengths in bytes, and the mix.
pub const SIZES: [&str; 8] = ["46", "110", "238", "494", "1006", "1262", "1420", "imix"];
/// Those of a quick run.
pub const QUICK_SIZES: [&str; 3] = ["46", "1420", "imix"];
/// The loss that the partial drop rate allows.
pub const PDR_LOSS: f64 = 0.005;
/// Enough for all tunnels and slaves to get their share.
const FLOWS: u16 = 1024;
/// A system is warm when it carries this, which it loses no more of than [`WARM_LOSS`].
const WARM_PPS: u64 = 2000;
const WARM_LOSS: f64 = 0.01;
const WARM_TRIES: u32 = 20;
/// Settings of the null system that are tried: frames of a burst, microseconds of rest, frames under way.
const SWEEP: [[u32; 3]; 7] = [
    [64, 50, 512],
    [64, 20, 512],
    [64, 100, 512],
    [64, 50, 2048],
    [64, 100, 2048],
    [32, 50, 512],
    [64, 0, 512],
];
/// As many of them are tried in a quick run.
const QUICK_SWEEP: usize = 3;

/// The systems that can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Copies frames to the outer size over AF_XDP: the lab's ceiling
    Null,
    /// The kernel's forwarding, without a tunnel
    IpForward,
    /// forwarder on AF_XDP
    Forwarder,
    /// forwarder without AF_XDP
    IoUring,
    /// wireguard-go
    WireguardGo,
    /// As many wireguard-go as slaves, by ECMP
    WireguardGoEcmp,
    /// gotatun
    Gotatun,
    /// As many gotatun as slaves, by ECMP
    GotatunEcmp,
    /// boringtun
    Boringtun,
    /// As many boringtun as slaves, by ECMP
    BoringtunEcmp,
    /// The kernel's WireGuard
    Kernel,
    /// As many of the kernel's tunnels as slaves, by ECMP
    KernelEcmp,
}

impl Name {
    /// The systems of a quick run.
    pub const QUICK: [Self; 4] = [Self::Null, Self::IpForward, Self::Forwarder, Self::WireguardGo];

    fn system(self, ports: u8, progress: Progress) -> Result<System> {
        let peer = |implementation, tunnels| System::peer(implementation, tunnels, progress);
        match self {
            Self::Null => {
                Ok(System::Null { program: workspace::program("release", "bench")?, settings: Vec::new() })
            }
            Self::IpForward => Ok(System::IpForward),
            Self::Forwarder => System::forwarder(),
            Self::IoUring => Ok(System::IoUring { program: workspace::program("release", "forwarder")? }),
            Self::WireguardGo => peer(Implementation::WireguardGo, 1),
            Self::WireguardGoEcmp => peer(Implementation::WireguardGo, ports),
            Self::Gotatun => peer(Implementation::Gotatun, 1),
            Self::GotatunEcmp => peer(Implementation::Gotatun, ports),
            Self::Boringtun => peer(Implementation::Boringtun, 1),
            Self::BoringtunEcmp => peer(Implementation::Boringtun, ports),
            Self::Kernel => Ok(System::KernelWireguard { tunnels: 1 }),
            Self::KernelEcmp => Ok(System::KernelWireguard { tunnels: ports }),
        }
    }
}

/// Installs the systems that are to be measured, as the invoking user.
///
/// # Errors
/// One cannot be had here.
pub fn prepare(names: &[Name], progress: Progress) -> Result<()> {
    for name in names {
        // Ours are built by now.
        name.system(1, progress)?;
    }
    Ok(())
}

/// All systems, or those that were asked for.
pub fn names(asked: &[Name], quick: bool) -> Vec<Name> {
    match (asked, quick) {
        ([], true) => Name::QUICK.to_vec(),
        ([], false) => Name::value_variants().to_vec(),
        (asked, _) => asked.to_vec(),
    }
}

/// All sizes, or those that were asked for.
pub fn sizes(asked: &[String], quick: bool) -> Vec<String> {
    match (asked, quick) {
        ([], true) => QUICK_SIZES.map(str::to_owned).to_vec(),
        ([], false) => SIZES.map(str::to_owned).to_vec(),
        (asked, _) => asked.to_vec(),
    }
}

/// A lab with the systems.
#[derive(Debug)]
pub struct Stand {
    /// The two sites.
    pub lab: Lab,
    /// The systems, in the order of their turns.
    pub systems: Vec<System>,
    program: PathBuf,
    /// Where what happens is told.
    pub progress: Progress,
}

impl Stand {
    /// Builds the lab, without what this machine's kernel does not have; that is a warning.
    ///
    /// # Errors
    /// Not root, or something was not built.
    pub fn build(
        names: &[Name],
        options: lab::Options,
        progress: Progress,
        results: &mut Results,
    ) -> Result<Self> {
        let mut names = names.to_vec();
        if names.iter().any(|name| matches!(name, Name::Kernel | Name::KernelEcmp))
            && !lab::kernel_has("wireguard")?
        {
            names.retain(|name| !matches!(name, Name::Kernel | Name::KernelEcmp));
            results.warnings.push("kernel wireguard is not measured: this kernel has none".to_owned());
        }
        progress.step("building two sites");
        let lab = Lab::build(options)?;
        let systems =
            names.iter().map(|name| name.system(options.ports, progress)).collect::<Result<Vec<_>>>()?;
        let program = workspace::program("release", "bench")?;
        Ok(Self { lab, systems, program, progress })
    }

    /// What the generator sends, for trials of so many seconds.
    pub fn load<'a>(&self, size: &'a str, seconds: f64) -> Load<'a> {
        // Where there is none to spare the receiving gateway's: it has less to do than the one that seals.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let core = if cores > 2 { 2 } else { self.lab.b.side.core() };
        Load { size, flows: FLOWS, seconds, core, ..Load::SMALL }
    }

    /// The generator, from A to B.
    pub fn generator(&self) -> Generator<'_> {
        Generator { program: &self.program, ends: self.lab.sites() }
    }

    /// Starts the system, lets it carry some packets, does `work` and stops it.
    ///
    /// # Errors
    /// It does not start, or carries nothing; or those of `work`.
    pub fn with<T>(&self, system: &System, work: impl FnOnce(&mut Running) -> Result<T>) -> Result<T> {
        let work = || {
            let mut running = system.start(&self.lab)?;
            self.warm()?;
            work(&mut running)
        };
        work().with_context(|| system.name())
    }

    fn warm(&self) -> Result<()> {
        let target = self.lab.b.host_address().into();
        traffic::wait_reachable(&self.lab.a.host, target, Duration::from_secs(15))?;
        for _ in 0..WARM_TRIES {
            if self.generator().offer(self.load("46", 0.25), WARM_PPS)?.loss < WARM_LOSS {
                return Ok(());
            }
        }
        bail!("it loses more than {} % of {WARM_PPS} packets/s", 100.0 * WARM_LOSS)
    }

    /// Measures what the generator itself can do, without loss and with some; it is printed, and noted.
    ///
    /// # Errors
    /// It fails.
    pub fn ceiling(&self, load: Load, search: Search, samples: &mut Samples) -> Result<u64> {
        let report = generator::ceiling(&self.program, load, search)?;
        let pps = report.goals.iter().map(|rate| rate.pps).max().unwrap_or_default();
        self.progress.step(format!("{}: the generator's own ceiling is {pps} packets/s", load.size));
        samples.add("generator", "ceiling", load.size, "packets/s", pps as f64);
        Ok(pps)
    }

    /// CPU seconds of the whole machine per second that the generator and its sink take at that rate.
    ///
    /// # Errors
    /// It fails.
    pub fn baseline(&self, load: Load, pps: u64) -> Result<f64> {
        Ok(generator::offer_alone(&self.program, load, pps)?.cpu.busy / load.seconds)
    }

    /// Looks for the null system's best settings, if it is among the systems, and prints what it tried.
    pub fn sweep_null(&mut self, quick: bool) {
        let Some(at) = self.systems.iter().position(|system| matches!(system, System::Null { .. })) else {
            return;
        };
        let tried = if quick { &SWEEP[..QUICK_SWEEP] } else { &SWEEP[..] };
        let search = Search { losses: &[PDR_LOSS], width: 0.1, repeats: 1, trials: 20 };
        let mut best = 0;
        for &[burst, rest, unsent] in tried {
            let settings = format!("--burst {burst} --rest {rest} --unsent {unsent}");
            let words = settings.split(' ').map(str::to_owned).collect();
            let system = System::Null { program: self.program.clone(), settings: words };
            let load = self.load("46", 0.4);
            let report = self.with(&system, |_| self.generator().search(load, search, u64::from(u32::MAX)));
            let pps = match report {
                Ok(report) => report.goals.first().map_or(0, |rate| rate.pps),
                Err(error) => {
                    self.progress.step(format!("null {settings}: {error:#}"));
                    continue;
                }
            };
            self.progress.step(format!("null {settings}: {pps} packets/s"));
            if pps > best {
                best = pps;
                self.systems[at] = system;
            }
        }
    }

    /// TCP from A to B.
    ///
    /// # Errors
    /// iperf3 fails.
    pub fn tcp(&self, flows: u32, seconds: u32) -> Result<TcpRun> {
        traffic::tcp(&self.lab.a, &self.lab.b, flows, seconds, &self.lab.directory().join("iperf3.log"))
    }

    /// Bytes that have come to B over each slave so far.
    ///
    /// # Errors
    /// A slave is gone.
    pub fn slave_bytes(&self) -> Result<Vec<u64>> {
        let slaves = self.lab.b.slaves(self.lab.options);
        slaves.iter().map(|slave| Ok(counters::link(&self.lab.b.gateway, slave)?.rx_bytes)).collect()
    }
}

/// Whether a system is one of the others that run in user space.
pub fn is_peer(system: &System) -> bool {
    matches!(system, System::Peer { .. })
}

/// What makes a rate less true than it looks.
pub fn doubts(system: &System, measure: &str, size: &str, rate: &Rate, ceiling: u64) -> Vec<String> {
    let name = system.name();
    let mut doubts = Vec::new();
    if rate.generator_bound {
        doubts.push(format!(
            "{name}, {measure} at {size}: the generator may be what limits it (alone it does {ceiling} packets/s)"
        ));
    }
    if !rate.complete {
        doubts.push(format!("{name}, {measure} at {size}: too few trials to be sure"));
    }
    doubts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_has_fewer_of_all() {
        assert_eq!(names(&[], true), Name::QUICK);
        assert!(names(&[], false).len() > Name::QUICK.len());
        assert_eq!(names(&[Name::Gotatun], true), [Name::Gotatun]);
        assert_eq!(sizes(&["110".to_owned()], true), ["110"]);
        assert!(sizes(&[], true).len() < sizes(&[], false).len());
    }
}

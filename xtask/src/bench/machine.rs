//! Where figures come from: the machine, the versions, the command; and what of it makes them less true.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::command::Run as _;
use crate::lab::counters::CpuTime;
use crate::workspace;

/// Cores that the lab wants: two gateways, the generator with its sink, and everything else.
const LAB_CORES: usize = 4;
/// Load average at the start from which on something else was running.
const QUIET_LOAD: f64 = 0.5;
/// Share of the CPU time that the hypervisor may take before it is told in the warnings.
const STOLEN: f64 = 0.001;

/// What a report says at its top.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    /// When the run began, UTC.
    pub date: String,
    /// What was typed.
    pub command: String,
    /// Release of the kernel.
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Threads of a core.
    pub threads_per_core: Option<usize>,
    /// Who sets the clock rate (cpufreq's governor); none where the machine does not show it.
    pub governor: Option<String>,
    /// Whether it is a virtual machine.
    pub virtual_machine: bool,
    /// Load average of the last minute when the run began.
    pub load: f64,
    /// Names and versions of what takes part, this project first.
    pub versions: Vec<[String; 2]>,
}

/// A run that has begun.
#[derive(Debug)]
pub struct Begun {
    machine: Machine,
    cpu: CpuTime,
}

impl Begun {
    /// Looks at the machine before anything runs.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn now() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let load = fs::read_to_string("/proc/loadavg")?;
        let cpu0 = Path::new("/sys/devices/system/cpu/cpu0");
        let machine = Machine {
            date: Command::new("date").args(["--utc", "+%Y-%m-%d %H:%M UTC"]).text()?.trim().to_owned(),
            command: command_line(std::env::args()),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            processor: field(&cpuinfo, "model name").unwrap_or("unknown").to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            threads_per_core: read(&cpu0.join("topology/thread_siblings_list")).map(|list| threads(&list)),
            governor: read(&cpu0.join("cpufreq/scaling_governor")),
            virtual_machine: field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            load: load.split(' ').next().context("an empty /proc/loadavg")?.parse()?,
            versions: versions()?,
        };
        Ok(Self { machine, cpu: CpuTime::now()? })
    }

    /// The machine, and what of it makes the figures untrue.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn end(self) -> Result<(Machine, Vec<String>)> {
        let passed = CpuTime::now()?.since(self.cpu);
        let warnings = warnings(&self.machine, passed.stolen / passed.all);
        Ok((self.machine, warnings))
    }
}

fn warnings(machine: &Machine, stolen: f64) -> Vec<String> {
    let Machine { cores, load, .. } = machine;
    let mut warnings = Vec::new();
    if *cores < LAB_CORES {
        warnings.push(format!(
            "{cores} cores of the {LAB_CORES} that the lab wants: the generator and both gateways share them, so \
             rates are those of all of them together"
        ));
    }
    if machine.virtual_machine {
        let taken = if stolen > STOLEN {
            format!("the hypervisor took {:.1} % of the CPU time during this run", 100.0 * stolen)
        } else {
            "its caches, memory and clock rate are shared with neighbours".to_owned()
        };
        warnings.push(format!("a virtual machine: {taken}"));
    }
    if *load > QUIET_LOAD {
        warnings.push(format!("the machine was busy in the minute before the start (a build counts, too): load average {load:.2}"));
    }
    if let Some(governor) = machine.governor.as_ref().filter(|governor| *governor != "performance") {
        warnings.push(format!("the clock rate may change during a run: cpufreq's governor is {governor}"));
    }
    if machine.threads_per_core.is_some_and(|threads| threads > 1) {
        warnings.push("cores are shared by hardware threads (SMT), which slow each other down".to_owned());
    }
    warnings
}

/// The versions of this project and of the peers that are installed.
fn versions() -> Result<Vec<[String; 2]>> {
    let target = workspace::target()?;
    let git = |arguments: &[&str]| Command::new("git").current_dir(workspace::root()).args(arguments).text();
    let mut versions = Vec::new();
    // There is no git in an unpacked archive.
    if let Ok(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
        let changed = if changed.trim().is_empty() { "" } else { ", with changes that are not committed" };
        versions.push(["commit".to_owned(), format!("{}{changed}", commit.trim())]);
    }
    for (name, program) in [
        ("forwarder", "release/forwarder"),
        ("wireguard-go", "wireguard-go/wireguard-go"),
        ("gotatun", "peers/bin/gotatun"),
        ("boringtun", "peers/bin/boringtun-cli"),
    ] {
        // Those that are not built yet take no part, or are built by the run itself.
        if let Ok(text) = Command::new(target.join(program)).arg("--version").text() {
            versions.push([name.to_owned(), version(&text)]);
        }
    }
    if let Ok(text) = Command::new("iperf3").arg("--version").text() {
        versions.push(["iperf3".to_owned(), version(&text)]);
    }
    Ok(versions)
}

/// The second word of a program's first line: the first is its name.
fn version(text: &str) -> String {
    text.split_whitespace().nth(1).unwrap_or("unknown").to_owned()
}

/// What was typed: cargo's alias in place of the path of this program.
fn command_line(arguments: impl Iterator<Item = String>) -> String {
    let arguments = arguments.skip(1).filter(|argument| argument != "--lab-only");
    std::iter::once("cargo xtask".to_owned()).chain(arguments).collect::<Vec<_>>().join(" ")
}

/// The value of the first line `name : value`.
fn field<'a>(cpuinfo: &'a str, name: &str) -> Option<&'a str> {
    let lines = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    let mut values = lines.filter(|(key, _)| key.trim() == name).map(|(_, value)| value.trim());
    values.next()
}

/// How many CPUs are in a list as `0-1,4`.
fn threads(list: &str) -> usize {
    let count = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        Some((last + 1).saturating_sub(first))
    };
    list.split(',').filter_map(count).sum()
}

fn read(path: &Path) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_can_be_described() {
        let (machine, warnings) = Begun::now().expect("it begins").end().expect("it ends");
        assert!(machine.cores > 0 && !machine.kernel.is_empty() && machine.date.ends_with("UTC"));
        assert_eq!(
            machine.cores < LAB_CORES,
            warnings.iter().any(|text| text.contains("that the lab wants"))
        );
    }

    #[test]
    fn what_makes_figures_untrue_is_told() {
        let good = Machine { cores: 16, governor: Some("performance".into()), ..Machine::default() };
        assert_eq!(warnings(&good, 0.0), [""; 0]);
        let bad = Machine {
            cores: 2,
            virtual_machine: true,
            load: 4.0,
            governor: Some("powersave".into()),
            threads_per_core: Some(2),
            ..good
        };
        let text = warnings(&bad, 0.02);
        assert_eq!(text.len(), 5);
        for part in ["2 cores of the 4", "took 2.0 %", "load average 4.00", "powersave", "SMT"] {
            assert!(text.iter().any(|text| text.contains(part)), "{part}: {text:?}");
        }
    }

    #[test]
    fn facts_are_read_from_their_files() {
        assert_eq!(field("a\t: 1\nmodel name\t: EPYC: 2\nmodel name : b\n", "model name"), Some("EPYC: 2"));
        assert_eq!([threads("0"), threads("0-1"), threads("0,64"), threads("")], [1, 2, 2, 0]);
        assert_eq!(version("wireguard-go v0.0.20250522\n\nmore"), "v0.0.20250522");
        let typed = ["/target/debug/xtask", "bench", "all", "--lab-only", "--quick"].map(String::from);
        assert_eq!(command_line(typed.into_iter()), "cargo xtask bench all --quick");
    }
}

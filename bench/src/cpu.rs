//! CPU time of the whole machine.

use std::fs;

use anyhow::Context as _;
use serde::Serialize;

/// Clock ticks a second of every figure that the kernel shows (`USER_HZ`).
const USER_HZ: f64 = 100.0;

/// Seconds that all CPUs together spent, since boot or in a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CpuSeconds {
    /// In user space.
    pub user: f64,
    /// In system calls and kernel threads.
    pub system: f64,
    /// In interrupts, most of which is the network's.
    pub softirq: f64,
    /// Taken by the hypervisor for other machines.
    pub steal: f64,
}

impl CpuSeconds {
    /// Reads them.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn now() -> anyhow::Result<Self> {
        parse(&fs::read_to_string("/proc/stat")?).context("no CPU in /proc/stat")
    }

    /// What was spent since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user - earlier.user,
            system: self.system - earlier.system,
            softirq: self.softirq - earlier.softirq,
            steal: self.steal - earlier.steal,
        }
    }
}

fn parse(stat: &str) -> Option<CpuSeconds> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let seconds = all.split_whitespace().map_while(|ticks| Some(ticks.parse::<f64>().ok()? / USER_HZ));
    // proc(5)
    let [user, nice, system, _idle, _iowait, irq, softirq, steal] =
        seconds.take(8).collect::<Vec<_>>().try_into().ok()?;
    Some(CpuSeconds { user: user + nice, system, softirq: irq + softirq, steal })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_told_apart() {
        let seconds = parse("cpu  100 20 300 9999 9999 40 500 60 0 0\ncpu0 1\n");
        assert_eq!(seconds, Some(CpuSeconds { user: 1.2, system: 3.0, softirq: 5.4, steal: 0.6 }));
        assert_eq!(parse("cpu  1 2 3\n"), None);
        assert_eq!(parse(""), None);
    }
}

//! CPU time of the whole machine.

use std::fs;

use anyhow::Context as _;
use forwarder::clock::{Boottime, boottime};
use serde::Serialize;

/// Clock ticks a second of every figure that the kernel shows (`USER_HZ`).
const USER_HZ: f64 = 100.0;

/// Seconds that all CPUs together spent in a trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct CpuSeconds {
    /// With anything but waiting: what is left of the time when they were neither idle nor taken away. The kernel has the
    /// time in which it was idle by its clock.
    pub busy: f64,
    /// In user space. This and the next ones are guesses in most kernels: who has the CPU when a clock tick comes,
    /// 100 to 1000 times a second, is held to have had it since the last one.
    pub user: f64,
    /// In system calls and kernel threads.
    pub system: f64,
    /// In interrupts, most of which is the network's.
    pub softirq: f64,
}

/// What the kernel counted since boot, in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reading {
    at: Boottime,
    cpus: f64,
    /// Idle, with and without outstanding I/O, or running another machine.
    waiting: f64,
    user: f64,
    system: f64,
    softirq: f64,
}

impl Reading {
    /// Reads it.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn now() -> anyhow::Result<Self> {
        parse(&fs::read_to_string("/proc/stat")?, boottime()).context("no CPU in /proc/stat")
    }

    /// What was spent since `earlier`.
    pub fn since(self, earlier: Self) -> CpuSeconds {
        let elapsed = self.cpus * self.at.since(earlier.at).as_secs_f64();
        CpuSeconds {
            busy: (elapsed - (self.waiting - earlier.waiting)).max(0.0),
            user: self.user - earlier.user,
            system: self.system - earlier.system,
            softirq: self.softirq - earlier.softirq,
        }
    }
}

fn parse(stat: &str, at: Boottime) -> Option<Reading> {
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let seconds = all.split_whitespace().map_while(|ticks| Some(ticks.parse::<f64>().ok()? / USER_HZ));
    // proc(5)
    let [user, nice, system, idle, iowait, irq, softirq, steal] =
        seconds.take(8).collect::<Vec<_>>().try_into().ok()?;
    let cpus = stat.lines().filter(|line| line.starts_with("cpu")).count() - 1;
    let waiting = idle + iowait + steal;
    Some(Reading { at, cpus: cpus as f64, waiting, user: user + nice, system, softirq: irq + softirq })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn seconds_are_told_apart() {
        let earlier =
            parse("cpu  0 0 0 0 0 0 0 0 0 0\ncpu0 1\ncpu1 1\n", Boottime(Duration::ZERO)).expect("a reading");
        let now = Boottime(Duration::from_secs(4));
        let later =
            parse("cpu  100 20 30 300 10 40 50 60 0 0\ncpu0 1\ncpu1 1\nctxt 7\n", now).expect("a reading");
        let spent = later.since(earlier);
        assert!((spent.busy - 4.3).abs() < 1e-9, "of 8 s");
        assert_eq!(
            CpuSeconds { busy: 0.0, ..spent },
            CpuSeconds { busy: 0.0, user: 1.2, system: 0.3, softirq: 0.9 }
        );
        assert_eq!(parse("cpu  1 2 3\n", now), None);
        assert_eq!(parse("", now), None);
    }
}

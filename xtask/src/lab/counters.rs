//! What the kernel counted.

use std::fs;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::Netns;

/// Counters of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Bytes sent, Ethernet headers included.
    pub tx_bytes: u64,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Frames received.
    pub rx_packets: u64,
    /// Frames that the interface dropped, either way.
    pub dropped: u64,
}

impl Link {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            tx_bytes: self.tx_bytes - earlier.tx_bytes,
            rx_bytes: self.rx_bytes - earlier.rx_bytes,
            tx_packets: self.tx_packets - earlier.tx_packets,
            rx_packets: self.rx_packets - earlier.rx_packets,
            dropped: self.dropped - earlier.dropped,
        }
    }
}

/// Reads an interface's counters.
///
/// # Errors
/// There is no such interface.
pub fn link(namespace: &Netns, interface: &str) -> Result<Link> {
    let json = namespace.ip(&format!("-s -j link show dev {interface}"))?;
    parse_link(&json).with_context(|| format!("the counters of {interface}"))
}

fn parse_link(json: &str) -> Result<Link> {
    #[derive(Deserialize)]
    struct Entry {
        stats64: Stats,
    }
    #[derive(Deserialize)]
    struct Stats {
        rx: Way,
        tx: Way,
    }
    #[derive(Deserialize)]
    struct Way {
        bytes: u64,
        packets: u64,
        dropped: u64,
    }
    let entries: Vec<Entry> = serde_json::from_str(json)?;
    let Stats { rx, tx } = entries.into_iter().next().context("no interface in the answer")?.stats64;
    Ok(Link {
        tx_bytes: tx.bytes,
        rx_bytes: rx.bytes,
        tx_packets: tx.packets,
        rx_packets: rx.packets,
        dropped: rx.dropped + tx.dropped,
    })
}

/// TCP's own counters in a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tcp {
    /// Segments sent, retransmitted ones not included.
    pub segments: u64,
    /// Segments sent again.
    pub retransmits: u64,
}

impl Tcp {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            segments: self.segments - earlier.segments,
            retransmits: self.retransmits - earlier.retransmits,
        }
    }
}

/// Reads TCP's counters (RFC 4022: tcpOutSegs, tcpRetransSegs).
///
/// # Errors
/// The kernel has none.
pub fn tcp(namespace: &Netns) -> Result<Tcp> {
    parse_snmp(&namespace.run("cat /proc/net/snmp")?)
}

fn parse_snmp(snmp: &str) -> Result<Tcp> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = lines.next().zip(lines.next()).context("no TCP counters in /proc/net/snmp")?;
    let value = |wanted: &str| {
        let mut pairs = names.split(' ').zip(values.split(' '));
        let (_, value) = pairs.find(|(name, _)| *name == wanted).context("a TCP counter is missing")?;
        Ok::<u64, anyhow::Error>(value.parse()?)
    };
    Ok(Tcp { segments: value("OutSegs")?, retransmits: value("RetransSegs")? })
}

/// A process's resident memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// KiB now (`VmRSS`).
    pub resident_kib: i64,
    /// KiB at most since [`forget_peak`] or its start (`VmHWM`).
    pub peak_kib: i64,
}

/// Reads a process's memory.
///
/// # Errors
/// It has ended.
pub fn memory(pid: u32) -> Result<Memory> {
    parse_status(&fs::read_to_string(format!("/proc/{pid}/status"))?)
}

/// Lets the peak of a process's memory begin anew.
///
/// # Errors
/// It has ended, or is another user's.
pub fn forget_peak(pid: u32) -> Result<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

fn parse_status(status: &str) -> Result<Memory> {
    let kib = |name: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        Ok::<i64, anyhow::Error>(value.with_context(|| format!("no {name} in /proc/PID/status"))?.parse()?)
    };
    Ok(Memory { resident_kib: kib("VmRSS:")?, peak_kib: kib("VmHWM:")? })
}

/// Seconds of all CPUs together, since boot or in a while.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuTime {
    /// All that there were.
    pub all: f64,
    /// Idle, with or without outstanding I/O. Kernels know it by their clock; who was busy they guess once a clock tick.
    pub idle: f64,
    /// Taken by the hypervisor for other machines.
    pub stolen: f64,
}

impl CpuTime {
    /// Those since boot.
    ///
    /// # Errors
    /// /proc is not mounted.
    pub fn now() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?, &fs::read_to_string("/proc/uptime")?)
    }

    /// What has passed since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            all: self.all - earlier.all,
            idle: self.idle - earlier.idle,
            stolen: self.stolen - earlier.stolen,
        }
    }

    /// What this machine used.
    pub fn busy(self) -> f64 {
        self.all - self.idle - self.stolen
    }

    fn parse(stat: &str, uptime: &str) -> Result<Self> {
        /// Clock ticks a second of every figure that the kernel shows (`USER_HZ`).
        const USER_HZ: f64 = 100.0;
        let uptime: f64 = uptime.split(' ').next().context("no time in /proc/uptime")?.parse()?;
        let mut cpus = stat.lines().filter(|line| line.starts_with("cpu"));
        let all = cpus.next().context("no CPU in /proc/stat")?;
        let ticks: Vec<f64> = all.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
        // user, nice, system, idle, iowait, irq, softirq, steal: proc(5).
        let [_, _, _, idle, iowait, _, _, steal, ..] = ticks[..] else {
            bail!("too few figures in /proc/stat")
        };
        Ok(Self {
            all: cpus.count() as f64 * uptime,
            idle: (idle + iowait) / USER_HZ,
            stolen: steal / USER_HZ,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_counters_are_read_from_iproute() {
        let json = r#"[{"ifname":"wan0","stats64":{"rx":{"bytes":1,"packets":2,"errors":0,"dropped":3},
            "tx":{"bytes":4,"packets":5,"errors":0,"dropped":6}}}]"#;
        let link = parse_link(json).expect("valid");
        assert_eq!(link, Link { tx_bytes: 4, rx_bytes: 1, tx_packets: 5, rx_packets: 2, dropped: 9 });
        assert!(parse_link("[]").is_err());
    }

    #[test]
    fn tcp_counters_are_found_by_name() {
        let snmp = "Ip: A B\nIp: 1 2\nTcp: RtoMin InSegs OutSegs RetransSegs\nTcp: 200 10 20 3\n";
        assert_eq!(parse_snmp(snmp).expect("valid"), Tcp { segments: 20, retransmits: 3 });
        assert!(parse_snmp("Tcp: RtoMin\nTcp: 200\n").is_err());
    }

    #[test]
    fn memory_is_read_in_kib() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        let memory = parse_status(status).expect("valid");
        assert_eq!(memory, Memory { resident_kib: 1024, peak_kib: 2048 });
        assert!(parse_status("Name:\tx\n").is_err());
    }

    #[test]
    fn idle_and_stolen_time_is_not_busy_time() {
        let stat = "cpu  100 0 200 300 40 0 300 50 0 0\ncpu0 1\ncpu1 1\nctxt 7\n";
        let time = CpuTime::parse(stat, "5.50 3.00\n").expect("valid");
        assert_eq!(time, CpuTime { all: 11.0, idle: 3.4, stolen: 0.5 });
        assert!((time.busy() - 7.1).abs() < 1e-9);
        assert_eq!(time.since(time), CpuTime { all: 0.0, idle: 0.0, stolen: 0.0 });
        assert!(CpuTime::parse("cpu  1 2 3\n", "5.50 3.00\n").is_err());
        assert!(CpuTime::parse("intr 5\n", "5.50 3.00\n").is_err());
    }
}

//! Counters as a table and as JSON.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use comfy_table::{Table, presets};
use forwarder_contract::Verdict;
use serde::Serialize;

use super::gateway::Gateway;
use super::lanes::Lanes;
use crate::drops::Drop;
use crate::port::PortCounters;

/// What the gateway counted since its start.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The lanes' ports, by device and queue.
    pub ports: Vec<PortReport>,
    /// The tunnels.
    pub tunnels: Vec<TunnelReport>,
    /// Lost packets by reason; reasons that did not occur are left out.
    pub drops: std::collections::BTreeMap<&'static str, u64>,
    /// What the XDP programs decided, over all ports; verdicts that did not occur are left out.
    pub verdicts: std::collections::BTreeMap<&'static str, u64>,
}

/// A port of a lane.
#[derive(Clone, Debug, Serialize)]
pub struct PortReport {
    /// The device.
    pub name: String,
    /// The queue of an AF_XDP socket.
    pub queue: Option<u32>,
    /// What it counted.
    #[serde(flatten)]
    pub counters: PortCounters,
}

/// A tunnel: the sums over its peers, in UDP payload bytes as `wg` counts them.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TunnelReport {
    /// Its file's name.
    pub name: String,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Messages sent.
    pub tx_packets: u64,
    /// Messages received.
    pub rx_packets: u64,
}

impl Report {
    /// Collects the counters; `Publisher::request_counters` was answered before.
    pub fn collect(gateway: &Gateway, lanes: &Lanes) -> Self {
        let ports = lanes.ports.iter().enumerate().flat_map(|(lane, names)| {
            let counters = gateway.publisher.counters(lane);
            let port = |(name, counters): (&super::lanes::PortName, PortCounters)| PortReport {
                name: name.name.clone(),
                queue: name.queue,
                counters,
            };
            names.iter().zip(counters).map(port).collect::<Vec<_>>()
        });
        let dropped = |reason: &Drop| lanes.counters.iter().map(|c| c.drops.get(*reason)).sum();
        let verdicts: Vec<_> = gateway.programs.iter().map(crate::xdp::Program::verdicts).collect();
        let decided = |verdict: &Verdict| verdicts.iter().map(|v| v[*verdict as usize]).sum();
        Self {
            ports: ports.collect(),
            tunnels: tunnels(gateway),
            drops: Drop::ALL.iter().map(|r| (r.label(), dropped(r))).filter(|d| d.1 > 0).collect(),
            verdicts: Verdict::ALL.iter().map(|v| (v.label(), decided(v))).filter(|d| d.1 > 0).collect(),
        }
    }
}

fn tunnels(gateway: &Gateway) -> Vec<TunnelReport> {
    let report = |plan: &crate::topology::TunnelPlan| {
        let mut sum = TunnelReport { name: plan.name.clone(), ..TunnelReport::default() };
        for status in plan.peers.iter().filter_map(|peer| gateway.status(*peer)) {
            sum.tx_bytes += status.tx_bytes;
            sum.rx_bytes += status.rx_bytes;
            sum.tx_packets += status.tx_packets;
            sum.rx_packets += status.rx_packets;
        }
        sum
    };
    gateway.plan.topology.tunnels.iter().map(report).collect()
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut ports = table(&[
            "port",
            "queue",
            "rx packets",
            "rx bytes",
            "tx packets",
            "tx bytes",
            "tx failed",
            "rx lost",
        ]);
        for port in &self.ports {
            let c = &port.counters;
            let queue = port.queue.map_or_else(|| "-".to_owned(), |q| q.to_string());
            let figures = [c.rx_packets, c.rx_bytes, c.tx_packets, c.tx_bytes, c.tx_failed, c.rx_lost];
            ports.add_row([port.name.clone(), queue].into_iter().chain(figures.map(|n| n.to_string())));
        }
        let mut tunnels = table(&["tunnel", "rx packets", "rx bytes", "tx packets", "tx bytes"]);
        for t in &self.tunnels {
            let figures = [t.rx_packets, t.rx_bytes, t.tx_packets, t.tx_bytes];
            tunnels.add_row([t.name.clone()].into_iter().chain(figures.map(|n| n.to_string())));
        }
        writeln!(f, "{ports}\n{tunnels}")?;
        let mut reasons = table(&["dropped", "packets", "why"]);
        for reason in Drop::ALL {
            if let Some(packets) = self.drops.get(reason.label()) {
                reasons.add_row([
                    reason.label().to_owned(),
                    packets.to_string(),
                    reason.sentence().to_owned(),
                ]);
            }
        }
        if reasons.is_empty() { writeln!(f, "no packet dropped") } else { writeln!(f, "{reasons}") }
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header);
    table
}

/// Writes the file whole or not at all: readers never see half of it. It takes the place of what was there, so that may
/// be a file only: not a device as /dev/stdout, nor a link.
///
/// # Errors
/// It is something else, or cannot be written.
pub fn write(file: &Path, report: &impl Serialize) -> io::Result<()> {
    if fs::symlink_metadata(file).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::other("it is a device, a folder or a link: name a plain file"));
    }
    let mut next = PathBuf::from(file);
    next.as_mut_os_string().push(".new");
    // Whoever may write in the folder must not choose by a link what root overwrites.
    let _ = fs::remove_file(&next);
    fs::File::create_new(&next)?.write_all(&serde_json::to_vec(report)?)?;
    fs::rename(next, file)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn counters_take_the_place_of_plain_files_only() {
        let folder = std::env::temp_dir().join(format!("forwarder-counters-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let [file, link] = ["file", "link"].map(|name| folder.join(name));
        for counters in [1, 2] {
            write(&file, &counters).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), counters.to_string());
        }
        symlink("/dev/stdout", &link).unwrap();
        for other in [&link, &folder] {
            assert!(write(other, &3).unwrap_err().to_string().contains("plain file"));
        }
        assert!(link.is_symlink() && folder.is_dir());

        let precious = folder.join("precious");
        fs::write(&precious, "old").unwrap();
        symlink(&precious, folder.join("file.new")).unwrap();
        write(&file, &4).unwrap();
        assert_eq!([&file, &precious].map(|file| fs::read_to_string(file).unwrap()), ["4", "old"]);
        fs::remove_dir_all(folder).unwrap();
    }
}

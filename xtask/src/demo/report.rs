//! The demo's figures: table, JSON and verdict.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::round::Round;
use super::table::Table;
use crate::lab::system::Carried;

/// A slave whose share is below this part of the fullest one's carries no traffic worth the name.
const LEAST_SHARE: f64 = 0.01;

/// All figures, one object a system.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    forwarder: Figures,
    #[serde(skip_serializing_if = "Option::is_none")]
    wireguard_go: Option<Figures>,
}

/// One system's figures: rates are means over the rounds (TCP: and over both ways), counts are sums.
#[derive(Clone, Debug, Serialize)]
struct Figures {
    tcp_mbps: f64,
    tcp_segments: u64,
    tcp_retransmits: u64,
    udp46_pps: f64,
    udp1420_pps: f64,
    reordered: u64,
    clear_frames: u64,
    slaves: Vec<Carried>,
    tunnels: Vec<Carried>,
    drops: BTreeMap<String, u64>,
    #[serde(skip)]
    tcp_mbps_by_way: [f64; 2],
    #[serde(skip)]
    cpus: f64,
    #[serde(skip)]
    generator_bound: bool,
}

impl Report {
    /// Sums up the rounds of forwarder and, if there is a second list, of wireguard-go.
    pub fn new(rounds: &[Vec<Round>]) -> Self {
        Self {
            forwarder: Figures::new(&rounds[0]),
            wireguard_go: rounds.get(1).map(|rounds| Figures::new(rounds)),
        }
    }

    /// Fails unless traffic flowed over all slaves and nothing left in clear.
    pub fn verdict(&self) -> Result<()> {
        let Figures { slaves, clear_frames, .. } = &self.forwarder;
        ensure!(*clear_frames == 0, "{clear_frames} frames on the underlay were not the tunnels'");
        for bytes in [|slave: &Carried| slave.tx_bytes, |slave: &Carried| slave.rx_bytes] {
            let fullest = slaves.iter().map(bytes).max().unwrap_or_default();
            let idle = slaves.iter().find(|slave| (bytes(slave) as f64) < LEAST_SHARE * fullest as f64);
            if let Some(slave) = idle {
                anyhow::bail!("slave {} carried no traffic: {} of {fullest} bytes", slave.name, bytes(slave));
            }
        }
        Ok(())
    }

    /// The table, as lines of text.
    pub fn table(&self) -> String {
        let mut table = Table::new(self.wireguard_go.is_some());
        let mut row = |name: &str, unit: &str, value: fn(&Figures) -> f64| {
            table.row(name, unit, value(&self.forwarder), self.wireguard_go.as_ref().map(value));
        };
        row("TCP a to b, 10 flows", "Mbit/s", |figures| figures.tcp_mbps_by_way[0]);
        row("TCP b to a, 10 flows", "Mbit/s", |figures| figures.tcp_mbps_by_way[1]);
        row("TCP retransmissions", "%", |figures| percent(figures.tcp_retransmits, figures.tcp_segments));
        row("UDP 46 bytes, loss <= 0.5 %", "packets/s", |figures| figures.udp46_pps);
        row("UDP 1420 bytes, loss <= 0.5 %", "packets/s", |figures| figures.udp1420_pps);
        row("reordered within a flow", "packets", |figures| figures.reordered as f64);
        row("clear frames on the underlay", "frames", |figures| figures.clear_frames as f64);
        row("busy CPUs under TCP", "", |figures| figures.cpus);

        let megabytes = |one: &Carried| {
            format!("{} {:.0}/{:.0}", one.name, one.tx_bytes as f64 / 1e6, one.rx_bytes as f64 / 1e6)
        };
        let Figures { slaves, tunnels, drops, .. } = &self.forwarder;
        table.list("UDP by slave of a, MB out/in", slaves.iter().map(megabytes));
        table.list("UDP by tunnel of a, MB out/in", tunnels.iter().map(megabytes));
        table.list("packets dropped", drops.iter().map(|(reason, count)| format!("{reason} {count}")));
        if self.forwarder.generator_bound {
            table.list("note", ["a UDP rate of forwarder is generator-bound".to_owned()].into_iter());
        }
        table.text()
    }
}

impl Figures {
    fn new(rounds: &[Round]) -> Self {
        let mean =
            |value: &dyn Fn(&Round) -> f64| rounds.iter().map(value).sum::<f64>() / rounds.len() as f64;
        let sum = |value: &dyn Fn(&Round) -> u64| rounds.iter().map(value).sum::<u64>();
        let by_way = [mean(&|round| round.tcp[0].mbps), mean(&|round| round.tcp[1].mbps)];
        Self {
            tcp_mbps: f64::midpoint(by_way[0], by_way[1]),
            tcp_segments: sum(&|round| round.tcp.iter().map(|way| way.tcp.segments).sum()),
            tcp_retransmits: sum(&|round| round.tcp.iter().map(|way| way.tcp.retransmits).sum()),
            udp46_pps: mean(&|round| round.udp46.pps as f64),
            udp1420_pps: mean(&|round| round.udp1420.pps as f64),
            reordered: sum(&|round| round.udp46.reordered + round.udp1420.reordered),
            clear_frames: sum(&|round| round.clear_frames),
            slaves: total(rounds.iter().map(|round| &round.slaves)),
            tunnels: total(rounds.iter().map(|round| &round.tunnels)),
            drops: total_drops(rounds),
            tcp_mbps_by_way: by_way,
            cpus: mean(&|round| round.cpus),
            generator_bound: rounds
                .iter()
                .any(|round| round.udp46.generator_bound || round.udp1420.generator_bound),
        }
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

fn total<'a>(rounds: impl Iterator<Item = &'a Vec<Carried>>) -> Vec<Carried> {
    let mut totals: Vec<Carried> = Vec::new();
    for one in rounds.flatten() {
        match totals.iter_mut().find(|total| total.name == one.name) {
            Some(total) => {
                total.tx_bytes += one.tx_bytes;
                total.rx_bytes += one.rx_bytes;
            }
            None => totals.push(one.clone()),
        }
    }
    totals
}

fn total_drops(rounds: &[Round]) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    for (reason, count) in rounds.iter().flat_map(|round| &round.drops) {
        *drops.entry(reason.clone()).or_default() += count;
    }
    drops
}

#[cfg(test)]
mod tests {
    use super::super::round::Udp;
    use super::*;
    use crate::lab::counters::Tcp;
    use crate::lab::traffic::TcpRun;

    fn round() -> Round {
        let rate = Udp { pps: 1000, reordered: 1, generator_bound: false };
        let way = |mbps| TcpRun { mbps, tcp: Tcp { segments: 100, retransmits: 1 } };
        let slave = |name: &str| Carried { name: name.to_owned(), tx_bytes: 1000, rx_bytes: 900 };
        Round {
            tcp: [way(400.0), way(600.0)],
            cpus: 1.5,
            udp46: rate,
            udp1420: Udp { reordered: 0, ..rate },
            slaves: vec![slave("wan0"), slave("wan1")],
            tunnels: vec![slave("wg0")],
            drops: [("replayed".to_owned(), 2)].into(),
            clear_frames: 0,
        }
    }

    #[test]
    fn rates_are_means_and_counts_are_sums() {
        let json = serde_json::to_value(Report::new(&[vec![round(), round()]])).expect("serializes");
        let forwarder = &json["forwarder"];
        assert_eq!(forwarder["tcp_mbps"], 500.0);
        assert_eq!(forwarder["tcp_segments"], 400);
        assert_eq!(forwarder["tcp_retransmits"], 4);
        assert_eq!(forwarder["udp46_pps"], 1000.0);
        assert_eq!(forwarder["reordered"], 2);
        assert_eq!(forwarder["slaves"][1]["rx_bytes"], 1800);
        assert_eq!(forwarder["drops"]["replayed"], 4);
        assert!(json.get("wireguard_go").is_none());
    }

    #[test]
    fn a_clear_frame_fails_the_demo() {
        assert!(Report::new(&[vec![round()]]).verdict().is_ok());
        let report = Report::new(&[vec![Round { clear_frames: 1, ..round() }]]);
        assert!(report.verdict().expect_err("it fails").to_string().starts_with("1 frames"));
    }

    #[test]
    fn an_idle_slave_fails_the_demo() {
        let mut round = round();
        round.slaves[1].rx_bytes = 1;
        let error = Report::new(&[vec![round]]).verdict().expect_err("it fails").to_string();
        assert!(error.contains("wan1"), "{error}");
    }

    #[test]
    fn a_comparison_shows_ratios() {
        let slow = Round { udp46: Udp { pps: 250, ..round().udp46 }, ..round() };
        let table = Report::new(&[vec![round()], vec![slow]]).table();
        assert!(table.contains("4.00 x"), "{table}");
    }
}

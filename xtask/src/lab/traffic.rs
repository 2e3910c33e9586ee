//! Traffic between the LAN hosts: ping and iperf3.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::counters::{self, Tcp};
use super::{Netns, Site};
use crate::command::Run as _;
use crate::progress::wait_until;

/// Waits until one ping of `target` is answered.
///
/// # Errors
/// None is, within `limit`.
pub fn wait_reachable(from: &Netns, target: IpAddr, limit: Duration) -> Result<()> {
    let reached = wait_until(limit, || Ok(ping(from, target, 1)?.received == 1))?;
    ensure!(reached, "{target} does not answer pings from {} within {limit:?}", from.name());
    Ok(())
}

/// What became of a series of pings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ping {
    /// Requests sent.
    pub sent: u32,
    /// Replies received, duplicates not counted.
    pub received: u32,
}

/// Sends `count` pings, five a second, and waits at most a second for the last reply.
///
/// # Errors
/// ping cannot be started, or says something unknown.
pub fn ping(from: &Netns, target: IpAddr, count: u32) -> Result<Ping> {
    let mut ping = from.command("ping");
    ping.args(["-q", "-n", "-i", "0.2", "-W", "1", "-c", &count.to_string(), &target.to_string()]);
    // Its exit code tells lost replies, too: only its summary tells them from errors.
    let output = ping.output().context("cannot run ping")?;
    parse_ping(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("ping {target}"))
}

fn parse_ping(text: &str) -> Result<Ping> {
    let summary =
        text.lines().find(|line| line.contains("packets transmitted")).context("it has no summary")?;
    let mut numbers = summary.split(", ").map(|part| part.split(' ').next().unwrap_or_default().parse());
    let mut next = || numbers.next().context("its summary is cut short");
    Ok(Ping { sent: next()??, received: next()?? })
}

/// Seconds in which connections find their rate: what they carry then is not counted.
const WARM_UP: u32 = 1;

/// A TCP measurement in one direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpRun {
    /// Payload received, in Mbit/s, all flows together.
    pub mbps: f64,
    /// The sending host's segments and retransmissions, those of the warm-up among them.
    pub tcp: Tcp,
}

/// `flows` TCP connections from the LAN host of `from` to that of `to`, for `seconds` after a warm-up.
///
/// # Errors
/// iperf3 fails.
pub fn tcp(from: &Site, to: &Site, flows: u32, seconds: u32, log: &Path) -> Result<TcpRun> {
    tcp_between(&from.host, (&to.host, to.host_address().into()), flows, seconds, log)
}

/// The same from any namespace to an address of another.
///
/// # Errors
/// iperf3 fails.
pub fn tcp_between(
    from: &Netns,
    (to, target): (&Netns, IpAddr),
    flows: u32,
    seconds: u32,
    log: &Path,
) -> Result<TcpRun> {
    let _server = serve(to, target, log)?;
    let before = counters::tcp(from)?;
    let mut client = from.command("iperf3");
    // What most hosts have, whatever this machine's default is: with another one the figures are others.
    client.args(["-C", "cubic", "-O", &WARM_UP.to_string()]);
    client.args(["-J", "-c", &target.to_string(), "-P", &flows.to_string(), "-t", &seconds.to_string()]);
    let json = client.text()?;
    Ok(TcpRun { mbps: parse_iperf3(&json)?, tcp: counters::tcp(from)?.since(before) })
}

fn serve(host: &Netns, address: IpAddr, log: &Path) -> Result<super::Daemon> {
    let _ = std::fs::remove_file(log);
    let mut command = Command::new("iperf3");
    let mut server =
        host.spawn(command.args(["-s", "-1", "--forceflush", "-B", &address.to_string()]), log)?;
    server.wait_for("Server listening", Duration::from_secs(5))?;
    Ok(server)
}

fn parse_iperf3(json: &str) -> Result<f64> {
    #[derive(Deserialize)]
    struct Report {
        end: End,
    }
    #[derive(Deserialize)]
    struct End {
        sum_received: Sum,
    }
    #[derive(Deserialize)]
    struct Sum {
        bits_per_second: f64,
    }
    let report: Report = serde_json::from_str(json).context("iperf3's report")?;
    Ok(report.end.sum_received.bits_per_second / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_counted() {
        let text =
            "--- x ping statistics ---\n5 packets transmitted, 3 received, 40% packet loss, time 812ms\n";
        assert_eq!(parse_ping(text).expect("valid"), Ping { sent: 5, received: 3 });
        let errors = "2 packets transmitted, 0 received, +2 errors, 100% packet loss, time 1ms\n";
        assert_eq!(parse_ping(errors).expect("valid"), Ping { sent: 2, received: 0 });
        assert!(parse_ping("").is_err());
    }

    #[test]
    fn iperf3_reports_bits() {
        let mbps = parse_iperf3(r#"{"end":{"sum_received":{"bits_per_second":1.5e9}}}"#).expect("valid");
        assert!((mbps - 1500.0).abs() < 1e-9);
        assert!(parse_iperf3(r#"{"error":"unable to connect"}"#).is_err());
    }
}

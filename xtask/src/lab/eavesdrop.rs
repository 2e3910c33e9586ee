//! Watching the underlay for frames that should not be there.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use super::address::{Family, listen_port};
use super::{Daemon, Lab, Netns, Options, Side};
use crate::progress::wait_until;

/// Every frame of a healthy underlay matches one of these, in pcap-filter(7)'s language: WireGuard
/// messages of types 1 to 4 between the tunnels' ports, later fragments of them, ICMP errors about them,
/// and the link's own protocols.
const LINK_V4: &str = "arp";
const WIREGUARD_V4: &str = "udp[8] >= 1 and udp[8] <= 4 and udp[9] = 0 and udp[10:2] = 0";
const OTHER_V4: &str = "(ip proto 17 and ip[6:2] & 0x1fff != 0) or (icmp and (icmp[0] = 3 or icmp[0] = 11))";
/// Neighbour and router discovery, whose hop limit says that no router has forwarded it, and multicast
/// listener reports (behind a hop-by-hop header).
const LINK_V6: &str =
    "(ip6[6] = 58 and ip6[7] = 255 and ip6[40] >= 133 and ip6[40] <= 137) or ip6 dst host ff02::16";
/// pcap cannot look into UDP over IPv6 by name: the payload begins 48 bytes after the IPv6 header does.
const WIREGUARD_V6: &str = "ip6[48] >= 1 and ip6[48] <= 4 and ip6[49] = 0 and ip6[50:2] = 0";
const OTHER_V6: &str = "ip6[6] = 44 or (ip6[6] = 58 and ip6[40] <= 4)";
const SLOW_PROTOCOLS: &str = "ether proto 0x8809 or ether proto 0x88cc";

/// The filter that matches every frame which a healthy underlay does not carry.
pub fn violations(options: Options) -> String {
    let ports = format!("{}-{}", listen_port(0), listen_port(options.ports - 1));
    let udp = format!("udp src portrange {ports} and udp dst portrange {ports}");
    let (networks, wireguard, other) = match options.underlay {
        Family::V4 => ("10.200.0.0/16", WIREGUARD_V4, OTHER_V4),
        Family::V6 => ("fd00:200::/32", WIREGUARD_V6, OTHER_V6),
    };
    let gateways = format!("src net {networks} and dst net {networks}");
    format!(
        "not ({LINK_V4} or {LINK_V6} or {SLOW_PROTOCOLS} or ({gateways} and (({udp} and {wireguard}) or {other})))"
    )
}

/// Packet captures that run until they are asked for what they saw.
#[derive(Debug)]
pub struct Eavesdropper {
    captures: Vec<Daemon>,
    directory: PathBuf,
}

impl Eavesdropper {
    /// Captures nothing yet; keeps its files in `directory`.
    pub fn new(directory: &Path) -> Self {
        Self { captures: Vec::new(), directory: directory.to_owned() }
    }

    /// Captures the frames that come in by an interface and match a pcap filter. It captures already when
    /// this returns.
    ///
    /// # Errors
    /// tcpdump does not start, or does not understand the filter.
    pub fn watch(&mut self, namespace: &Netns, interface: &str, filter: &str) -> Result<()> {
        let log = self.directory.join(format!("capture-{}-{interface}", namespace.name()));
        // What an earlier capture said would count as this one's.
        let _ = std::fs::remove_file(&log);
        let mut tcpdump = Command::new("tcpdump");
        tcpdump.args(["-i", interface, "-Q", "in", "-n", "-p", "-q", "-t", "-e", "-l", "--immediate-mode"]);
        let mut capture = namespace.spawn(tcpdump.arg(filter), &log)?;
        capture.wait_for("listening on", Duration::from_secs(10))?;
        self.captures.push(capture);
        Ok(())
    }

    /// The frames seen so far, one line each.
    ///
    /// # Errors
    /// A capture's file is gone.
    pub fn frames(&self) -> Result<Vec<String>> {
        let mut frames = Vec::new();
        for capture in &self.captures {
            frames.extend(capture.output()?.lines().filter(|line| is_frame(line)).map(str::to_owned));
        }
        Ok(frames)
    }

    /// The control: lets clear frames out on every underlay network and expects to see each of them.
    ///
    /// # Errors
    /// A clear frame was let out and not caught: this eavesdropper proves nothing.
    pub fn prove(&self, lab: &Lab) -> Result<()> {
        let networks = if lab.options.bond { 1 } else { lab.options.ports };
        for network in 0..networks {
            let before = self.frames()?.len();
            let target = super::address::underlay(lab.options.underlay, Side::B, network);
            lab.a.gateway.run(&format!("ping -q -n -c 1 -W 2 {target}"))?;
            // The request is seen on its way in at one end, the reply at the other.
            let caught = wait_until(Duration::from_secs(2), || Ok(self.frames()?.len() >= before + 2))?;
            ensure!(caught, "a clear ping to {target} went unseen: the capture does not work");
        }
        Ok(())
    }

    /// Ends the captures and returns what they saw.
    ///
    /// # Errors
    /// A capture has missed frames.
    pub fn finish(mut self) -> Result<Vec<String>> {
        for capture in &mut self.captures {
            capture.stop()?;
            let output = capture.output()?;
            if !output.lines().any(|line| line == "0 packets dropped by kernel") {
                bail!(
                    "a capture of the underlay is incomplete: {}",
                    output.lines().last().unwrap_or_default()
                );
            }
        }
        self.frames()
    }
}

/// Frames begin with two MAC addresses; what else tcpdump says does not.
fn is_frame(line: &str) -> bool {
    line.get(17..20) == Some(" > ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_from_messages() {
        assert!(is_frame("16:c8:1b:c4:ea:e4 > ff:ff:ff:ff:ff:ff, ARP, length 42: Request"));
        assert!(!is_frame("listening on wan0, link-type EN10MB (Ethernet), snapshot length 262144 bytes"));
        assert!(!is_frame("0 packets dropped by kernel"));
    }
}

//! Floods of WireGuard messages on gateway A, from the switch's port towards its first slave, and a new peer
//! that comes meanwhile, from gateway B's namespace.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Daemon, Lab, Side, address, pin};
use crate::command::Run as _;

/// A UDP port of gateway A that nobody owns.
const UNOWNED: u16 = 9999;
/// The spoofed sources; what A sends to them ends at B.
const SPOOFED: &str = "198.18.0.0/15";
/// Addresses of the new peer and of the peer whose initiations are replayed, inside A's first tunnel.
const NEWCOMER: &str = "10.98.0.1";
const OBSERVED: &str = "10.98.0.2";

/// What a flood is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Datagrams of the same size for a port that nobody owns: the flood to compare with.
    Unowned,
    /// Initiations with a wrong mac1.
    BadMac1,
    /// Initiations with a good mac1 and no cookie.
    NoCookie,
    /// Initiations of strangers with valid cookies, from one /24.
    Cookies,
    /// Initiations that were accepted before.
    Replay,
    /// Data messages that belong to no session.
    StrayData,
}

impl Flood {
    /// The attacks by handshake messages.
    pub const ATTACKS: [Self; 4] = [Self::BadMac1, Self::NoCookie, Self::Cookies, Self::Replay];

    /// Its name in tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unowned => "unowned port",
            Self::BadMac1 => "bad mac1",
            Self::NoCookie => "no cookie",
            Self::Cookies => "cookies of a /24",
            Self::Replay => "replayed",
            Self::StrayData => "stray data",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::Unowned | Self::BadMac1 => "bad-mac1",
            Self::NoCookie => "no-cookie",
            Self::Cookies => "cookies",
            Self::Replay => "replay",
            Self::StrayData => "stray-data",
        }
    }
}

/// What the attacker sent and heard.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Sent {
    /// Datagrams sent.
    pub sent: u64,
    /// Cookie replies to spoofed sources.
    pub cookie_replies: u64,
    /// Handshake responses to spoofed sources.
    pub responses: u64,
    /// Spoofed sources that had a cookie.
    pub cookies: usize,
}

/// How the new peer fared.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Newcomer {
    /// Time to its session, if it got one.
    pub handshake_seconds: Option<f64>,
    /// Initiations that it took.
    pub initiations: u32,
    /// Whether its second session took over from the first.
    pub rekeyed: bool,
    /// Pings through the tunnel, the rekey in the middle.
    pub pings: u32,
    /// Pings answered.
    pub answered: u32,
    /// Data messages of the gateway that no session of its own opens.
    pub unopened: u32,
}

/// A lab whose gateway A can be attacked.
#[derive(Debug)]
pub struct Range<'a> {
    lab: &'a Lab,
    bench: PathBuf,
}

/// A flood that is running.
#[derive(Debug)]
pub struct Running(Daemon);

impl<'a> Range<'a> {
    /// Adds the two peers to A's first tunnel, which has not started yet. `bench` is the generator; the lab
    /// has a switch.
    ///
    /// # Errors
    /// The lab's files cannot be written.
    pub fn prepare(lab: &'a Lab, bench: &Path) -> Result<Self> {
        let mut tunnel = File::options().append(true).open(lab.a.tunnels.join("wg0.conf"))?;
        for (name, address) in [("newcomer", NEWCOMER), ("observed", OBSERVED)] {
            let private = Command::new("wg").arg("genkey").text()?;
            let public = Command::new("wg").arg("pubkey").feed(&private)?;
            fs::write(lab.directory().join(name), private)?;
            write!(tunnel, "\n[Peer]\nPublicKey = {public}AllowedIPs = {address}/32\n")?;
        }
        lab.b.gateway.ip(&format!("route add blackhole {SPOOFED}"))?;
        Ok(Self { lab, bench: bench.to_owned() })
    }

    /// Starts a flood of `rate` packets a second for `seconds`, and returns when it has begun in earnest.
    ///
    /// # Errors
    /// The gateway does not behave as the flood expects.
    pub fn flood(&self, flood: Flood, rate: u64, seconds: u32) -> Result<Running> {
        let lab = self.lab;
        let switch = lab.switch.as_ref().context("a lab without a switch")?;
        let mac = lab.a.gateway.run("cat /sys/class/net/wan0/address")?;
        let mut to = self.target();
        if flood == Flood::Unowned {
            to.set_port(UNOWNED);
        }
        // The attacker takes nothing of the gateway's core.
        let mut command = Command::new("taskset");
        pin(&mut command, Side::B.core())?;
        command.arg(&self.bench);
        command.args(["flood", "--iface", "a0", "--kind", flood.kind(), "--dst-mac", mac.trim()]);
        command.args(["--to", &to.to_string(), "--public-key", lab.a.public_key()]);
        command.arg("--key-file").arg(lab.directory().join("observed"));
        command.args(["--rate", &rate.to_string(), "--seconds", &seconds.to_string()]);
        let mut daemon = switch.spawn(&mut command, &lab.directory().join("flood.log"))?;
        daemon.wait_for("flooding", Duration::from_secs(20))?;
        Ok(Running(daemon))
    }

    /// Has the new peer come, ping, rekey, ping, and go: at most 33 s.
    ///
    /// # Errors
    /// The generator fails.
    pub fn newcomer(&self) -> Result<Newcomer> {
        let lab = self.lab;
        let mut command = lab.b.gateway.command(&self.bench);
        command.args(["newcomer", "--to", &self.target().to_string(), "--public-key", lab.a.public_key()]);
        command.arg("--key-file").arg(lab.directory().join("newcomer")).args(["--src", NEWCOMER]);
        command.args(["--dst", &address::tunnel(Side::A, 0).to_string()]);
        report(&command.text()?)
    }

    fn target(&self) -> SocketAddr {
        SocketAddr::new(self.lab.a.endpoint(self.lab.options, 0), address::listen_port(0))
    }
}

impl Running {
    /// Waits for its end.
    ///
    /// # Errors
    /// The generator fails.
    pub fn finish(mut self) -> Result<Sent> {
        self.0.wait_for("{", Duration::from_mins(1))?;
        report(&self.0.output()?)
    }
}

/// The JSON object in the last line.
fn report<T: DeserializeOwned>(output: &str) -> Result<T> {
    let line = output.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("the generator's report: {line}"))
}

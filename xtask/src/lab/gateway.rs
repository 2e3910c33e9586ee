//! `forwarder run` as a site's gateway.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;

use super::{Daemon, Options, Site, pin};
use crate::progress::wait_until;

/// A running `forwarder`.
#[derive(Debug)]
pub struct Gateway {
    /// The process.
    pub daemon: Daemon,
    counters: PathBuf,
}

/// What `forwarder run --counters FILE` writes on SIGUSR1 and at its end.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Counters {
    /// One entry per port and queue.
    pub ports: Vec<Port>,
    /// One entry per tunnel.
    pub tunnels: Vec<Tunnel>,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Frames that the XDP programs saw, by verdict.
    pub verdicts: BTreeMap<String, u64>,
}

/// Counters of one AF_XDP socket.
#[derive(Clone, Debug, Deserialize)]
pub struct Port {
    /// The interface.
    pub name: String,
    /// The queue of an AF_XDP socket.
    pub queue: Option<u32>,
    /// Everything that is counted, by name.
    #[serde(flatten)]
    pub counts: BTreeMap<String, u64>,
}

/// Counters of one tunnel.
#[derive(Clone, Debug, Deserialize)]
pub struct Tunnel {
    /// The wg-quick file's name without `.conf`.
    pub name: String,
    /// Bytes of WireGuard messages sent.
    pub tx_bytes: u64,
    /// Bytes of WireGuard messages received.
    pub rx_bytes: u64,
    /// WireGuard messages sent.
    pub tx_packets: u64,
    /// WireGuard messages received.
    pub rx_packets: u64,
}

impl Gateway {
    /// Starts `program` at a site for all its interfaces and tunnels, on one core (counted round where there
    /// are fewer), with more `arguments`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        program: &Path,
        site: &Site,
        options: Options,
        core: usize,
        arguments: &[&str],
    ) -> Result<Self> {
        let counters = site.tunnels.with_extension("counters.json");
        let mut command = site.alone("taskset")?;
        // A gateway has as many workers as it may use cores.
        pin(&mut command, core)?;
        command.arg(program).arg("run");
        for interface in site.interfaces(options) {
            command.args(["--iface", &interface]);
        }
        command.arg("--config").arg(&site.tunnels).arg("--counters").arg(&counters).args(arguments);
        let daemon = site.gateway.spawn(&mut command, &site.tunnels.with_extension("log"))?;
        Ok(Self { daemon, counters })
    }

    /// Asks it for its counters.
    ///
    /// # Errors
    /// It has ended, or does not answer.
    pub fn counters(&mut self) -> Result<Counters> {
        let _ = fs::remove_file(&self.counters);
        self.daemon.signal(Signal::SIGUSR1)?;
        let written = wait_until(Duration::from_secs(5), || Ok(self.counters.exists()))?;
        ensure!(written, "forwarder did not write {} on SIGUSR1", self.counters.display());
        self.last_counters()
    }

    /// The counters that it wrote last: after its end, the final ones.
    ///
    /// # Errors
    /// It has written none, or something else.
    pub fn last_counters(&self) -> Result<Counters> {
        let text = fs::read(&self.counters).context("forwarder has written no counters")?;
        serde_json::from_slice(&text).with_context(|| format!("reading {}", self.counters.display()))
    }

    /// Waits until it carries packets; before, it does not answer [`Self::counters`].
    ///
    /// # Errors
    /// It ended, or is not ready after `limit`: the error has its last line.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        self.daemon.wait_for(" ready", limit)
    }

    /// Waits until every tunnel has a session: its initiator sends an empty message at once, which the
    /// responder receives.
    ///
    /// # Errors
    /// It ended, or a tunnel is still silent after `limit`.
    pub fn wait_tunnels(&mut self, limit: Duration) -> Result<()> {
        self.wait_ready(limit)?;
        let mut silent = Vec::new();
        let all = wait_until(limit, || {
            let tunnels = self.counters()?.tunnels;
            silent = tunnels
                .iter()
                .filter(|tunnel| tunnel.rx_packets + tunnel.tx_packets == 0)
                .map(|tunnel| tunnel.name.clone())
                .collect();
            Ok(!tunnels.is_empty() && silent.is_empty())
        })?;
        ensure!(all, "no session within {limit:?} on: {}", silent.join(", "));
        Ok(())
    }
}

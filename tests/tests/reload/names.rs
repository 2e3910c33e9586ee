//! Endpoints that are names.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use tests::lab::{self, PATIENCE, renumber, start_ready};
use xtask::lab::{Netns, Options, Side, address, traffic};

use crate::tools::{edit, pings, reload};

/// One name that nobody knows at first, and one that stands for an address where nobody is.
#[test]
fn endpoints_by_name_are_looked_up_until_the_peers_answer() -> Result<()> {
    let name = "endpoints_by_name_are_looked_up_until_the_peers_answer";
    let Some(lab) = lab::lab(name, Options { ports: 2, ..Options::default() })? else { return Ok(()) };
    let names = Hosts::new(&lab.a.gateway, "10.200.0.99 moved.test\n")?;
    for (file, host) in [("wg0", "moved.test"), ("wg1", "late.test")] {
        edit(&lab.a, file, "Endpoint", |line| {
            format!("Endpoint = {host}:{}", line.rsplit(':').next().unwrap_or_default())
        })?;
    }
    // Only A knows where the other one is.
    for file in ["wg0", "wg1"] {
        edit(&lab.b, file, "Endpoint", |_| String::new())?;
    }
    let mut a = start_ready(&lab, &lab.a, &[])?;
    let mut b = start_ready(&lab, &lab.b, &[])?;
    ensure!(a.daemon.output()?.contains("late.test:51821 cannot be resolved"), "{}", a.daemon.output()?);
    names.set(&format!(
        "{} moved.test\n{} late.test\n",
        lab.b.endpoint(lab.options, 0),
        lab.b.endpoint(lab.options, 1)
    ))?;
    for (index, tunnel) in [(0, "wg0"), (1, "wg1")] {
        let target = address::tunnel(Side::B, index).into();
        traffic::wait_reachable(&lab.a.host, target, 3 * PATIENCE).context(tunnel)?;
    }
    b.wait_tunnels(PATIENCE)?;

    // While the peers answer, nobody asks.
    names.set("10.200.0.99 moved.test late.test\n")?;
    reload(&mut a, "was read again")?;
    ensure!(pings(&lab.a.host, lab.b.host_address().into())?, "the endpoints were forgotten");

    // One that begins anew elsewhere cannot say where; when it has been silent for a while, somebody asks.
    b.daemon.stop()?;
    let moved = renumber(&lab, &lab.b)?;
    let _b = start_ready(&lab, &lab.b, &[])?;
    names.set(&format!("{moved} moved.test\n"))?;
    let target = address::tunnel(Side::B, 0).into();
    traffic::wait_reachable(&lab.a.host, target, 4 * PATIENCE).context("after the move")?;
    Ok(())
}

/// /etc/hosts of a namespace, as `ip netns exec` mounts it for what it starts.
struct Hosts {
    folder: PathBuf,
    /// Whether the machine had an /etc/netns.
    had_netns: bool,
}

impl Hosts {
    fn new(namespace: &Netns, text: &str) -> Result<Self> {
        let netns = Path::new("/etc/netns");
        let this = Self { folder: netns.join(namespace.name()), had_netns: netns.exists() };
        fs::create_dir_all(&this.folder)?;
        this.set(text)?;
        Ok(this)
    }

    fn set(&self, text: &str) -> Result<()> {
        Ok(fs::write(self.folder.join("hosts"), text)?)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        // Nothing sensible can be done about a failure on the way out.
        let _ = fs::remove_dir_all(&self.folder);
        if !self.had_netns {
            let _ = fs::remove_dir("/etc/netns");
        }
    }
}

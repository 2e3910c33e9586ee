//! What the kernel knows about a host of the benchmark. A host is a network namespace.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use forwarder::kernel::nic::{self, Queues};
use nix::sched::{CloneFlags, setns};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// An interface of the namespace that this thread is in.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number.
    pub ifindex: i32,
    /// Its MAC address.
    pub mac: [u8; 6],
    /// Queues that receive.
    pub rx_queues: u32,
    /// Queues that send.
    pub tx_queues: u32,
}

/// Moves this thread into a network namespace: a name that `ip netns` knows, or a path.
///
/// # Errors
/// There is no such namespace, or the privileges are missing.
pub fn enter(namespace: &str) -> anyhow::Result<()> {
    let path = if namespace.contains('/') {
        PathBuf::from(namespace)
    } else {
        Path::new("/run/netns").join(namespace)
    };
    let file =
        File::open(&path).with_context(|| format!("no namespace {namespace}: `ip netns` lists them"))?;
    setns(file, CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter namespace {namespace}: run as root"))
}

impl Interface {
    /// Asks the kernel.
    ///
    /// # Errors
    /// There is no such interface, or no `ip` on the path.
    pub fn find(name: &str) -> anyhow::Result<Self> {
        #[derive(Deserialize)]
        struct Link {
            ifindex: i32,
            address: String,
        }
        let link: Link = ip(&["link", "show", "dev", name])?;
        // A driver without channels has one queue.
        let queues = nic::queues(name).unwrap_or(Queues { rx: 1, tx: 1 });
        Ok(Self {
            name: name.to_owned(),
            ifindex: link.ifindex,
            mac: parse_mac(&link.address)?,
            rx_queues: queues.rx.max(1),
            tx_queues: queues.tx.max(1),
        })
    }

    /// MAC address of the next hop towards `destination`. One ping makes the kernel resolve it.
    ///
    /// # Errors
    /// There is no route by this interface, or the next hop does not answer.
    pub fn next_hop_mac(&self, destination: Ipv4Addr) -> anyhow::Result<[u8; 6]> {
        #[derive(Deserialize)]
        struct Route {
            dev: String,
            gateway: Option<String>,
        }
        #[derive(Deserialize)]
        struct Neighbour {
            lladdr: Option<String>,
        }
        let destination = destination.to_string();
        let route: Route = ip(&["route", "get", &destination])?;
        ensure!(
            route.dev == self.name,
            "the route to {destination} leaves by {}, not {}",
            route.dev,
            self.name
        );
        // The neighbour is known even when nobody answers the ping.
        let _ = output("ping", &["-c", "1", "-W", "2", &destination]);
        let hop = route.gateway.unwrap_or(destination);
        let neighbour: Neighbour = ip(&["neighbour", "show", &hop, "dev", &self.name])?;
        parse_mac(&neighbour.lladdr.with_context(|| format!("{hop} does not answer ARP on {}", self.name))?)
    }
}

/// Parses `02:00:00:00:00:01`.
///
/// # Errors
/// It is no MAC address.
pub fn parse_mac(text: &str) -> anyhow::Result<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    bytes.and_then(|bytes| bytes.try_into().ok()).with_context(|| format!("{text} is no MAC address"))
}

/// Runs a program in this thread's namespace.
///
/// # Errors
/// It is not there, or it failed.
pub fn output(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        bail!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The first object that `ip -json` prints.
fn ip<T: DeserializeOwned>(arguments: &[&str]) -> anyhow::Result<T> {
    let text = output("ip", &[&["-json"], arguments].concat())?;
    let objects: Vec<T> =
        serde_json::from_str(&text).with_context(|| format!("ip {}", arguments.join(" ")))?;
    objects.into_iter().next().with_context(|| format!("ip {} shows nothing", arguments.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_addresses() {
        assert_eq!(parse_mac("02:00:0a:ff:00:01").ok(), Some([2, 0, 10, 255, 0, 1]));
        for wrong in ["", "02:00:0a:ff:00", "02:00:0a:ff:00:01:02", "02:00:0a:ff:00:zz"] {
            assert!(parse_mac(wrong).is_err());
        }
    }
}

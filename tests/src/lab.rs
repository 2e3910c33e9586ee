//! Labs as the tests want them: two sites, forwarder's debug build, and threads in a lab's namespaces.

use std::fs::{self, File};
use std::net::IpAddr;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use xtask::command::exists;
use xtask::lab::gateway::Gateway;
use xtask::lab::{Family, Lab, Netns, Options, Site, address};
use xtask::{elevate, test, workspace};

use crate::packet_socket::{EXPERIMENTAL, PacketSocket};

/// Bound against hanging: a start, a handshake or an end takes far less.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The arguments for a gateway without workers, as where the kernel has no AF_XDP.
pub const WITHOUT_AF_XDP: &[&str] = &["--workers", "0"];

/// Two sites, and nothing running. `None` when this machine cannot have them: `test` has said so, then.
///
/// # Errors
/// The lab cannot be built.
pub fn lab(test: &str, options: Options) -> Result<Option<Lab>> {
    if !able(test) {
        return Ok(None);
    }
    let lab = Lab::build(options)?;
    lab.offload(false)?;
    for site in lab.sites() {
        // Under a load of packets that they refuse, gateways are to tell each of them why.
        site.gateway.sysctl("net.ipv4.icmp_ratemask", "0")?;
        site.gateway.sysctl("net.ipv6.icmp.ratemask", "0")?;
    }
    Ok(Some(lab))
}

/// Whether this machine has what a lab is made of; `test` has said so otherwise.
pub fn able(test: &str) -> bool {
    let obstacle = obstacle();
    if let Some(obstacle) = &obstacle {
        test::not_run(test, obstacle);
    }
    obstacle.is_none()
}

/// What this machine lacks for a lab.
pub fn obstacle() -> Option<String> {
    if !elevate::is_root() {
        return Some("not root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("the kernel has no TUN: modprobe tun".to_owned());
    }
    let programs = ["ethtool", "ip", "ping", "sysctl", "taskset", "tc", "tcpdump", "wg"];
    programs.into_iter().find(|program| !exists(program)).map(|program| format!("{program} is missing"))
}

/// Starts forwarder at a site; it is not ready yet.
///
/// # Errors
/// It was not built.
pub fn start(lab: &Lab, site: &Site, arguments: &[&str]) -> Result<Gateway> {
    // The log of an earlier run would say for this one that it is ready.
    let _ = fs::remove_file(site.tunnels.with_extension("log"));
    let program = workspace::program("debug", "forwarder")?;
    Gateway::start(&program, site, lab.options, site.side.core(), arguments)
}

/// Starts forwarder at a site, and waits until it carries packets.
///
/// # Errors
/// It was not built, or ends at once.
pub fn start_ready(lab: &Lab, site: &Site, arguments: &[&str]) -> Result<Gateway> {
    let mut gateway = start(lab, site, arguments)?;
    gateway.wait_ready(PATIENCE)?;
    Ok(gateway)
}

/// Gives a site's gateway another address on its first underlay network; returns it.
///
/// # Errors
/// It has none, or takes no other.
pub fn renumber(lab: &Lab, site: &Site) -> Result<IpAddr> {
    let underlay = lab.options.underlay;
    let old = address::underlay(underlay, site.side, 0);
    let (new, bits): (IpAddr, _) = match underlay {
        Family::V4 => ("10.200.0.77".parse()?, 24),
        Family::V6 => ("fd00:200::77".parse()?, 64),
    };
    for change in [format!("del {old}"), format!("add {new}")] {
        site.gateway.ip(&format!("address {change}/{bits} dev {}", address::slave(0)))?;
    }
    Ok(new)
}

/// `forwarder down` in a site's gateway; returns what it says.
///
/// # Errors
/// It fails.
pub fn down(site: &Site) -> Result<String> {
    site.gateway.run(&format!("{} down", workspace::program("debug", "forwarder")?.display()))
}

/// The arguments for a gateway that leaves its guard after any exit.
///
/// # Errors
/// The settings file cannot be written.
pub fn keep_guard(lab: &Lab) -> Result<[String; 2]> {
    let file = lab.directory().join("keep.toml");
    fs::write(&file, "guard = \"keep\"\n")?;
    Ok(["--settings".to_owned(), file.display().to_string()])
}

/// Runs `work` in a network namespace, on a thread of its own.
///
/// # Errors
/// The namespace is gone.
pub fn inside<T: Send + 'static>(
    namespace: &Netns,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<JoinHandle<Result<T>>> {
    let inside = entering(namespace, work)?;
    Ok(thread::spawn(inside))
}

/// Runs `work` in a network namespace and returns its outcome.
///
/// # Errors
/// Those of `work`.
pub fn run_inside<T: Send>(namespace: &Netns, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let inside = entering(namespace, work)?;
    thread::scope(|scope| scope.spawn(inside).join()).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// `work` after a step into the namespace.
fn entering<T, F: FnOnce() -> Result<T>>(
    namespace: &Netns,
    work: F,
) -> Result<impl FnOnce() -> Result<T> + use<T, F>> {
    let namespace = File::open(Path::new("/run/netns").join(namespace.name()))?;
    Ok(move || {
        setns(namespace, CloneFlags::CLONE_NEWNET).context("cannot enter the namespace")?;
        work()
    })
}

/// Puts a frame, just as it is, on the wire by an interface of a namespace.
///
/// # Errors
/// There is no such interface.
pub fn send(namespace: &Netns, interface: &str, frame: &[u8]) -> Result<()> {
    run_inside(namespace, || {
        PacketSocket::open(interface, EXPERIMENTAL).context("no such interface")?.send(frame);
        Ok(())
    })
}

/// The MAC address of a device.
///
/// # Errors
/// There is no such device.
pub fn mac(namespace: &Netns, device: &str) -> Result<[u8; 6]> {
    let text = namespace.run(&format!("cat /sys/class/net/{device}/address"))?;
    let bytes: Vec<u8> =
        text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
    bytes.try_into().ok().with_context(|| format!("{device}: no MAC address in '{text}'"))
}

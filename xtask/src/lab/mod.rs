//! Two sites in network namespaces.
//!
//! ```text
//!            site A                                            site B
//!  LAN host --- lan0 [gateway] wan0 ------------------- wan0 [gateway] lan0 --- LAN host
//!  eth0                        wan1 ------------------- wan1                        eth0
//!                              wan2 ------------------- wan2
//! ```
//!
//! The slaves are joined back to back, or through a "switch" namespace whose ports an observer can
//! watch: frames that AF_XDP sends and XDP takes are seen by no packet socket at the gateways themselves.
//! Or a gateway has only wan0, and a bridge joins it to the LAN host, too.
//! With a bonding driver in the kernel the slaves form bond0 (802.3ad); else each has a network of its own.

pub mod address;
pub mod attack;
pub mod counters;
pub mod daemon;
pub mod eavesdrop;
pub mod gateway;
pub mod generator;

pub mod netns;
pub mod peer;
pub mod shaper;
pub mod site;
pub mod system;
pub mod traffic;
pub mod wireguard_go;

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

pub use address::{Family, Side};
pub use daemon::Daemon;
pub use netns::Netns;
pub use site::Site;

use crate::command::Run as _;
use crate::progress::Progress;
use crate::{elevate, install, workspace};
use eavesdrop::Eavesdropper;

/// Every namespace of a lab begins with this and the process id.
const PREFIX: &str = "fwd-";

/// How the slaves of the two gateways are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Back to back: the cheapest. Frames that a gateway's XDP program redirects are not observable.
    Direct,
    /// Through a namespace that forwards them and sees every frame.
    Switch,
    /// By one bridge, to which the LAN hosts are joined, too: LAN and underlay share a gateway's port, as
    /// two subnets or, tagged, as two VLANs, for which the kernel must have the driver.
    OneArm {
        /// Whether they are VLANs.
        tagged: bool,
    },
}

/// The shape of a lab.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Slaves per gateway; as many tunnels are configured.
    pub ports: u8,
    /// Queues of every interface of a gateway.
    pub queues: u32,
    /// Address family of the underlay.
    pub underlay: Family,
    /// How the slaves are joined.
    pub wire: Wire,
    /// Whether the slaves become an 802.3ad bond, for which the kernel must have the driver.
    pub bond: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { ports: 3, queues: 1, underlay: Family::V4, wire: Wire::Direct, bond: false }
    }
}

/// Two sites, and what joins them. All of it is gone when the value goes.
#[derive(Debug)]
pub struct Lab {
    /// The site of the gateway `wan*` with the lower addresses.
    pub a: Site,
    /// The other site.
    pub b: Site,
    /// The namespace between the slaves, if the wire has one.
    pub switch: Option<Netns>,
    /// What it was built from.
    pub options: Options,
    directory: Directory,
}

impl Lab {
    /// Builds both sites, with keys and wg-quick files, and nothing running. From the first one on, SIGINT,
    /// SIGTERM and SIGHUP remove this process's labs before they end it.
    ///
    /// # Errors
    /// Not root, or the kernel lacks a device type.
    pub fn build(options: Options) -> Result<Self> {
        static LABS: AtomicU32 = AtomicU32::new(0);
        remove_on_signal()?;
        let pid = std::process::id();
        let prefix = format!("{PREFIX}{pid}-{}", LABS.fetch_add(1, Ordering::Relaxed));
        let directory = Directory::create(std::env::temp_dir().join(&prefix))?;
        let a = Site::create(Side::A, &prefix, &directory.path)?;
        let b = Site::create(Side::B, &prefix, &directory.path)?;
        let switch = match options.wire {
            Wire::Direct => None,
            Wire::Switch | Wire::OneArm { .. } => Some(Netns::create(format!("{prefix}-switch"))?),
        };
        let lab = Self { a, b, switch, options, directory };
        lab.join()?;
        for site in [&lab.a, &lab.b] {
            site.configure(options)?;
        }
        lab.a.write_tunnels(&lab.b, options)?;
        lab.b.write_tunnels(&lab.a, options)?;
        Ok(lab)
    }

    /// Where the lab's files are.
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// Both sites.
    pub fn sites(&self) -> [&Site; 2] {
        [&self.a, &self.b]
    }

    /// Turns checksum and segmentation offload of the underlay's veths on or off. AF_XDP sees the checksums
    /// that veth leaves unfinished, so they must be off under it; everyone else is faster with them.
    ///
    /// # Errors
    /// ethtool refuses.
    pub fn offload(&self, on: bool) -> Result<()> {
        let state = if on { "on" } else { "off" };
        for site in self.sites() {
            for port in site.slaves(self.options) {
                site.gateway.run(&format!("ethtool -K {port} tx {state} tso {state}"))?;
            }
        }
        Ok(())
    }

    /// Frames that the gateways' interfaces have dropped so far, by the kernel's account.
    ///
    /// # Errors
    /// An interface is gone.
    pub fn interface_drops(&self) -> Result<u64> {
        let mut dropped = 0;
        for site in self.sites() {
            for port in site.ports(self.options) {
                dropped += counters::link(&site.gateway, &port)?.dropped;
            }
        }
        Ok(dropped)
    }

    /// Starts watching every underlay cable for frames that are not the tunnels'.
    ///
    /// # Errors
    /// tcpdump cannot be started.
    pub fn eavesdrop(&self) -> Result<Eavesdropper> {
        let filter = eavesdrop::violations(self.options);
        let mut eavesdropper = Eavesdropper::new(self.directory());
        for index in 0..self.options.ports {
            match &self.switch {
                Some(switch) => {
                    for side in [Side::A, Side::B] {
                        eavesdropper.watch(switch, &switch_port(side, index), &filter)?;
                    }
                }
                None => {
                    for site in self.sites() {
                        eavesdropper.watch(&site.gateway, &address::slave(index), &filter)?;
                    }
                }
            }
        }
        Ok(eavesdropper)
    }

    /// Leaves everything in place when this value goes; [`remove_kept`] takes it down.
    pub fn keep(&mut self) {
        for site in [&mut self.a, &mut self.b] {
            site.gateway.keep();
            site.host.keep();
        }
        if let Some(switch) = &mut self.switch {
            switch.keep();
        }
        self.directory.keep = true;
    }

    fn join(&self) -> Result<()> {
        let one_arm = matches!(self.options.wire, Wire::OneArm { .. });
        for index in 0..self.options.ports {
            let slave = address::slave(index);
            match &self.switch {
                None => self.cable((&self.a.gateway, &slave), (&self.b.gateway, &slave))?,
                Some(switch) => {
                    for site in self.sites() {
                        self.cable((&site.gateway, &slave), (switch, &switch_port(site.side, index)))?;
                    }
                }
            }
        }
        for site in self.sites() {
            let host = (&site.host, "eth0");
            match &self.switch {
                Some(switch) if one_arm => {
                    self.cable((switch, &format!("lan-{}", site.side.letter())), host)?;
                }
                _ => self.cable((&site.gateway, "lan0"), host)?,
            }
        }
        match &self.switch {
            None => Ok(()),
            Some(switch) if one_arm => bridge(switch),
            Some(switch) => patch_slaves(switch, self.options.ports),
        }
    }

    fn cable(&self, (near, near_port): (&Netns, &str), (far, far_port): (&Netns, &str)) -> Result<()> {
        let queues = format!("numtxqueues {0} numrxqueues {0}", self.options.queues);
        let end = |namespace: &Netns, port: &str| format!("name {port} {queues} netns {}", namespace.name());
        let line = format!("link add {} type veth peer {}", end(near, near_port), end(far, far_port));
        Command::new("ip").args(line.split_whitespace()).quietly()
    }
}

/// Installs and builds, as the invoking user, what measurements in a lab take.
///
/// # Errors
/// Something is missing and cannot be installed, it does not compile, or there will be no way to become root.
pub fn prepare(progress: Progress) -> Result<()> {
    elevate::check()?;
    install::install(progress, install::BUILD)?;
    install::install(progress, install::LAB)?;
    progress.step("building forwarder and the generator (a few minutes the first time)");
    workspace::build_release(&["forwarder", "bench"])
}

/// Tells `taskset` to run what comes next on one core, counted round where there are fewer.
fn pin(taskset: &mut Command, core: usize) -> Result<()> {
    let core = core % thread::available_parallelism()?;
    taskset.args(["--cpu-list", &core.to_string()]);
    Ok(())
}

/// Whether the kernel can make a device of this type (`bond`, `wireguard`, `vlan id 1`, ...).
///
/// # Errors
/// Not root.
pub fn kernel_has(device_type: &str) -> Result<bool> {
    remove_on_signal()?;
    let name = device_type.split(' ').next().unwrap_or_default();
    let namespace = Netns::create(format!("{PREFIX}{}-probe-{name}", std::process::id()))?;
    // Some types need a device to stand on; the others do not mind one.
    namespace.ip("link add below type veth peer other")?;
    Ok(namespace.ip(&format!("link add link below name probe type {device_type}")).is_ok())
}

/// From now on SIGINT, SIGTERM and SIGHUP remove this process's labs before they end it. Called again, it does
/// nothing.
///
/// # Errors
/// The signals cannot be caught.
fn remove_on_signal() -> Result<()> {
    static CAUGHT: AtomicBool = AtomicBool::new(false);
    if CAUGHT.swap(true, Ordering::Relaxed) {
        return Ok(());
    }
    // Caught rather than blocked: the programs that we start would inherit a blocked signal.
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            netns::stop_others();
            // The first time meets what the others are just making or removing.
            for _ in 0..5 {
                if matches!(remove_kept(false), Ok(0)) {
                    break;
                }
            }
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Removes the labs of this process, or of all processes when `everyone` is true, with all that runs in them.
///
/// # Errors
/// `ip` cannot remove a namespace.
pub fn remove_kept(everyone: bool) -> Result<usize> {
    let prefix = if everyone { PREFIX.to_owned() } else { format!("{PREFIX}{}-", std::process::id()) };
    let names = netns::list(&prefix)?;
    for name in &names {
        netns::destroy(name)?;
        peer::remove_sockets(name);
    }
    // Their own files, and what `ip netns exec` mounts over /etc for them.
    for folder in [std::env::temp_dir(), "/etc/netns".into()] {
        let Ok(entries) = fs::read_dir(folder) else { continue };
        for entry in entries.flatten() {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                fs::remove_dir_all(entry.path())?;
            }
        }
    }
    Ok(names.len())
}

/// The switch's port towards a site's slave.
fn switch_port(side: Side, index: u8) -> String {
    format!("{}{index}", side.letter())
}

/// Joins each slave of one gateway to its like at the other.
fn patch_slaves(switch: &Netns, slaves: u8) -> Result<()> {
    for index in 0..slaves {
        let (port_a, port_b) = (switch_port(Side::A, index), switch_port(Side::B, index));
        patch(switch, &port_a, &port_b)?;
        patch(switch, &port_b, &port_a)?;
    }
    Ok(())
}

/// Sends every frame that enters `from` out of `to`.
fn patch(switch: &Netns, from: &str, to: &str) -> Result<()> {
    switch.sysctl(&format!("net.ipv6.conf.{from}.disable_ipv6"), "1")?;
    switch.ip(&format!("link set {from} up"))?;
    switch.run(&format!("tc qdisc add dev {from} clsact"))?;
    let rule = format!(
        "tc filter add dev {from} ingress protocol all u32 match u32 0 0 action mirred egress redirect dev {to}"
    );
    switch.run(&rule).map(drop)
}

/// Joins all ports of the switch. Tags pass, but not beside the frames: that is how veth hands them on
/// (`txvlan` on), and XDP looks only into frames.
fn bridge(switch: &Netns) -> Result<()> {
    switch.ip("link add bridge0 type bridge")?;
    for port in switch.ip("-br link show type veth")?.lines() {
        let port = port.split(['@', ' ']).next().unwrap_or_default();
        switch.run(&format!("ethtool -K {port} txvlan off"))?;
        switch.ip(&format!("link set {port} master bridge0 up"))?;
    }
    switch.ip("link set bridge0 up").map(drop)
}

/// A directory that only its owner reads (it holds keys), and that goes with its value.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    keep: bool,
}

impl Directory {
    fn create(path: PathBuf) -> Result<Self> {
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make the lab's directory {}", path.display()))?;
        Ok(Self { path, keep: false })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing sensible can be done about a failure on the way out.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

//! The systems that can be gateways of a lab: ours, others, and what to measure them against.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::gateway::{Gateway, Tunnel};
use super::peer::{self, Implementation, Peer, Program};
use super::{Daemon, Lab, Side, Site, address, counters, pin};
use crate::progress::Progress;
use crate::workspace;

/// Time for the first handshakes.
const HANDSHAKES: Duration = Duration::from_secs(15);

/// A system, not running.
#[derive(Clone, Debug)]
pub enum System {
    /// This project's gateway.
    Forwarder {
        /// The program.
        program: PathBuf,
    },
    /// The same without AF_XDP: everything comes by TUN and UDP sockets, over `io_uring`.
    IoUring {
        /// The program.
        program: PathBuf,
    },
    /// Another implementation.
    Peer {
        /// The program.
        program: Program,
        /// Tunnels, each a process over a slave of its own; the kernel spreads flows over them (ECMP).
        tunnels: u8,
    },
    /// The kernel's own WireGuard, where it has it.
    KernelWireguard {
        /// As above, but for the processes.
        tunnels: u8,
    },
    /// Plain routes: what the kernel carries without a tunnel.
    IpForward,
    /// A gateway on AF_XDP that seals nothing.
    Null {
        /// The `bench` program.
        program: PathBuf,
        /// Its best settings, as options.
        settings: Vec<String>,
    },
}

/// What a slave or a tunnel carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Carried {
    /// Its name.
    pub name: String,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bytes received.
    pub rx_bytes: u64,
}

impl System {
    /// The release build of `forwarder`.
    ///
    /// # Errors
    /// It was not built.
    pub fn forwarder() -> Result<Self> {
        Ok(Self::Forwarder { program: workspace::program("release", "forwarder")? })
    }

    /// Another implementation, installed if need be.
    ///
    /// # Errors
    /// It cannot be had here.
    pub fn peer(implementation: Implementation, tunnels: u8, progress: Progress) -> Result<Self> {
        Ok(Self::Peer { program: implementation.install(progress)?, tunnels })
    }

    /// Its name in tables.
    pub fn name(&self) -> String {
        let several = |name: &str, tunnels: u8| {
            if tunnels == 1 { name.to_owned() } else { format!("{name} x {tunnels}") }
        };
        match self {
            Self::Forwarder { .. } => "forwarder".to_owned(),
            Self::IoUring { .. } => "forwarder (io_uring)".to_owned(),
            Self::Peer { program, tunnels } => several(program.implementation.name(), *tunnels),
            Self::KernelWireguard { tunnels } => several("kernel wireguard", *tunnels),
            Self::IpForward => "kernel ip_forward".to_owned(),
            Self::Null { .. } => "null".to_owned(),
        }
    }

    /// Starts it at both sites. Each system gets the offloads that suit it: see [`Lab::offload`].
    ///
    /// # Errors
    /// It does not start, or its tunnels do not come up.
    pub fn start(&self, lab: &Lab) -> Result<Running> {
        lab.offload(!matches!(self, Self::Forwarder { .. } | Self::Null { .. }))?;
        match self {
            Self::Forwarder { program } => {
                let start = |site: &Site| Gateway::start(program, site, lab.options, site.side.core(), &[]);
                ready([start(&lab.a)?, start(&lab.b)?]).map(Running::Forwarder)
            }
            Self::IoUring { program } => {
                let workers = ["--workers", "0"];
                let start =
                    |site: &Site| Gateway::start(program, site, lab.options, site.side.core(), &workers);
                ready([start(&lab.a)?, start(&lab.b)?]).map(Running::IoUring)
            }
            Self::Peer { program, tunnels } => {
                let starts = lab.sites().map(|site| {
                    let peers =
                        (0..*tunnels).map(|index| program.start(site, index)).collect::<Result<Vec<_>>>()?;
                    spread(site, peers.iter().map(|peer| format!("dev {}", peer.interface)))?;
                    Ok(peers)
                });
                let [a, b] = starts.map(Result::<_>::from);
                Ok(Running::Peers([a?, b?]))
            }
            Self::KernelWireguard { tunnels } => {
                let [a, b] = lab.sites().map(|site| KernelTunnels::start(site, *tunnels));
                Ok(Running::Kernel([a?, b?]))
            }
            Self::IpForward => {
                let [a, b] = lab.sites().map(|site| Routes::add(site, lab.options));
                Ok(Running::Routes([a?, b?]))
            }
            Self::Null { program, settings } => {
                let [a, b] = lab.sites().map(|site| null(site, lab.options, program.clone(), settings));
                let mut gateways = [a?, b?];
                for gateway in &mut gateways {
                    gateway.wait_for("ready", HANDSHAKES)?;
                }
                Ok(Running::Null(gateways))
            }
        }
    }
}

fn ready(mut gateways: [Gateway; 2]) -> Result<[Gateway; 2]> {
    for gateway in &mut gateways {
        gateway.wait_tunnels(HANDSHAKES)?;
    }
    Ok(gateways)
}

fn null(site: &Site, options: super::Options, program: PathBuf, settings: &[String]) -> Result<Daemon> {
    let mut command = Command::new("taskset");
    pin(&mut command, site.side.core())?;
    command.arg(program).args(["null", "--lan", "lan0", "--host", &site.host_address().to_string()]);
    for (index, slave) in (0..).zip(site.slaves(options)) {
        let far = address::underlay(options.underlay, other(site.side), index);
        command.args(["--slave", &format!("{slave}={far}")]);
    }
    site.gateway.spawn(command.args(settings), &site.tunnels.with_extension("null.log"))
}

/// Routes to the other site's LAN by all of these next hops, where there are several: the kernel hashes addresses
/// and ports of a packet to choose one.
fn spread(site: &Site, hops: impl ExactSizeIterator<Item = String>) -> Result<()> {
    if hops.len() < 2 {
        return Ok(());
    }
    let [prefix, _] = address::lan_prefixes(other(site.side));
    let hops: Vec<_> = hops.map(|hop| format!("nexthop {hop}")).collect();
    site.gateway.sysctl("net.ipv4.fib_multipath_hash_policy", "1")?;
    site.gateway.ip(&format!("route flush {prefix}"))?;
    site.gateway.ip(&format!("route add {prefix} {}", hops.join(" "))).map(drop)
}

fn other(side: Side) -> Side {
    if side == Side::A { Side::B } else { Side::A }
}

/// A system running at both sites, A first.
#[derive(Debug)]
pub enum Running {
    /// This project's.
    Forwarder([Gateway; 2]),
    /// The same without AF_XDP.
    IoUring([Gateway; 2]),
    /// Others, one for each tunnel.
    Peers([Vec<Peer>; 2]),
    /// The kernel's tunnels.
    Kernel([KernelTunnels; 2]),
    /// The kernel's routes.
    Routes([Routes; 2]),
    /// The lab's ceiling.
    Null([Daemon; 2]),
}

impl Running {
    /// What site A's tunnels have carried so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn tunnels(&mut self, lab: &Lab) -> Result<Vec<Carried>> {
        let links = |interfaces: &mut dyn Iterator<Item = &str>| {
            let tunnels = (0..).zip(interfaces).map(|(index, interface)| {
                let link = counters::link(&lab.a.gateway, interface)?;
                let (tx_bytes, rx_bytes) = (link.tx_bytes, link.rx_bytes);
                Ok(Carried { name: format!("wg{index}"), tx_bytes, rx_bytes })
            });
            tunnels.collect::<Result<_>>()
        };
        match self {
            Self::Forwarder([a, _]) | Self::IoUring([a, _]) => {
                let bytes = |tunnel: Tunnel| Carried {
                    name: tunnel.name,
                    tx_bytes: tunnel.tx_bytes,
                    rx_bytes: tunnel.rx_bytes,
                };
                Ok(a.counters()?.tunnels.into_iter().map(bytes).collect())
            }
            Self::Peers([a, _]) => links(&mut a.iter().map(|peer| peer.interface.as_str())),
            Self::Kernel([a, _]) => links(&mut a.interfaces.iter().map(String::as_str)),
            Self::Routes(_) | Self::Null(_) => Ok(Vec::new()),
        }
    }

    /// Packets that the gateways themselves dropped so far, by reason.
    ///
    /// # Errors
    /// It has ended.
    pub fn drops(&mut self) -> Result<BTreeMap<String, u64>> {
        let mut drops = BTreeMap::new();
        if let Self::Forwarder(gateways) | Self::IoUring(gateways) = self {
            for gateway in gateways {
                for (reason, count) in gateway.counters()?.drops {
                    *drops.entry(reason).or_default() += count;
                }
            }
        }
        Ok(drops)
    }

    /// Most KiB of memory that the processes of both gateways had so far; `None` where there are none.
    ///
    /// # Errors
    /// One has ended.
    pub fn peak_kib(&self) -> Result<Option<i64>> {
        let peaks = self.daemons().into_iter().map(|daemon| Ok(counters::memory(daemon.pid())?.peak_kib));
        let peaks = peaks.collect::<Result<Vec<_>>>()?;
        Ok((!peaks.is_empty()).then(|| peaks.iter().sum()))
    }

    /// CPU seconds that the processes of both gateways have used; `None` where there are none.
    ///
    /// # Errors
    /// One has ended.
    pub fn cpu_seconds(&self) -> Result<Option<f64>> {
        let seconds = self.daemons().into_iter().map(Daemon::cpu_seconds).collect::<Result<Vec<_>>>()?;
        Ok((!seconds.is_empty()).then(|| seconds.iter().sum()))
    }

    fn daemons(&self) -> Vec<&Daemon> {
        match self {
            Self::Forwarder(gateways) | Self::IoUring(gateways) => {
                gateways.iter().map(|gateway| &gateway.daemon).collect()
            }
            Self::Peers(peers) => peers.iter().flatten().map(|peer| &peer.daemon).collect(),
            Self::Null(gateways) => gateways.iter().collect(),
            Self::Kernel(_) | Self::Routes(_) => Vec::new(),
        }
    }

    /// Leaves it running when this value goes.
    pub fn keep(&mut self) {
        match self {
            Self::Forwarder(gateways) | Self::IoUring(gateways) => {
                for gateway in gateways {
                    gateway.daemon.keep();
                }
            }
            Self::Peers(peers) => peers.iter_mut().flatten().for_each(Peer::keep),
            Self::Kernel(tunnels) => tunnels.iter_mut().for_each(|tunnels| tunnels.links.0.clear()),
            Self::Routes(routes) => routes.iter_mut().for_each(|routes| routes.0.0.clear()),
            Self::Null(gateways) => gateways.iter_mut().for_each(Daemon::keep),
        }
    }
}

/// Command lines of `ip` that take back what was set up, and are run when the value goes.
#[derive(Debug)]
struct Undo(Vec<Vec<String>>);

impl Undo {
    fn ip(site: &Site, arguments: &str) -> Vec<String> {
        ["-n", site.gateway.name()]
            .into_iter()
            .chain(arguments.split_whitespace())
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for arguments in &self.0 {
            // Nothing sensible can be done about a failure on the way out.
            let _ = Command::new("ip").args(arguments).output();
        }
    }
}

/// Routes to the other site's LAN by all slaves.
#[derive(Debug)]
pub struct Routes(Undo);

impl Routes {
    fn add(site: &Site, options: super::Options) -> Result<Self> {
        let [prefix, _] = address::lan_prefixes(other(site.side));
        let hop = |index| format!("via {}", address::underlay(options.underlay, other(site.side), index));
        site.gateway.ip(&format!("route add {prefix} {}", hop(0)))?;
        let undo = Undo(vec![Undo::ip(site, &format!("route flush {prefix}"))]);
        spread(site, (0..options.ports).map(hop).collect::<Vec<_>>().into_iter())?;
        Ok(Self(undo))
    }
}

/// Tunnels of the kernel's.
#[derive(Debug)]
pub struct KernelTunnels {
    interfaces: Vec<String>,
    links: Undo,
}

impl KernelTunnels {
    fn start(site: &Site, tunnels: u8) -> Result<Self> {
        let mut this = Self { interfaces: Vec::new(), links: Undo(Vec::new()) };
        for index in 0..tunnels {
            let interface = peer::interface(site.gateway.name(), index);
            site.gateway.ip(&format!("link add {interface} type wireguard"))?;
            this.links.0.push(Undo::ip(site, &format!("link del {interface}")));
            peer::configure(site, &interface, index)?;
            this.interfaces.push(interface);
        }
        spread(site, this.interfaces.iter().map(|interface| format!("dev {interface}")))?;
        Ok(this)
    }
}

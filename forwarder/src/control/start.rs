//! From the command line to a running gateway, and back to the machine as it was found.
//!
//! 1. preflight: topology, lock, UDP sockets, programs; printed before anything is touched
//! 2. janitor
//! 3. TUN, fail-closed routes, routes to the TUN
//! 4. AF_XDP sockets bound, lanes started, maps filled
//! 5. programs attached, one port at a time
//! 6. turns, until a signal
//! 7. the same in reverse

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use ipnet::IpNet;
use rand::RngExt as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::gateway::{Gateway, Plan};
use super::handle::Handle;
use super::lanes::{Lanes, Parts};
use super::plan::{DEFAULT_MARK, Planned, fwmark};
use super::preflight::{Ready, TUN, preflight};
use super::report::Report;
use super::snapshots;
use crate::clock;
use crate::config::{Guard, RunOptions, Table, TunnelConfig};
use crate::kernel::guard::Janitor;
use crate::kernel::netlink::{Changed, Kernel};
use crate::kernel::{DefaultRules, Family, Route, guard};
use crate::publish::Publisher;
use crate::topology::{Mode, Topology};
use crate::tun::Tun;
use crate::wireguard;
use crate::xdp::XdpError;

/// Longest sleep between turns: snapshots are freed and threads looked after at least so often.
const MAX_SLEEP: Duration = Duration::from_millis(100);
/// How often a bond's slaves are looked at: LACP changes are not always announced.
const BOND_INTERVAL: Duration = Duration::from_millis(200);
/// How long a bond may take to come back after a program was attached to one of its slaves.
const BOND_PATIENCE: Duration = Duration::from_secs(30);

/// Table `main`.
const MAIN: u32 = 254;

/// `forwarder run`: returns when a signal ended it.
///
/// # Errors
/// What could not be had at start, or what broke later; the machine is as it was found, then, too.
pub fn run(options: &RunOptions) -> anyhow::Result<()> {
    super::block_on(serve(options))
}

async fn serve(options: &RunOptions) -> anyhow::Result<()> {
    // Before anything is there to be cleaned up.
    let mut signals = Signals::new().context("cannot catch signals")?;
    let kernel = Kernel::connect()?;
    let mut watch = kernel.watch()?;
    let Ready { planned, lock, sockets, mut programs } = preflight(options, &kernel).await?.ready()?;
    let Planned { topology, configs, settings, view } = planned;
    print!("{topology}");

    let keep_guard = settings.guard == Guard::Keep;
    let _janitor = if keep_guard {
        tracing::warn!("guard = \"keep\": unreachable routes stay after exit, until `forwarder down`");
        None
    } else {
        Some(Janitor::spawn(&lock)?)
    };
    let fwmarks: Vec<u32> = configs.iter().map(fwmark).collect();
    let sockets = Arc::new(sockets);

    let tun = Tun::create(TUN)?;
    let interface = tun.interface();
    let routes = tun_routes(&topology, &configs, interface);
    close_and_route(&kernel, &topology, &configs, interface, &routes).await?;

    let handle = Arc::new(Handle::new(topology.peers.len()));
    let mut publisher = Publisher::new();
    let lanes = Lanes::start(Parts {
        topology: &topology,
        programs: &mut programs,
        tun,
        sockets: &sockets,
        handle: &handle,
        publisher: &mut publisher,
    })?;
    let listen_ports: Vec<u16> =
        (0..configs.len()).filter_map(|t| sockets.port(crate::id::TunnelId(t as u16))).collect();
    let plan = Plan {
        tunnels: snapshots::tunnels(&topology, &configs, &listen_ports),
        tun: interface,
        fwmarks,
        transit: settings.transit,
        topology,
    };
    let mut rng = rand::rng();
    // Gateways that start together must not initiate together: such handshakes cancel each other.
    tokio::time::sleep(wireguard::REKEY_TIMEOUT_JITTER.mul_f64(rng.random())).await;
    let tunnels = tunnels(&plan.topology, &configs, &mut rng);
    // The tunnels have the keys now; this wipes the configuration's.
    drop(configs);
    let mut gateway = Gateway::new(plan, kernel, view, tunnels, programs, sockets, handle, publisher);
    // What the peers sent meanwhile is answered before we ask.
    gateway.turn(&mut rng).await?;
    gateway.greet(&mut rng);
    attach(&mut gateway).await?;
    tracing::info!("ready");

    let outcome = turns(&mut gateway, &lanes, &mut watch, &mut signals, options, &mut rng).await;
    report(&mut gateway, &lanes, options).await;
    stop(gateway, lanes, keep_guard).await;
    outcome
}

/// Turns until a signal.
async fn turns(
    gateway: &mut Gateway,
    lanes: &Lanes,
    watch: &mut crate::kernel::netlink::Watch,
    signals: &mut Signals,
    options: &RunOptions,
    rng: &mut impl rand::CryptoRng,
) -> anyhow::Result<()> {
    let mut bonds = tokio::time::interval(BOND_INTERVAL);
    bonds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let handle = Arc::clone(&gateway.handle);
    loop {
        let now = clock::boottime();
        let rest = gateway.deadline().map_or(MAX_SLEEP, |at| at.since(now).min(MAX_SLEEP));
        tokio::select! {
            () = handle.woken() => {}
            changed = watch.changed() => {
                if changed.contains(Changed::CLOSED) {
                    bail!("the kernel closed the netlink socket: restart forwarder");
                }
                gateway.note(changed);
            }
            _ = bonds.tick() => gateway.look_at_bonds().await?,
            signal = signals.next() => match signal {
                Asked::Stop => return Ok(()),
                Asked::Report => report(gateway, lanes, options).await,
            },
            () = tokio::time::sleep(rest) => {}
        }
        gateway.turn(rng).await?;
        if lanes.any_dead() {
            bail!("a worker thread ended by itself: this is a bug, its message stands above");
        }
    }
}

/// The reverse of the start: programs, lanes and their sockets, routes; the TUN goes with its lane.
async fn stop(mut gateway: Gateway, lanes: Lanes, keep_guard: bool) {
    gateway.programs.clear();
    lanes.stop(&gateway.publisher);
    if !keep_guard && let Err(error) = gateway.kernel.remove_ours().await {
        tracing::warn!("{error}");
    }
}

/// TUN addresses and MTU, fail-closed routes, then the routes to the TUN.
async fn close_and_route(
    kernel: &Kernel,
    topology: &Topology,
    configs: &[TunnelConfig],
    tun: crate::id::InterfaceId,
    routes: &[Route],
) -> anyhow::Result<()> {
    let guarded: Vec<(IpNet, u32)> = guarded(topology, configs);
    guard::close(kernel, &guarded).await?;
    kernel.set_mtu(tun, u32::from(topology.tun_mtu)).await?;
    kernel.set_no_link_local(tun).await?;
    let mut addresses: Vec<IpNet> = configs.iter().flat_map(|c| c.addresses.iter().copied()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    for address in addresses {
        kernel.add_address(tun, address).await?;
    }
    kernel.set_link_up(tun).await?;
    for route in routes {
        kernel.add_route(route).await?;
    }
    for rules in default_rules(routes) {
        kernel.add_default_rules(&rules).await?;
    }
    Ok(())
}

/// Every remote prefix with the table in which its route stands or would stand.
fn guarded(topology: &Topology, configs: &[TunnelConfig]) -> Vec<(IpNet, u32)> {
    let tables = |prefix: IpNet, table: Table| match table {
        Table::Auto | Table::Off if prefix.prefix_len() == 0 => DEFAULT_MARK,
        Table::Auto | Table::Off => MAIN,
        Table::Number(table) => table,
    };
    let mut guarded: Vec<_> = per_table(topology, configs).map(|(p, t)| (p, tables(p, t))).collect();
    guarded.sort_unstable();
    guarded.dedup();
    guarded
}

/// The routes to the TUN that the files ask for.
fn tun_routes(topology: &Topology, configs: &[TunnelConfig], tun: crate::id::InterfaceId) -> Vec<Route> {
    let asked = per_table(topology, configs).filter_map(|(prefix, table)| match table {
        Table::Off => None,
        Table::Auto if prefix.prefix_len() == 0 => Some((prefix, DEFAULT_MARK)),
        Table::Auto => Some((prefix, MAIN)),
        Table::Number(table) => Some((prefix, table)),
    });
    let mut asked: Vec<_> = asked.collect();
    asked.sort_unstable();
    asked.dedup();
    asked.into_iter().map(|(prefix, table)| Route::unicast(prefix, tun, table)).collect()
}

fn per_table<'a>(
    topology: &'a Topology,
    configs: &'a [TunnelConfig],
) -> impl Iterator<Item = (IpNet, Table)> + 'a {
    topology.groups.iter().flat_map(move |group| {
        let tunnel = |peer: &crate::id::PeerId| topology.peers[peer.index()].tunnel;
        let tables = group.peers.iter().map(move |peer| configs[tunnel(peer).index()].table);
        tables.flat_map(|table| group.prefixes.iter().map(move |prefix| (*prefix, table)))
    })
}

fn default_rules(routes: &[Route]) -> Vec<DefaultRules> {
    let defaults = routes.iter().filter(|r| r.prefix.prefix_len() == 0 && r.table == DEFAULT_MARK);
    let rules = |route: &Route| DefaultRules {
        family: if route.prefix.addr().is_ipv4() { Family::V4 } else { Family::V6 },
        mark: DEFAULT_MARK,
        table: route.table,
    };
    defaults.map(rules).collect()
}

/// The tunnels' protocol state.
fn tunnels(
    topology: &Topology,
    configs: &[TunnelConfig],
    rng: &mut impl rand::CryptoRng,
) -> Vec<wireguard::Tunnel> {
    let now = clock::boottime();
    let shared = Arc::<wireguard::Shared>::default();
    let mut tunnels = Vec::with_capacity(configs.len());
    for (config, id) in configs.iter().zip(0..) {
        let mut tunnel = wireguard::Tunnel::new(
            crate::id::TunnelId(id),
            &config.private_key,
            Arc::clone(&shared),
            now,
            rng,
        );
        for peer in &topology.tunnels[usize::from(id)].peers {
            let section = &config.peers[topology.peers[peer.index()].section];
            let peer = wireguard::PeerConfig {
                id: *peer,
                public_key: section.public_key,
                preshared_key: *section.preshared_key,
                endpoint: section.endpoint,
                persistent_keepalive: section.persistent_keepalive,
            };
            tunnel.add_peer(&peer, now);
        }
        tunnels.push(tunnel);
    }
    tunnels
}

/// Attaches the programs, one port at a time: native drivers may reset the port, and a bond must never
/// lose more than one slave at once.
async fn attach(gateway: &mut Gateway) -> anyhow::Result<()> {
    for port in 0..gateway.programs.len() {
        let plan = &gateway.plan.topology.ports[port];
        let link = gateway.view.link(plan.interface).cloned();
        let link = link.with_context(|| format!("{}: the device is gone", plan.name))?;
        let was_up = gateway.transmits(port);
        let program = &mut gateway.programs[port];
        match program.attach(&link, plan.mode == Mode::Generic) {
            Err(XdpError::NativeUnsupported { .. }) if plan.mode != Mode::Generic => {
                tracing::warn!(
                    "{}: the driver has no native XDP, attaching in generic mode (slower)",
                    plan.name
                );
                program.attach(&link, true)?;
            }
            other => other?,
        }
        if was_up && plan.bond.is_some() {
            wait_for_bond(gateway, port).await?;
        }
    }
    Ok(())
}

async fn wait_for_bond(gateway: &mut Gateway, port: usize) -> anyhow::Result<()> {
    let deadline = clock::boottime() + BOND_PATIENCE;
    loop {
        gateway.look_at_bonds().await?;
        if gateway.transmits(port) {
            return Ok(());
        }
        if clock::boottime() > deadline {
            let name = &gateway.plan.topology.ports[port].name;
            tracing::warn!(
                "{name}: not back in the bond {BOND_PATIENCE:?} after attaching, going on without it"
            );
            return Ok(());
        }
        tokio::time::sleep(BOND_INTERVAL).await;
    }
}

/// Prints the counters, and writes them as JSON where `--counters` says.
async fn report(gateway: &mut Gateway, lanes: &Lanes, options: &RunOptions) {
    gateway.publisher.request_counters();
    for _ in 0..20 {
        if !gateway.publisher.counters_pending() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let report = Report::collect(gateway, lanes);
    print!("{report}");
    if let Some(file) = &options.counters
        && let Err(error) = write(file, &report)
    {
        tracing::warn!("{}: cannot write the counters: {error}", file.display());
    }
}

/// Writes the file whole or not at all: readers never see half of it.
fn write(file: &Path, report: &Report) -> std::io::Result<()> {
    let mut next = PathBuf::from(file);
    next.as_mut_os_string().push(".new");
    std::fs::write(&next, serde_json::to_vec(report)?)?;
    std::fs::rename(next, file)
}

/// What a signal asks for.
enum Asked {
    Stop,
    Report,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    report: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            report: signal(SignalKind::user_defined1())?,
        })
    }

    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Stop,
            _ = self.report.recv() => Asked::Report,
        }
    }
}

//! From the command line to a running gateway. What is started last is ended first: [`super::serve`].
//!
//! 1. preflight: topology, lock, UDP sockets, programs; printed before anything is touched
//! 2. janitor
//! 3. TUN, fail-closed routes, routes to the TUN
//! 4. AF_XDP sockets bound, lanes started, maps filled
//! 5. programs attached, one port at a time
//! 6. turns, until a signal

use std::sync::Arc;

use anyhow::Context as _;
use rand::RngExt as _;

use super::gateway::{Gateway, Plan};
use super::handle::Handle;
use super::lanes::{Lanes, Parts};
use super::plan::{Planned, fwmark};
use super::preflight::{Ready, TUN, preflight};
use super::serve::{Running, Signals};
use super::{routing, snapshots};
use crate::clock;
use crate::config::{Guard, RunOptions, TunnelConfig};
use crate::id::TunnelId;
use crate::kernel::guard::Janitor;
use crate::kernel::netlink::Kernel;
use crate::publish::Publisher;
use crate::topology::Topology;
use crate::tun::Tun;
use crate::wireguard;

/// `forwarder run`: returns when a signal ended it.
///
/// # Errors
/// What could not be had at start, or what broke later; the machine is as it was found, then, too.
pub fn run(options: &RunOptions) -> anyhow::Result<()> {
    super::block_on(serve(options))
}

async fn serve(options: &RunOptions) -> anyhow::Result<()> {
    // Before anything is there to be cleaned up.
    let signals = Signals::new().context("cannot catch signals")?;
    let kernel = Kernel::connect()?;
    let watch = kernel.watch()?;
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
    let sockets = Arc::new(sockets);
    let tun = Tun::create(TUN)?;
    let interface = tun.interface();
    routing::set_up(&kernel, &topology, &configs, interface).await?;

    let handle = Arc::new(Handle::new(topology.peers.len(), Arc::clone(&sockets)));
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
        (0..configs.len() as u16).filter_map(|t| sockets.port(TunnelId(t))).collect();
    let shared = Arc::<wireguard::Shared>::default();
    let plan = Plan {
        tunnels: snapshots::tunnels(&topology, &configs, &listen_ports),
        tun: interface,
        fwmarks: configs.iter().map(fwmark).collect(),
        transit: settings.transit,
        shared: Arc::clone(&shared),
        topology,
    };
    let mut rng = rand::rng();
    // Gateways that start together must not initiate together: such handshakes cancel each other.
    tokio::time::sleep(wireguard::REKEY_TIMEOUT_JITTER.mul_f64(rng.random())).await;
    let tunnels = tunnels(&plan.topology, &configs, &shared, &mut rng);
    // The tunnels have the keys now; this wipes the configuration's.
    drop(configs);
    let gateway = Gateway::new(plan, kernel, view, tunnels, programs, sockets, handle, publisher);
    let mut running = Running::new(gateway, lanes, watch, signals, options.counters.clone());
    let outcome = running.serve().await;
    running.end(keep_guard).await;
    outcome
}

/// The tunnels' protocol state.
fn tunnels(
    topology: &Topology,
    configs: &[TunnelConfig],
    shared: &Arc<wireguard::Shared>,
    rng: &mut impl rand::CryptoRng,
) -> Vec<wireguard::Tunnel> {
    let now = clock::boottime();
    let mut tunnels = Vec::with_capacity(configs.len());
    for (config, id) in configs.iter().zip(0..) {
        let shared = Arc::clone(shared);
        let mut tunnel = wireguard::Tunnel::new(TunnelId(id), &config.private_key, shared, now, rng);
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

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
use super::plan::{self, Planned};
use super::preflight::{Ready, TUN, preflight};
use super::routing::{self, Wanted};
use super::serve::{Running, Signals};
use super::snapshots;
use crate::aead;
use crate::config::{Guard, RunOptions};
use crate::kernel::absence::Absence;
use crate::kernel::guard::Janitor;
use crate::kernel::netlink::Kernel;
use crate::publish::Publisher;
use crate::topology::TunnelPlan;
use crate::tun::Tun;
use crate::wireguard;
use crate::worker::Place;

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
    let absence = Absence::watch()?;
    let Ready { planned, lock, sockets, programs } = preflight(options, &kernel).await?.ready()?;
    let Planned { topology, configs, settings, view } = planned;
    #[cfg(feature = "keylog")]
    let keylog = options.keylog.as_deref().map(super::keylog::Keylog::create).transpose()?;
    super::show(&topology);
    tracing::info!("AEAD engine: {}", aead::engine());

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
    routing::set_up(&kernel, &Wanted::new(&configs, topology.tun_mtu), interface).await?;

    let handle = Arc::new(Handle::default());
    let plan = Plan {
        tunnels: snapshots::tunnels(&topology, &configs, |tunnel| sockets.port(tunnel).unwrap_or(0)),
        tun: interface,
        settings,
        configs,
        shared: Arc::default(),
        topology,
    };
    let mut rng = rand::rng();
    // Gateways that start together must not initiate together: such handshakes cancel each other.
    tokio::time::sleep(wireguard::REKEY_TIMEOUT_JITTER.mul_f64(rng.random())).await;
    let places = plan.topology.tunnels.iter().zip(&plan.configs);
    let tunnel =
        |(place, config): (&TunnelPlan, _)| (place.id, plan::tunnel(place, config, &plan.shared, &mut rng));
    let tunnels = places.map(tunnel).collect();
    let publisher = Publisher::new();
    let gateway = Gateway::new(plan, kernel, view, tunnels, programs, sockets, handle, publisher);
    #[cfg(feature = "keylog")]
    let gateway = Gateway { keylog, ..gateway };
    let mut gateway = gateway;
    // Last, so that what comes first finds all doors open: a peer repeats its initiation only after 5 s.
    let lanes = Lanes::start(Parts {
        topology: &gateway.plan.topology,
        programs: &mut gateway.programs,
        tun,
        sockets: &gateway.sockets,
        handle: &gateway.handle,
        publisher: &mut gateway.publisher,
    })?;
    Place::beside(gateway.plan.topology.cores.len()).take();
    let mut running = Running::new(gateway, lanes, watch, absence, signals, options.clone());
    let outcome = running.serve().await;
    running.end(keep_guard).await;
    outcome
}

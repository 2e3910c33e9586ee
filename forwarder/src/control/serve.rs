//! A running gateway: turns until a signal, then the start in reverse.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rand::rand_core::UnwrapErr;
use rand::rngs::SysRng;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior};

use super::gateway::Gateway;
use super::lanes::Lanes;
use super::names;
use super::plan::{self, Files};
use super::report::{self, Report};
use crate::clock;
use crate::config::{Loaded, RunOptions, Settings};
use crate::kernel::absence::Absence;
use crate::kernel::netlink::{Changed, Watch};
use crate::topology::Mode;
use crate::uapi;
use crate::xdp::XdpError;

/// Longest sleep between turns: snapshots are freed and threads looked after at least so often.
const MAX_SLEEP: Duration = Duration::from_millis(100);
/// How often a bond's slaves are looked at: LACP changes are not always announced.
const BOND_INTERVAL: Duration = Duration::from_millis(200);
/// How long a bond may take to come back after a program was attached to one of its slaves.
const BOND_PATIENCE: Duration = Duration::from_secs(30);

/// The gateway, its lanes, and what wakes the control thread.
pub struct Running {
    gateway: Gateway,
    lanes: Lanes,
    watch: Watch,
    absence: Absence,
    signals: Signals,
    /// The tunnels' control sockets.
    uapi: uapi::Server,
    bonds: Interval,
    /// What the command line asked for.
    options: RunOptions,
    /// The kernel's: a machine that was restored must not draw again what it drew before.
    rng: UnwrapErr<SysRng>,
}

impl Running {
    /// A gateway that has not taken a turn yet.
    pub fn new(
        gateway: Gateway,
        lanes: Lanes,
        watch: Watch,
        absence: Absence,
        signals: Signals,
        options: RunOptions,
    ) -> Self {
        let mut bonds = tokio::time::interval(BOND_INTERVAL);
        bonds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let rng = UnwrapErr(SysRng);
        Self { gateway, lanes, watch, absence, signals, uapi: uapi::Server::new(), bonds, options, rng }
    }

    /// Fills the maps, attaches the programs and takes turns, until a signal asks for the end.
    ///
    /// # Errors
    /// A program that cannot be attached, or what the gateway cannot go on without.
    pub async fn serve(&mut self) -> anyhow::Result<()> {
        self.gateway.begin().await?;
        // What the peers have sent meanwhile is answered before we ask.
        self.gateway.turn(&mut self.rng).await;
        self.gateway.greet(&mut self.rng);
        self.serve_uapi();
        if self.attach().await?.is_break() {
            return Ok(());
        }
        tracing::info!("ready");
        while self.step().await?.is_continue() {}
        Ok(())
    }

    /// The start in reverse: programs, lanes and their sockets, routes; the TUN goes with its lane.
    pub async fn end(mut self, keep_guard: bool) {
        self.report().await;
        self.gateway.programs.clear();
        self.lanes.stop(&self.gateway.publisher);
        if !keep_guard && let Err(error) = self.gateway.kernel.remove_ours().await {
            tracing::warn!("{error}");
        }
    }

    /// A control socket for every tunnel.
    fn serve_uapi(&mut self) {
        self.uapi.serve(self.gateway.configs().iter().map(|config| config.name.as_str()));
    }

    /// Attaches the programs, one port at a time: native drivers may reset the port, and a bond must never
    /// lose more than one slave at once.
    async fn attach(&mut self) -> anyhow::Result<ControlFlow<()>> {
        for port in 0..self.gateway.programs.len() {
            let was_up = self.gateway.transmits(port);
            self.attach_one(port)?;
            if was_up && self.gateway.plan.topology.ports[port].bond.is_some() {
                let flow = self.wait_for_bond(port).await?;
                if flow.is_break() {
                    return Ok(flow);
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn attach_one(&mut self, port: usize) -> anyhow::Result<()> {
        let plan = &self.gateway.plan.topology.ports[port];
        let link = self.gateway.view.link(plan.interface);
        let link = link.with_context(|| format!("{}: the device is gone", plan.name))?;
        let program = &mut self.gateway.programs[port];
        match program.attach(link, plan.mode == Mode::Generic) {
            Err(XdpError::NativeUnsupported { .. }) if plan.mode != Mode::Generic => {
                let name = &plan.name;
                tracing::warn!("{name}: the driver has no native XDP, attaching in generic mode (slower)");
                program.attach(link, true)?;
            }
            other => other?,
        }
        Ok(())
    }

    /// Goes on with its turns until the port is back in its bond: handshakes and signals do not wait.
    async fn wait_for_bond(&mut self, port: usize) -> anyhow::Result<ControlFlow<()>> {
        let deadline = clock::boottime() + BOND_PATIENCE;
        self.gateway.look_at_bonds().await;
        while !self.gateway.transmits(port) {
            if clock::boottime() > deadline {
                let name = &self.gateway.plan.topology.ports[port].name;
                tracing::warn!(
                    "{name}: not back in the bond {BOND_PATIENCE:?} after attaching, going on without it"
                );
                break;
            }
            let flow = self.step().await?;
            if flow.is_break() {
                return Ok(flow);
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Waits for something to do, and does it; breaks when a signal asks for the end.
    async fn step(&mut self) -> anyhow::Result<ControlFlow<()>> {
        let now = clock::boottime();
        let rest = self.gateway.deadline().map_or(MAX_SLEEP, |at| at.since(now).min(MAX_SLEEP));
        let handle = Arc::clone(&self.gateway.handle);
        tokio::select! {
            () = handle.woken() => {}
            changed = self.watch.changed() => {
                if changed.contains(Changed::CLOSED) {
                    bail!("the kernel closed the netlink socket: restart forwarder");
                }
                self.gateway.note(changed);
            }
            how = self.absence.over() => {
                tracing::warn!("{how}: the machine may have been restored from a snapshot, all sessions begin anew");
                self.gateway.end_sessions(&mut self.rng);
            }
            _ = self.bonds.tick() => self.gateway.look_at_bonds().await,
            call = self.uapi.next() => {
                let answer = self.gateway.answer(&call.tunnel, &call.request, &mut self.rng).await;
                call.answer(answer);
            }
            signal = self.signals.next() => match signal {
                Asked::Stop => return Ok(ControlFlow::Break(())),
                Asked::Report => self.report().await,
                Asked::Reload => self.reload().await,
            },
            () = tokio::time::sleep(rest) => {}
        }
        self.gateway.turn(&mut self.rng).await;
        if self.lanes.any_dead() {
            bail!("a worker thread ended by itself: this is a bug, its message stands above");
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads the files again and applies the difference; a mistake in one changes nothing.
    async fn reload(&mut self) {
        match plan::files(&self.options) {
            Ok(files) => self.apply(files).await,
            Err(errors) => {
                for error in errors {
                    tracing::error!("{error}");
                }
                tracing::error!("the configuration has mistakes, nothing was changed");
            }
        }
    }

    async fn apply(&mut self, files: Files) {
        let Files { settings, loaded: Loaded { mut tunnels, remarks } } = files;
        for remark in remarks {
            tracing::info!("note: {remark}");
        }
        let now = &self.gateway.plan.settings;
        if (now.workers, now.guard) != (settings.workers, settings.guard) {
            tracing::warn!("forwarder.toml: another `workers` or `guard` takes effect at the next start");
        }
        let settings = Settings { workers: now.workers, guard: now.guard, ..settings };
        names::carry_over(self.gateway.configs(), &mut tunnels);
        match self.gateway.reconfigure_with(settings, tunnels, &mut self.rng).await {
            Ok(()) => tracing::info!("the configuration was read again"),
            Err(error) => tracing::error!("{error}; nothing was changed"),
        }
        self.serve_uapi();
    }

    /// Prints the counters, and writes them as JSON where `--counters` says.
    async fn report(&mut self) {
        self.gateway.publisher.request_counters();
        for _ in 0..20 {
            if !self.gateway.publisher.counters_pending() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let report = Report::collect(&self.gateway, &self.lanes);
        super::show(&report);
        if let Some(file) = &self.options.counters
            && let Err(error) = report::write(file, &report)
        {
            tracing::warn!("{}: cannot write the counters: {error}", file.display());
        }
    }
}

/// What a signal asks for.
enum Asked {
    Stop,
    Reload,
    Report,
}

/// The signals that we catch.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    report: Signal,
}

impl Signals {
    /// Catches them from now on.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn new() -> std::io::Result<Self> {
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
            _ = self.hangup.recv() => Asked::Reload,
            _ = self.report.recv() => Asked::Report,
        }
    }
}

//! What `run` needs, tested before anything is touched. `check` shows the outcome; `run` refuses by it, and
//! starts from what was taken on the way: what was tested is what is used.

use std::fmt::Display;
use std::slice;

use anyhow::bail;
use nix::sys::resource::{Resource, getrlimit};

use super::names;
use super::plan::{self, Files, Planned};
use crate::aead::{self, Engine};
use crate::config::RunOptions;
use crate::kernel::Link;
use crate::kernel::capabilities::{Capabilities, Capability};
use crate::kernel::guard::Lock;
use crate::kernel::netlink::Kernel;
use crate::port;
use crate::port::udp::{TunnelSocket, UdpError, UdpSockets};
use crate::port::xsk::{self, XskCause};
use crate::topology::{PortPlan, Topology};
use crate::tun::Tun;
use crate::xdp::{self, Program};

/// Name of the TUN.
pub const TUN: &str = "forwarder0";

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// `run` works, but the operator should know.
    Warn,
    /// `run` refuses.
    Fail,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// One line; unless all is well: device, cause, fix.
    pub detail: String,
}

impl Verdict {
    /// In tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
        }
    }
}

impl Check {
    /// A line that the operator should know.
    pub fn warning(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, detail: detail.into() }
    }
}

/// What came out.
#[derive(Default)]
pub struct Preflight {
    /// The checks, in the order in which they were made.
    pub checks: Vec<Check>,
    /// The plan, if there can be one.
    pub planned: Option<Planned>,
    lock: Option<Lock>,
    sockets: Option<UdpSockets>,
    programs: Option<Vec<Program>>,
}

/// What `run` starts from.
pub struct Ready {
    /// The plan.
    pub planned: Planned,
    /// The right to this network namespace.
    pub lock: Lock,
    /// The tunnels' UDP sockets.
    pub sockets: UdpSockets,
    /// The ports' XDP programs, attached to nothing.
    pub programs: Vec<Program>,
}

/// Makes all checks, those that failed before notwithstanding: an operator mends everything in one go.
///
/// # Errors
/// The kernel does not answer.
pub async fn preflight(options: &RunOptions, kernel: &Kernel) -> anyhow::Result<Preflight> {
    let mut this = Preflight::default();
    let engine = |engine: &Engine| format!("engine: {engine}");
    this.take("aead", aead::choose(options.aead).map_err(one), engine);
    let tunnels = |files: &Files| format!("tunnels: {}", list(files.loaded.tunnels.iter().map(|t| &t.name)));
    let mut files = this.take("configuration", plan::files(options), tunnels);
    if let Some(files) = &mut files {
        files.loaded.remarks.extend(names::resolve(&mut files.loaded.tunnels).await);
    }
    let asked = options.workers.or(files.as_ref().and_then(|files| files.settings.workers));
    let (workers, lacking) = workers(asked, xsk::probe());
    this.checks.extend(lacking);
    let (options, by_ports) = (&RunOptions { workers, ..options.clone() }, workers != Some(0));
    let capabilities = this.take("capabilities", capabilities(by_ports), |_| "all that are needed".into());
    // Before the kernel is looked at: a forwarder that has just died is still being cleaned up after.
    let alone = |_: &Lock| "no other forwarder in this network namespace".into();
    this.lock = this.take("namespace", Lock::acquire().map_err(one), alone);

    let view = kernel.view().await?;
    let names = |ports: &Vec<Link>| format!("ports: {}", list(ports.iter().map(|p| &p.name)));
    let ports = this.take("devices", plan::ports(options, &view), names);
    let sockets = files.as_ref().map(|files| plan::sockets(&files.loaded.tunnels));
    if let (Some(files), Some(ports)) = (files, &ports) {
        let nics = if by_ports { plan::nics(kernel, ports).await? } else { Vec::new() };
        let topology = plan::topology(options, &files, &view, &nics);
        let size = |t: &Topology| format!("workers: {}, groups: {}", t.cores.len(), t.groups.len());
        this.planned = this.take("topology", topology, size).map(|topology| {
            let (configs, settings) = (files.loaded.tunnels, files.settings);
            Planned { topology, configs, settings, view }
        });
    }
    this.kernel_features(capabilities, by_ports);
    // Another forwarder's TUN, programs and sockets are in the way, too, but the cause is told already.
    if this.lock.is_some() {
        this.occupied(ports.filter(|_| by_ports).as_deref(), sockets.as_deref());
    }
    Ok(this)
}

impl Preflight {
    /// What `run` starts from. Warnings go to the log.
    ///
    /// # Errors
    /// What failed, one a line.
    pub fn ready(self) -> anyhow::Result<Ready> {
        for warning in self.checks.iter().filter(|check| check.verdict == Verdict::Warn) {
            tracing::warn!("{}", warning.detail);
        }
        let failed = self.checks.iter().filter(|c| c.verdict == Verdict::Fail).map(|c| c.detail.as_str());
        let failed = failed.collect::<Vec<_>>().join("\n");
        match (self.planned, self.lock, self.sockets, self.programs) {
            (Some(planned), Some(lock), Some(sockets), Some(programs)) if failed.is_empty() => {
                Ok(Ready { planned, lock, sockets, programs })
            }
            _ => bail!(failed),
        }
    }

    /// What the kernel must have and permit.
    fn kernel_features(&mut self, capabilities: Option<Capabilities>, by_ports: bool) {
        self.take("io_uring", port::probe_io_uring().map_err(one), |()| "usable".into());
        // Without its capabilities the process cannot tell.
        let Some(capabilities) = capabilities else { return };
        if !by_ports {
            self.programs = Some(Vec::new());
            return;
        }
        self.take("af_xdp", xsk::probe().map_err(one), |()| "the kernel has AF_XDP sockets".into());
        let Some(Planned { topology, .. }) = &self.planned else { return };
        let memory = locked_memory(topology, capabilities);
        let programs: Result<Vec<_>, _> = topology.ports.iter().map(|p| Program::load(&p.name)).collect();
        self.take("memory", memory, |bytes| format!("{} MiB of packet memory", bytes >> 20));
        let accepted = |_: &Vec<Program>| "the kernel accepts the XDP program".into();
        self.programs = self.take("program", programs.map_err(one), accepted);
    }

    /// What somebody else may have taken.
    fn occupied(&mut self, ports: Option<&[Link]>, sockets: Option<&[TunnelSocket]>) {
        self.take("tun", Tun::probe(TUN).map_err(one), |()| format!("{TUN} can be made"));
        if let Some(ports) = ports {
            let programs: Vec<_> = ports.iter().filter_map(xdp::in_the_way).collect();
            let free = if programs.is_empty() { Ok(()) } else { Err(programs) };
            self.take("xdp", free, |()| "no other program on the ports".into());
        }
        if let Some(sockets) = sockets {
            self.sockets = self.take("udp", open(sockets), |_| "the listen ports are free".into());
        }
    }

    /// One row for what is well, or one for each error.
    fn take<T, E: Display>(
        &mut self,
        name: &'static str,
        outcome: Result<T, Vec<E>>,
        well: impl FnOnce(&T) -> String,
    ) -> Option<T> {
        match outcome {
            Ok(value) => {
                self.checks.push(Check { name, verdict: Verdict::Ok, detail: well(&value) });
                Some(value)
            }
            Err(errors) => {
                let row = |e: E| Check { name, verdict: Verdict::Fail, detail: e.to_string() };
                self.checks.extend(errors.into_iter().map(row));
                None
            }
        }
    }
}

fn one<E>(error: E) -> Vec<E> {
    vec![error]
}

fn list<T: Display>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}

/// The most workers that there may be: none where the kernel has no AF_XDP. Then the operator should know.
fn workers(asked: Option<usize>, af_xdp: Result<(), XskCause>) -> (Option<usize>, Option<Check>) {
    match af_xdp {
        Err(cause @ XskCause::NoAfXdp) if asked != Some(0) => {
            let detail =
                format!("{cause}; until then all packets go by TUN and UDP sockets, which is slower");
            (Some(0), Some(Check::warning("af_xdp", detail)))
        }
        _ => (asked, None),
    }
}

fn capabilities(by_ports: bool) -> Result<Capabilities, Vec<String>> {
    // CAP_IPC_LOCK can be replaced by a larger limit.
    const BY_PORTS: [Capability; 3] = [Capability::NetRaw, Capability::Bpf, Capability::Perfmon];
    let needed = [Capability::NetAdmin].into_iter().chain(BY_PORTS.into_iter().filter(|_| by_ports));
    let has = Capabilities::effective();
    let has = has.map_err(|e| vec![format!("/proc/self/status cannot be read ({e}): mount /proc")])?;
    let missing: Vec<_> = needed.filter(|&c| !has.has(c)).collect();
    if missing.is_empty() {
        return Ok(has);
    }
    let slower =
        if missing.contains(&Capability::NetAdmin) { "" } else { ", or use --workers 0, which is slower" };
    let missing = list(missing);
    Err(vec![format!("this process lacks {missing}: run as root, or grant what is missing{slower}")])
}

/// Bytes of packet memory, which must fit the limit unless the capability lifts it.
fn locked_memory(topology: &Topology, capabilities: Capabilities) -> Result<u64, Vec<XskCause>> {
    let of_port = |p: &PortPlan| u64::from(p.queues) * xsk::packet_memory(p.chunk, xsk::RING);
    let bytes = topology.ports.iter().map(of_port).sum();
    // A limit that cannot be read is none that we know to be too small.
    let limit = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(u64::MAX, |(soft, _)| soft);
    let fits = bytes <= limit || capabilities.has(Capability::IpcLock);
    if fits { Ok(bytes) } else { Err(vec![XskCause::LockedMemory(bytes)]) }
}

fn open(sockets: &[TunnelSocket]) -> Result<UdpSockets, Vec<UdpError>> {
    // Each by itself first: all that fail are named.
    let fails = |socket| UdpSockets::open(slice::from_ref(socket)).err();
    let errors: Vec<_> = sockets.iter().filter_map(fails).collect();
    if errors.is_empty() { UdpSockets::open(sockets).map_err(one) } else { Err(errors) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a kernel without AF_XDP takes the workers away; what else is wrong is told by the checks.
    #[test]
    fn without_af_xdp_there_are_no_workers_and_a_warning() {
        for asked in [None, Some(1), Some(4)] {
            let (workers, lacking) = workers(asked, Err(XskCause::NoAfXdp));
            let lacking = lacking.expect("a warning");
            assert_eq!((workers, lacking.name, lacking.verdict), (Some(0), "af_xdp", Verdict::Warn));
            assert!(lacking.detail.contains("CONFIG_XDP_SOCKETS=y"), "{}", lacking.detail);
        }
        assert_eq!(workers(Some(0), Err(XskCause::NoAfXdp)), (Some(0), None));
        assert_eq!(workers(None, Err(XskCause::NotPermitted)), (None, None));
        assert_eq!(workers(Some(4), Ok(())), (Some(4), None));
    }
}

//! Fail-closed routes, and the janitor that takes them away when the process is killed.
//!
//! While a forwarder runs, every remote prefix has an `unreachable` route of ours at the worst metric, so
//! that what the tunnels cannot carry is refused instead of leaving in clear by a default route. Routes
//! without a device outlive a killed process. So `run` keeps a small child, the janitor:
//!
//! ```text
//! forwarder run ---- life line (socket pair) ---- forwarder janitor
//!      |  holds                                        |  holds, too
//!      +------------ lock: abstract socket ------------+
//! ```
//!
//! When the life line breaks (exit, panic, kill -9), the janitor removes every route and rule of our
//! protocol number, and the control sockets that nobody answers on, and exits. Whoever holds the lock owns the
//! routes and rules: there is one per network namespace, as there is one routing table, so gateways in different
//! namespaces never meet, and a new forwarder waits until the janitor of the one before is done. To leave the
//! routes after any exit (`guard = "keep"`), start no janitor.

use std::collections::HashSet;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ipnet::IpNet;
use nix::sys::signal::SigSet;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::netlink::{Kernel, Removed};
use super::{Error, GUARD_METRIC, Route, RouteKind};
use crate::uapi;

/// The name of the hidden subcommand that runs [`janitor_main`].
pub const JANITOR: &str = "janitor";

/// Makes the fail-closed routes exactly these: (prefix, table). The table is the one where the TUN's
/// route to the prefix stands or would stand. Missing ones are added before any other is removed.
///
/// # Errors
/// When the kernel refuses; [`nix::errno::Errno::EEXIST`] when a foreign route has the worst metric.
pub async fn close(kernel: &Kernel, prefixes: &[(IpNet, u32)]) -> Result<(), Error> {
    let wanted: Vec<Route> =
        prefixes.iter().map(|(prefix, table)| Route::unreachable(*prefix, *table)).collect();
    let guards = |r: &Route| r.kind == RouteKind::Unreachable && r.metric == GUARD_METRIC;
    let present: Vec<Route> = kernel.our_routes().await?.into_iter().filter(guards).collect();
    let mut there: HashSet<Route> = present.iter().copied().collect();
    // Two groups may name one prefix.
    for route in wanted.iter().filter(|route| there.insert(**route)) {
        kernel.add_route(route).await?;
    }
    let wanted: HashSet<Route> = wanted.into_iter().collect();
    for route in present.iter().filter(|route| !wanted.contains(*route)) {
        kernel.remove_route(route).await?;
    }
    Ok(())
}

/// `forwarder down`: removes what the janitor would have removed, after a forwarder with `guard = "keep"` or after
/// both were killed: our routes and rules in this network namespace, and the control sockets that nobody answers
/// on. Not to be called on a tokio runtime.
///
/// # Errors
/// When a forwarder still runs here, or the kernel refuses.
pub fn down() -> Result<Removed, Error> {
    let _lock = Lock::acquire()?;
    sweep()
}

/// The right to own the routes and rules of our protocol number in this network namespace.
#[derive(Debug)]
pub struct Lock(UnixListener);

impl Lock {
    /// Takes the lock; waits up to a second for the janitor of a process that has just died.
    ///
    /// # Errors
    /// [`Error::Running`] when another forwarder holds it.
    pub fn acquire() -> Result<Self, Error> {
        const ATTEMPTS: usize = 50;
        const PAUSE: Duration = Duration::from_millis(20);
        let failed = |e: std::io::Error| Error::io("take the lock of this network namespace", &e);
        // Abstract names are per network namespace, and vanish with their last holder.
        let name = SocketAddr::from_abstract_name(b"forwarder").map_err(failed)?;
        for _ in 0..ATTEMPTS {
            match UnixListener::bind_addr(&name) {
                Ok(listener) => return Ok(Self(listener)),
                Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => std::thread::sleep(PAUSE),
                Err(e) => return Err(failed(e)),
            }
        }
        Err(Error::Running { pid: holder(&name) })
    }
}

/// The process that took the lock.
fn holder(name: &SocketAddr) -> i32 {
    let credentials =
        UnixStream::connect_addr(name).ok().and_then(|stream| getsockopt(&stream, PeerCredentials).ok());
    credentials.map_or(0, |c| c.pid())
}

/// The child process that removes our routes and rules when this process ends, however it ends.
#[derive(Debug)]
pub struct Janitor {
    child: Child,
    life_line: UnixStream,
}

impl Janitor {
    /// Starts the janitor in the calling thread's network namespace, and waits until it is on guard. To be
    /// called before the first route or rule is added, and before any device is opened by a library that
    /// lets children inherit its descriptors: the janitor would keep the device alive.
    ///
    /// # Errors
    /// [`Error::Janitor`] when the child does not start.
    pub fn spawn(lock: &Lock) -> Result<Self, Error> {
        Self::start(lock).map_err(Error::Janitor)
    }

    fn start(lock: &Lock) -> std::io::Result<Self> {
        let (mut life_line, its_end) = UnixStream::pair()?;
        // The lock rides on standard output, which the janitor never writes: descriptors 0 to 2 are the
        // ones that a child can be given without races.
        let child = Command::new(std::env::current_exe()?)
            .arg(JANITOR)
            .stdin(OwnedFd::from(its_end))
            .stdout(OwnedFd::from(lock.0.try_clone()?))
            .stderr(Stdio::inherit())
            .current_dir("/")
            .process_group(0)
            .spawn()?;
        let mut janitor = Self { child, life_line: life_line.try_clone()? };
        if life_line.read(&mut [0])? == 1 {
            return Ok(janitor);
        }
        let status = janitor.child.wait()?;
        Err(std::io::Error::other(format!("it ended at once ({status})")))
    }
}

impl Drop for Janitor {
    /// Lets the janitor do its work, and waits for its end.
    fn drop(&mut self) {
        // Neither can fail in a way that leaves something to do: the janitor sees the end either way.
        let _ = self.life_line.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// The janitor process: waits for the end of its parent, then removes our routes and rules. Only
/// [`Janitor::spawn`] starts it. Not to be called on a tokio runtime.
///
/// # Errors
/// When the kernel refuses.
pub fn janitor_main() -> Result<Removed, Error> {
    // A Ctrl-C, a closed terminal or a polite kill of everything must not end the janitor before its
    // parent: blocked signals stay pending for ever. `process_group` of its parent made it a group of its own.
    SigSet::all().thread_block().map_err(|e| Error::Janitor(e.into()))?;
    let life_line = std::io::stdin();
    nix::unistd::write(&life_line, b"r").map_err(|e| Error::Janitor(e.into()))?;
    // The parent never writes: whatever comes, data, end or error, means that the line is broken.
    let _ = life_line.lock().read(&mut [0]);
    sweep()
}

/// Removes what is ours, and the control sockets of who is gone. A runtime of its own, since both callers are
/// processes of their own.
fn sweep() -> Result<Removed, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|e| Error::io("start the runtime", &e))?;
    let removed = runtime.block_on(async { Kernel::connect()?.remove_ours().await })?;
    // One that stays is found to be stale by the next who wants its name.
    let _ = uapi::remove_stale();
    Ok(removed)
}

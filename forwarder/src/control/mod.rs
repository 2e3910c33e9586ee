//! The control thread: configuration to topology, start, handshakes, timers, the kernel's changes, stop.

mod change;
mod check;
pub mod egress;
pub mod gateway;
#[cfg(test)]
mod gateway_tests;
pub mod handle;
#[cfg(feature = "keylog")]
pub mod keylog;
pub mod lanes;
mod names;
mod paths;
mod plan;
pub mod preflight;
pub mod reconfigure;
pub mod report;
pub mod routes;
mod routing;
mod serve;
pub mod snapshots;
mod start;
mod turn;
#[cfg(test)]
mod turn_tests;
mod uapi;
mod world;

use std::fmt::Display;
use std::io::Write as _;

use anyhow::Context as _;
use nix::sys::prctl;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use check::{Findings, check};
pub use start::run;

/// Prints to standard output. That nobody reads it any more, as when a log daemon starts anew, ends no gateway.
fn show(text: &impl Display) {
    if let Err(error) = write!(std::io::stdout(), "{text}") {
        tracing::warn!("standard output: cannot be written ({error}): restart with one that is read");
    }
}

/// Runs `work` on this thread, which becomes the control thread.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // Keys never reach a core file.
    prctl::set_dumpable(false).context("cannot switch core dumps off")?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the control thread's runtime")?;
    let outcome = runtime.block_on(work);
    // A name that is still being looked up holds up nobody's end.
    runtime.shutdown_background();
    outcome
}

/// A process may have 1024 descriptors by default, and each queue of each port takes one: the soft limit goes to the hard
/// one, which is the administrator's. What the kernel refuses here it would refuse later, by name.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_limited_by_the_hard_limit_only() {
        let hard = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: hard }).unwrap();
        let soft = block_on(async { Ok(getrlimit(Resource::Nofile).current) }).unwrap();
        assert_eq!(soft, hard);
    }

    /// Core dumps are off while keys are in memory.
    #[test]
    fn the_process_leaves_no_core() {
        assert!(prctl::get_dumpable().unwrap(), "as a process begins");
        let dumpable = block_on(async { Ok(prctl::get_dumpable()?) }).unwrap();
        prctl::set_dumpable(true).unwrap();
        assert!(!dumpable);
    }
}

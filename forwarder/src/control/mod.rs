//! The control thread: configuration to topology, start, handshakes, timers, the kernel's changes, stop.

mod check;
pub mod egress;
pub mod gateway;
pub mod handle;
pub mod lanes;
mod paths;
mod plan;
pub mod preflight;
pub mod report;
pub mod routes;
mod routing;
mod serve;
pub mod snapshots;
mod start;
mod world;

use anyhow::Context as _;
use nix::sys::prctl;

pub use check::{Findings, check};
pub use start::run;

/// Runs `work` on this thread, which becomes the control thread.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // Keys never reach a core file.
    prctl::set_dumpable(false).context("cannot switch core dumps off")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the control thread's runtime")?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Core dumps are off while keys are in memory.
    #[test]
    fn the_process_leaves_no_core() {
        assert!(prctl::get_dumpable().unwrap(), "as a process begins");
        let dumpable = block_on(async { Ok(prctl::get_dumpable()?) }).unwrap();
        prctl::set_dumpable(true).unwrap();
        assert!(!dumpable);
    }
}

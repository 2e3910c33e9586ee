//! The loop that drives a lane: take the newest snapshot, send what the control thread injected, turn
//! the lane, rest.
//!
//! Workers (AF_XDP) and the slow path (TUN, UDP) run this same loop; they differ in their ports.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags};

use crate::clock;
use crate::pipeline::Lane;
use crate::port::BURST;
use crate::publish::Subscriber;

/// How long a lane that just had packets rests before it looks again. A rest lets a burst gather, and
/// costs one wakeup per burst rather than one per packet; it is far below the latency of a WAN.
const REST: Duration = Duration::from_micros(50);
/// Empty turns after which a lane waits for its descriptors instead of resting.
const PATIENCE: u32 = 8;
/// Longest wait in milliseconds, so that waiting packets age even when nothing happens.
const MAX_WAIT: u8 = 100;

/// A lane and what it listens to.
pub struct Worker {
    /// The lane.
    pub lane: Lane,
    /// Its snapshots.
    pub snapshots: Subscriber,
    /// Set when the process ends.
    pub stop: Arc<AtomicBool>,
}

impl Worker {
    /// Starts the loop on a thread of its own, pinned to `core` if there is one.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn spawn(self, thread: String, core: Option<usize>) -> std::io::Result<JoinHandle<Lane>> {
        let pinned = move || {
            let pinned = core.is_none_or(|id| core_affinity::set_for_current(core_affinity::CoreId { id }));
            if !pinned {
                let name = std::thread::current().name().unwrap_or_default().to_owned();
                tracing::warn!("cannot pin {name} to core {core:?}: it runs where the scheduler puts it");
            }
            self.run()
        };
        std::thread::Builder::new().name(thread).spawn(pinned)
    }

    /// Runs until told to stop; gives the lane back, so that its ports can be closed in order.
    fn run(mut self) -> Lane {
        let mut idle = 0;
        while !self.stop.load(Ordering::Acquire) {
            let received = self.turn();
            idle = if received > 0 { 0 } else { idle + 1 };
            if idle > PATIENCE {
                self.wait();
            } else if received < BURST {
                std::thread::sleep(REST);
            }
        }
        self.lane
    }

    fn turn(&mut self) -> usize {
        let now = clock::boottime();
        while let Some(message) = self.snapshots.next_injected() {
            self.lane.inject(self.snapshots.current(), now, &message);
        }
        self.snapshots.report(|| self.lane.ports().all.iter().map(|port| port.counters()).collect());
        self.lane.turn(self.snapshots.current(), now)
    }

    fn wait(&self) {
        let ports = self.lane.ports().all.iter().filter_map(|port| port.poll_fd());
        let fds = ports.chain([self.snapshots.wake_fd()]);
        let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // A signal (EINTR) ends the wait early, which is harmless.
        let _ = nix::poll::poll(&mut fds, MAX_WAIT);
        self.snapshots.acknowledge();
    }
}

//! The loop that drives a lane: take the newest snapshot, send what the control thread injected, turn
//! the lane, rest or wait.
//!
//! Workers (AF_XDP) and the slow path (TUN, UDP) run this same loop; they differ in their ports.

use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags};
use rustix::process::nice;

use crate::clock::{self, Boottime};
use crate::pace::{Next, Pace, REST};
use crate::pipeline::Lane;
use crate::publish::Subscriber;

/// How much nicer threads behind the workers are: a ninth of their share where those leave nothing.
const NICE: i32 = 10;
/// Longest wait in milliseconds, so that waiting packets age even when nothing happens.
const MAX_WAIT: u8 = 100;

/// Where a thread runs.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// On this core.
    Core(usize),
    /// Where the scheduler puts it.
    Anywhere,
    /// There, but behind the workers: a flood of handshakes takes what they leave.
    Behind,
}

impl Place {
    /// The place of a thread that serves that many workers. Without workers it is the datapath itself.
    pub fn beside(workers: usize) -> Self {
        if workers == 0 { Self::Anywhere } else { Self::Behind }
    }

    /// Moves the calling thread there; threads that it starts from then on begin there, too.
    pub fn take(self) {
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        match self {
            Self::Anywhere => {}
            Self::Core(id) => {
                if !core_affinity::set_for_current(core_affinity::CoreId { id }) {
                    tracing::warn!("cannot pin {thread} to core {id}: it runs where the scheduler puts it");
                }
            }
            // On Linux that of the calling thread, not of its process.
            Self::Behind => {
                if let Err(error) = nice(NICE) {
                    tracing::warn!(
                        "{thread} takes from the tunnels in a flood of handshakes: nice({NICE}) is refused \
                         ({error}): allow setpriority in the seccomp profile"
                    );
                }
            }
        }
    }
}

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
    /// Starts the loop on a thread of its own.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn spawn(self, thread: String, place: Place) -> std::io::Result<JoinHandle<Lane>> {
        let placed = move || {
            place.take();
            self.run()
        };
        std::thread::Builder::new().name(thread).spawn(placed)
    }

    /// Runs until told to stop; gives the lane back, so that its ports can be closed in order.
    fn run(mut self) -> Lane {
        let mut pace = Pace::default();
        while !self.stop.load(Ordering::Acquire) {
            let now = clock::boottime();
            let received = self.turn(now);
            match pace.after(received, now) {
                Next::Again => std::thread::yield_now(),
                Next::Wait if !self.unsent() => self.wait(),
                // A device without room says nothing when it has some.
                Next::Rest | Next::Wait => std::thread::sleep(REST),
            }
        }
        self.lane
    }

    fn turn(&mut self, now: Boottime) -> usize {
        while let Some(message) = self.snapshots.next_injected() {
            self.lane.inject(self.snapshots.current(), now, &message);
        }
        self.snapshots.report(|| self.lane.ports().all.iter().map(|port| port.counters()).collect());
        self.lane.turn(self.snapshots.current(), now)
    }

    fn unsent(&self) -> bool {
        self.lane.ports().all.iter().any(|port| port.unsent())
    }

    /// By `poll`: with `epoll` every frame that arrives costs more, those that find the lane awake, too.
    fn wait(&self) {
        let ports = self.lane.ports().all.iter().filter_map(|port| port.poll_fd());
        let fds = iter::once(self.snapshots.wake_fd()).chain(ports);
        let mut fds: Vec<PollFd<'_>> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        // A signal (EINTR) ends the wait early, which is harmless.
        let _ = nix::poll::poll(&mut fds, MAX_WAIT);
        if fds[0].any().unwrap_or_default() {
            self.snapshots.acknowledge();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, SocketAddr};
    use std::os::fd::BorrowedFd;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    use rustix::process::getpriority_process;

    use super::*;
    use crate::id::{InterfaceId, PeerId, TunnelId};
    use crate::pipeline::control::Refused;
    use crate::pipeline::{Control, Ports, Snapshot};
    use crate::port::{Destination, Frame, Port, PortCounters, RxFrame, TxFrame};
    use crate::publish::Publisher;
    use crate::wireguard::{Role, Session, SessionId, SessionKeys};

    struct Nobody;

    impl Control for Nobody {
        fn want_session(&self, _: PeerId) {}
        fn want_neighbour(&self, _: InterfaceId, _: IpAddr) {}
        fn handshake(&self, _: TunnelId, _: SocketAddr, _: &[u8]) -> Result<(), Refused> {
            Ok(())
        }
    }

    /// Relative to what the process was started with; the thread's own.
    #[test]
    fn behind_is_nicer_than_the_workers() {
        let own = getpriority_process(None).unwrap();
        let behind = std::thread::spawn(|| {
            let workers = nice(1).unwrap();
            Place::Behind.take();
            (workers, getpriority_process(None).unwrap())
        });
        let (workers, behind) = behind.join().unwrap();
        assert_eq!(behind, (workers + NICE).min(19));
        assert_eq!(getpriority_process(None).unwrap(), own);
    }

    fn session() -> Arc<Session> {
        let id = SessionId { tunnel: TunnelId(0), peer: PeerId(0), local_index: 1, remote_index: 2 };
        let keys = SessionKeys::new(&[1; 32], &[2; 32]);
        Arc::new(Session::new(id, keys, Role::Initiator, clock::boottime(), Arc::default()))
    }

    /// A device that has no room yet. Like many a one it has no descriptor that tells when there is.
    struct Full(Arc<AtomicU32>);

    impl Port for Full {
        fn receive(&mut self, _: u16, _: usize, _: &mut Vec<RxFrame>) -> usize {
            0
        }
        fn release(&mut self, _: Frame) {}
        fn reserve(&mut self) -> Option<TxFrame> {
            None
        }
        fn transmit(&mut self, _: TxFrame, _: &Destination) {}
        fn cancel(&mut self, _: TxFrame) {}
        fn flush(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn unsent(&self) -> bool {
            true
        }
        fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }
        fn counters(&self) -> PortCounters {
            PortCounters::default()
        }
    }

    /// Sleeping, it would flush ten times a second.
    #[test]
    fn a_worker_with_frames_to_send_does_not_sleep() {
        let flushes = Arc::<AtomicU32>::default();
        let all: Vec<Box<dyn Port>> = vec![Box::new(Full(Arc::clone(&flushes)))];
        let ports = Ports { all, egress: Vec::new(), kernel: None, datagrams: None };
        let mut publisher = Publisher::new();
        let snapshots = publisher.subscribe(&Arc::default()).unwrap();
        let lane = Lane::new(ports, Arc::default(), Arc::new(Nobody), 2048).unwrap();
        let stop = Arc::<AtomicBool>::default();
        let worker = Worker { lane, snapshots, stop: Arc::clone(&stop) };
        let thread = worker.spawn("sender".to_owned(), Place::Anywhere).unwrap();
        let begun = clock::boottime();
        while flushes.load(Ordering::Relaxed) < 200 && clock::boottime().since(begun) < Duration::from_secs(5)
        {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(flushes.load(Ordering::Relaxed) >= 200, "{flushes:?} flushes");
        stop.store(true, Ordering::Release);
        publisher.wake_all();
        thread.join().unwrap();
    }

    /// A worker that sleeps holds its snapshot, and with it the sessions' keys: publishing wakes it, so that
    /// they are wiped within a second of their end (section 6.3).
    #[test]
    fn keys_are_wiped_while_a_worker_sleeps() {
        let session = session();
        let keys = Arc::downgrade(&session);
        let sessions = Arc::new([(1, session)].into_iter().collect());
        let with_keys = Arc::new(Snapshot { generation: 1, sessions, ..Snapshot::default() });
        let mut publisher = Publisher::new();
        let snapshots = publisher.subscribe(&with_keys).unwrap();
        drop(with_keys);
        let ports = Ports { all: Vec::new(), egress: Vec::new(), kernel: None, datagrams: None };
        let lane = Lane::new(ports, Arc::default(), Arc::new(Nobody), 2048).unwrap();
        let stop = Arc::<AtomicBool>::default();
        let worker = Worker { lane, snapshots, stop: Arc::clone(&stop) };
        let thread = worker.spawn("sleeper".to_owned(), Place::Anywhere).unwrap();
        // Longer than its patience: it waits for its descriptors now.
        std::thread::sleep(Duration::from_millis(50));
        assert!(keys.upgrade().is_some());

        let ended = clock::boottime();
        publisher.publish(0, Arc::new(Snapshot { generation: 2, ..Snapshot::default() }));
        while keys.upgrade().is_some() && clock::boottime().since(ended) < Duration::from_secs(1) {
            publisher.reclaim();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(keys.upgrade().is_none());
        stop.store(true, Ordering::Release);
        publisher.wake_all();
        thread.join().unwrap();
    }
}

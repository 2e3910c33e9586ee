//! How snapshots reach the lanes: each lane has a slot; publishing fills it and wakes the lane.
//!
//! A lane looks at one atomic per turn and takes the new snapshot under a lock that is otherwise never
//! contended. The control thread keeps every snapshot until no lane holds it any more, so that none is
//! ever freed (and no key wiped) on a packet's time.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::pipeline::Snapshot;
use crate::pipeline::control::Injected;
use crate::port::PortCounters;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Messages that may wait for a lane to send them.
const MAX_INJECTED: usize = 1024;

/// The control thread's side.
#[derive(Debug)]
pub struct Publisher {
    slots: Vec<Arc<Slot>>,
    live: Vec<Arc<Snapshot>>,
}

/// A lane's side.
#[derive(Debug)]
pub struct Subscriber {
    slot: Arc<Slot>,
    snapshot: Arc<Snapshot>,
}

#[derive(Debug)]
struct Slot {
    generation: CachePadded<AtomicU64>,
    /// The generation that the lane took last.
    taken: CachePadded<AtomicU64>,
    next: Mutex<Arc<Snapshot>>,
    injected: ArrayQueue<Injected>,
    counters_wanted: AtomicBool,
    counters: Mutex<Vec<PortCounters>>,
    wake: Arc<EventFd>,
}

impl Publisher {
    /// A publisher without lanes.
    pub fn new() -> Self {
        Self { slots: Vec::new(), live: Vec::new() }
    }

    /// Adds a lane that begins with `snapshot`; lanes are numbered in the order of this call.
    ///
    /// # Errors
    /// When the kernel gives no eventfd.
    pub fn subscribe(&mut self, snapshot: &Arc<Snapshot>) -> nix::Result<Subscriber> {
        let slot = Arc::new(Slot {
            generation: CachePadded::new(AtomicU64::new(snapshot.generation)),
            taken: CachePadded::new(AtomicU64::new(snapshot.generation)),
            next: Mutex::new(Arc::clone(snapshot)),
            injected: ArrayQueue::new(MAX_INJECTED),
            counters_wanted: AtomicBool::new(false),
            counters: Mutex::default(),
            wake: Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?),
        });
        self.slots.push(Arc::clone(&slot));
        self.keep(snapshot);
        Ok(Subscriber { slot, snapshot: Arc::clone(snapshot) })
    }

    /// Gives lane `lane` a new snapshot and wakes it.
    pub fn publish(&mut self, lane: usize, snapshot: Arc<Snapshot>) {
        self.keep(&snapshot);
        let slot = &self.slots[lane];
        let generation = snapshot.generation;
        *slot.next.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        slot.generation.store(generation, Ordering::Release);
        slot.wake();
    }

    /// Waits until every lane has taken what was published for it, but not longer than `limit`. A peer may
    /// use an index as soon as it hears of it: by then every lane knows it.
    pub async fn settled(&self, limit: Duration) {
        /// As short as tokio's timers are exact.
        const LOOK: Duration = Duration::from_millis(1);
        for _ in 0..limit.as_millis() {
            if self.is_settled() {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether every lane has taken its snapshot and its messages: none does anything by an older snapshot.
    pub fn is_quiet(&self) -> bool {
        self.is_settled() && self.slots.iter().all(|slot| slot.injected.is_empty())
    }

    fn is_settled(&self) -> bool {
        let taken =
            |slot: &Arc<Slot>| slot.taken.load(Ordering::Acquire) == slot.generation.load(Ordering::Acquire);
        self.slots.iter().all(taken)
    }

    /// Frees the snapshots that no lane holds any more.
    pub fn reclaim(&mut self) {
        self.live.retain(|snapshot| Arc::strong_count(snapshot) > 1);
    }

    /// Once, however many lanes it goes to: what stands in `live` twice would keep itself alive.
    fn keep(&mut self, snapshot: &Arc<Snapshot>) {
        if !self.live.iter().any(|live| Arc::ptr_eq(live, snapshot)) {
            self.live.push(Arc::clone(snapshot));
        }
    }

    /// Hands a message to a lane for sending; `false` when its queue is full.
    pub fn inject(&self, lane: usize, message: Injected) -> bool {
        let slot = &self.slots[lane];
        let taken = slot.injected.push(message).is_ok();
        slot.wake();
        taken
    }

    /// Asks every lane for its ports' counters; they are there after its next turn.
    pub fn request_counters(&self) {
        for slot in &self.slots {
            slot.counters_wanted.store(true, Ordering::Release);
            slot.wake();
        }
    }

    /// Whether some lane has not answered [`Self::request_counters`] yet.
    pub fn counters_pending(&self) -> bool {
        self.slots.iter().any(|slot| slot.counters_wanted.load(Ordering::Acquire))
    }

    /// The counters that lane `lane` gave last, by position of its ports.
    pub fn counters(&self, lane: usize) -> Vec<PortCounters> {
        self.slots[lane].counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Wakes every lane, to look at whatever else it looks at (the stop flag).
    pub fn wake_all(&self) {
        self.slots.iter().for_each(|slot| slot.wake());
    }
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

impl Subscriber {
    /// The newest snapshot.
    pub fn current(&mut self) -> &Snapshot {
        if self.slot.generation.load(Ordering::Acquire) != self.snapshot.generation {
            let next = self.slot.next.lock().unwrap_or_else(PoisonError::into_inner);
            self.snapshot = Arc::clone(&next);
            self.slot.taken.store(self.snapshot.generation, Ordering::Release);
        }
        &self.snapshot
    }

    /// The next message to send.
    pub fn next_injected(&self) -> Option<Injected> {
        self.slot.injected.pop()
    }

    /// Gives the control thread the ports' counters if it asked for them.
    pub fn report(&self, counters: impl FnOnce() -> Vec<PortCounters>) {
        if self.slot.counters_wanted.load(Ordering::Acquire) {
            *self.slot.counters.lock().unwrap_or_else(PoisonError::into_inner) = counters();
            self.slot.counters_wanted.store(false, Ordering::Release);
        }
    }

    /// Readable when something was published, injected or otherwise asked for.
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.slot.wake.as_fd()
    }

    /// What other threads write to, to wake this lane.
    pub fn wake_handle(&self) -> Arc<EventFd> {
        Arc::clone(&self.slot.wake)
    }

    /// Makes [`Self::wake_fd`] wait again.
    pub fn acknowledge(&self) {
        // Nothing to read (EAGAIN) is as good as having read it.
        let _ = self.slot.wake.read();
    }
}

impl Slot {
    fn wake(&self) {
        // The only error is EAGAIN at u64::MAX - 1: the lane is awake then, anyway.
        let _ = self.wake.write(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    fn snapshot(generation: u64) -> Arc<Snapshot> {
        Arc::new(Snapshot { generation, ..Snapshot::default() })
    }

    #[tokio::test]
    async fn settled_when_every_lane_has_taken_its_snapshot() {
        let mut publisher = Publisher::new();
        let mut lanes = [0; 2].map(|_| publisher.subscribe(&snapshot(0)).unwrap());
        publisher.settled(LIMIT).await;
        for lane in 0..2 {
            publisher.publish(lane, snapshot(1));
        }
        assert_eq!(lanes[0].current().generation, 1);
        assert!(!publisher.is_settled());
        // A lane that does not come is waited for, but not for ever.
        publisher.settled(LIMIT).await;
        assert_eq!(lanes[1].current().generation, 1);
        assert!(publisher.is_settled());
    }

    #[test]
    fn a_snapshot_is_freed_when_no_lane_holds_it() {
        let mut publisher = Publisher::new();
        let first = snapshot(0);
        let watched = Arc::downgrade(&first);
        let mut lanes = [0; 2].map(|_| publisher.subscribe(&first).unwrap());
        drop(first);
        let second = snapshot(1);
        for (lane, subscriber) in lanes.iter_mut().enumerate() {
            publisher.publish(lane, Arc::clone(&second));
            publisher.reclaim();
            assert!(watched.upgrade().is_some(), "lane {lane} still reads it");
            subscriber.current();
        }
        publisher.reclaim();
        assert!(watched.upgrade().is_none());
    }

    /// Two lanes and the control thread, in every order: once all have settled, no lane works with the old
    /// snapshot, so a message may reveal what the new one has. The control thread frees the old one, with its keys,
    /// whoever leaves it last.
    #[cfg(feature = "model")]
    #[test]
    fn model_no_lane_works_with_an_old_snapshot_once_all_have_settled() {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(|| {
            let mut publisher = Publisher::new();
            let first = snapshot(1);
            let watched = Arc::downgrade(&first);
            let lanes = [0; 2].map(|_| publisher.subscribe(&first).unwrap());
            drop(first);
            let revealed = Arc::new(AtomicBool::new(false));
            // Not loom's, whose relaxed loads may be late: this one only takes notes.
            let reclaimed = Arc::new(std::sync::atomic::AtomicBool::new(false));
            let threads = lanes.map(|mut lane| {
                let (revealed, reclaimed) = (Arc::clone(&revealed), Arc::clone(&reclaimed));
                let watched = watched.clone();
                loom::thread::spawn(move || {
                    for _ in 0..2 {
                        let old = lane.current().generation == 1;
                        assert!(!(old && revealed.load(Ordering::Relaxed)), "works with an old snapshot");
                        let freed = watched.strong_count() == 0;
                        assert!(!freed || reclaimed.load(Ordering::Relaxed), "freed on a packet's time");
                    }
                    lane
                })
            });
            for lane in 0..2 {
                publisher.publish(lane, snapshot(2));
            }
            revealed.store(publisher.is_settled(), Ordering::Relaxed);
            publisher.reclaim();
            reclaimed.store(watched.strong_count() == 0, Ordering::Relaxed);
            for thread in threads {
                let mut lane = thread.join().unwrap();
                assert_eq!(lane.current().generation, 2);
            }
            publisher.reclaim();
            assert!(publisher.is_settled() && watched.upgrade().is_none());
        });
    }
}

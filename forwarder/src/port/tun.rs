//! The TUN as a port: what the kernel routed into it comes out as received frames, what is transmitted the
//! kernel receives.
//!
//! Order holds both ways. One request reads, and goes on reading (a multishot read; before Linux 6.7 a plain
//! one that is asked again each time). Writes are issued in the order in which they were queued, and a TUN
//! takes each packet at once.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use super::queue::QueueRx;
use super::uring::{Received, Receiver, Uring, UringError};
use super::{Arena, Destination, Frame, Layer, Port, PortCounters, RxFrame, TxFrame};

/// Frames of the workers' queues that may be on their way into the TUN at once.
const FROM_WORKERS: u16 = 256;
/// Whose frame a write carries: the port's own, or 1 + the position of the worker's queue.
const OWN: u16 = 0;

/// A TUN as a port, for one thread.
pub struct TunPort {
    // Before `tun`: the ring goes first.
    uring: Uring,
    tun: OwnedFd,
    from_workers: Vec<QueueRx>,
    free: Arena,
    counters: PortCounters,
}

impl TunPort {
    /// A port on `tun` (opened without packet information and non-blocking), with `frames` receive frames (a
    /// power of two) and as many send frames of `room` bytes. Each flush also writes what the workers queued
    /// in `from_workers`.
    ///
    /// # Errors
    /// `io_uring` is not to be had, or memory for the frames.
    pub fn new(
        tun: OwnedFd,
        from_workers: Vec<QueueRx>,
        frames: u16,
        room: usize,
    ) -> Result<Self, UringError> {
        let reader = Receiver::Device(tun.as_raw_fd());
        let uring = Uring::new([reader], frames, room, frames + FROM_WORKERS)?;
        let free = Arena::new(usize::from(frames), room).map_err(UringError::Memory)?;
        Ok(Self { uring, tun, from_workers, free, counters: PortCounters::default() })
    }

    /// Send frames that are free now.
    pub fn available(&self) -> usize {
        self.free.available()
    }

    /// Queues what the workers left, as far as there is room beside the port's own frames.
    fn drain_workers(&mut self) {
        for (queue, token) in self.from_workers.iter().zip(OWN + 1..) {
            while self.uring.send_room() > self.free.available() {
                let Some(frame) = queue.take() else { break };
                if let Err(frame) = self.uring.write(self.tun.as_raw_fd(), frame, token) {
                    queue.give_back(frame);
                }
            }
        }
    }

    fn sent(&mut self, frame: Frame, token: u16, sent: bool) {
        self.counters.sent(frame.len(), sent);
        match token {
            OWN => self.free.give(frame),
            worker => self.from_workers[usize::from(worker - 1)].give_back(frame),
        }
    }
}

impl Port for TunPort {
    fn receive(&mut self, origin: u16, max: usize, into: &mut Vec<RxFrame>) -> usize {
        self.uring.turn();
        let before = into.len();
        while into.len() - before < max {
            let Some(Received { frame, .. }) = self.uring.next_received() else { break };
            self.counters.received(frame.len());
            into.push(RxFrame { frame, layer: Layer::Ip, origin });
        }
        into.len() - before
    }

    fn release(&mut self, frame: Frame) {
        self.uring.provide(frame);
    }

    fn reserve(&mut self) -> Option<TxFrame> {
        Some(TxFrame { frame: self.free.take()? })
    }

    fn transmit(&mut self, frame: TxFrame, _to: &Destination) {
        if let Err(frame) = self.uring.write(self.tun.as_raw_fd(), frame.frame, OWN) {
            self.sent(frame, OWN, false);
        }
    }

    fn cancel(&mut self, frame: TxFrame) {
        self.free.give(frame.frame);
    }

    fn flush(&mut self) {
        self.drain_workers();
        self.uring.turn();
        while let Some(done) = self.uring.next_sent() {
            self.sent(done.frame, done.token, done.taken);
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.uring.fd())
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }
}

//! A queue from a worker to the thread that writes the TUN, for packets that are the kernel's.
//!
//! The worker's end, [`QueueTx`], is a [`Port`] that only transmits. The other end, [`QueueRx`], is given to
//! a [`super::tun::TunPort`], which writes the frames where they lie and sends them back.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::EventFd;

use super::{Arena, Destination, Frame, Port, PortCounters, RxFrame, TxFrame};

/// Connects two threads by a queue of `capacity` frames with `room` bytes each; a flush that queued
/// something signals `wake`.
///
/// # Errors
/// There is no memory for them.
pub fn pair(capacity: usize, room: usize, wake: Arc<EventFd>) -> io::Result<(QueueTx, QueueRx)> {
    let forth = Arc::new(ArrayQueue::new(capacity));
    let back = Arc::new(ArrayQueue::new(capacity));
    let tx = QueueTx {
        arena: Arena::new(capacity, room)?,
        forth: Arc::clone(&forth),
        back: Arc::clone(&back),
        wake,
        queued: false,
        counters: PortCounters::default(),
    };
    Ok((tx, QueueRx { forth, back }))
}

/// The worker's end: it owns the frames.
#[derive(Debug)]
pub struct QueueTx {
    arena: Arena,
    forth: Arc<ArrayQueue<Frame>>,
    back: Arc<ArrayQueue<Frame>>,
    wake: Arc<EventFd>,
    /// Something was queued since the last signal.
    queued: bool,
    counters: PortCounters,
}

/// The end of the thread that writes the TUN.
#[derive(Debug)]
pub struct QueueRx {
    forth: Arc<ArrayQueue<Frame>>,
    back: Arc<ArrayQueue<Frame>>,
}

impl QueueRx {
    /// The oldest queued frame.
    pub fn take(&self) -> Option<Frame> {
        self.forth.pop()
    }

    /// Sends a frame back to its owner. Both queues hold as many frames as there are, so there is room.
    pub fn give_back(&self, frame: Frame) {
        let pushed = self.back.push(frame);
        debug_assert!(pushed.is_ok(), "a frame of another queue");
    }
}

impl QueueTx {
    /// Frames that are free now, those on their way back included.
    pub fn available(&self) -> usize {
        self.arena.available() + self.back.len()
    }
}

impl Port for QueueTx {
    fn receive(&mut self, _origin: u16, _max: usize, _into: &mut Vec<RxFrame>) -> usize {
        0
    }

    /// Never called: nothing is received here.
    fn release(&mut self, _frame: Frame) {}

    fn reserve(&mut self) -> Option<TxFrame> {
        if self.arena.available() == 0 {
            while let Some(frame) = self.back.pop() {
                self.arena.give(frame);
            }
        }
        Some(TxFrame { frame: self.arena.take()? })
    }

    fn transmit(&mut self, frame: TxFrame, _to: &Destination) {
        let len = frame.frame.len();
        let pushed = self.forth.push(frame.frame);
        self.counters.sent(len, pushed.is_ok());
        match pushed {
            Ok(()) => self.queued = true,
            Err(frame) => self.arena.give(frame),
        }
    }

    fn cancel(&mut self, frame: TxFrame) {
        self.arena.give(frame.frame);
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.queued) {
            // Fails only when the counter is at its limit: then the other side is already awake.
            let _ = self.wake.write(1);
        }
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::eventfd::EfdFlags;

    use super::*;

    fn connected(capacity: usize) -> (QueueTx, QueueRx, Arc<EventFd>) {
        let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap());
        let (tx, rx) = pair(capacity, 128, Arc::clone(&wake)).unwrap();
        (tx, rx, wake)
    }

    fn send(tx: &mut QueueTx, byte: u8) -> bool {
        let Some(mut frame) = tx.reserve() else { return false };
        frame.frame.set_range(0, 1);
        frame.frame.bytes_mut()[0] = byte;
        tx.transmit(frame, &Destination::Headers);
        true
    }

    #[test]
    fn frames_keep_their_order_and_come_back() {
        let (mut tx, rx, _) = connected(4);
        for round in 0..100 {
            assert!((0..4).all(|i| send(&mut tx, round + i)));
            assert!(tx.reserve().is_none(), "more frames than the pair owns");
            for i in 0..4 {
                let frame = rx.take().unwrap();
                assert_eq!(frame.bytes(), [round + i]);
                rx.give_back(frame);
            }
            assert!(rx.take().is_none());
            assert_eq!(tx.available(), 4);
        }
        assert_eq!((tx.counters().tx_packets, tx.counters().tx_failed), (400, 0));
    }

    #[test]
    fn a_flush_signals_once_and_only_when_something_was_queued() {
        let (mut tx, _rx, wake) = connected(4);
        tx.flush();
        assert!(wake.read().is_err(), "signalled for nothing");
        send(&mut tx, 1);
        send(&mut tx, 2);
        tx.flush();
        tx.flush();
        assert_eq!(wake.read().unwrap(), 1);
    }

    #[test]
    fn a_cancelled_frame_is_free_again() {
        let (mut tx, rx, _) = connected(1);
        let frame = tx.reserve().unwrap();
        tx.cancel(frame);
        assert_eq!(tx.available(), 1);
        assert!(rx.take().is_none());
    }
}

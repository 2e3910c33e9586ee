//! Memory as a port: tests push frames in and take the transmitted ones out.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::{Arena, Destination, Frame, Layer, Port, PortCounters, RxFrame, TxFrame};
use crate::sync::lock;

/// A port without a device. Like a device it sends only when it is flushed, and only then do its
/// transmit frames come back.
#[derive(Debug)]
pub struct MemoryPort {
    wire: Arc<Mutex<Wire>>,
    rx: Arena,
    tx: Arena,
    queued: Vec<(TxFrame, Destination)>,
    counters: PortCounters,
}

/// The other end of a [`MemoryPort`].
#[derive(Clone, Debug)]
pub struct MemoryWire(Arc<Mutex<Wire>>);

/// A frame that a [`MemoryPort`] transmitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Where it went.
    pub destination: Destination,
}

#[derive(Debug, Default)]
struct Wire {
    inbox: VecDeque<(Layer, Vec<u8>)>,
    outbox: Vec<Sent>,
    outstanding_rx: usize,
    outstanding_tx: usize,
}

impl MemoryPort {
    /// A port with `rx` receive and `tx` transmit frames of `room` bytes each.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn new(rx: usize, tx: usize, room: usize) -> io::Result<(Self, MemoryWire)> {
        let wire = Arc::new(Mutex::new(Wire::default()));
        let port = Self {
            wire: wire.clone(),
            rx: Arena::new(rx, room)?,
            tx: Arena::new(tx, room)?,
            queued: Vec::with_capacity(tx),
            counters: PortCounters::default(),
        };
        Ok((port, MemoryWire(wire)))
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        lock(&self.wire)
    }
}

impl Port for MemoryPort {
    fn receive(&mut self, origin: u16, max: usize, into: &mut Vec<RxFrame>) -> usize {
        let mut received = 0;
        while received < max {
            let mut wire = lock(&self.wire);
            if wire.inbox.is_empty() {
                break;
            }
            let Some(mut frame) = self.rx.take() else { break };
            let Some((layer, bytes)) = wire.inbox.pop_front() else { break };
            // A device cuts a frame that is longer than its buffer.
            frame.set_range(0, bytes.len());
            let len = frame.len();
            frame.bytes_mut().copy_from_slice(&bytes[..len]);
            wire.outstanding_rx += 1;
            self.counters.received(len);
            into.push(RxFrame { frame, layer, origin });
            received += 1;
        }
        received
    }

    fn release(&mut self, frame: Frame) {
        self.wire().outstanding_rx -= 1;
        self.rx.give(frame);
    }

    fn reserve(&mut self) -> Option<TxFrame> {
        let frame = self.tx.take()?;
        self.wire().outstanding_tx += 1;
        Some(TxFrame { frame })
    }

    fn transmit(&mut self, frame: TxFrame, to: &Destination) {
        self.queued.push((frame, *to));
    }

    fn cancel(&mut self, frame: TxFrame) {
        self.wire().outstanding_tx -= 1;
        self.tx.give(frame.frame);
    }

    fn flush(&mut self) {
        let mut wire = lock(&self.wire);
        for (frame, destination) in self.queued.drain(..) {
            self.counters.sent(frame.frame.len(), true);
            wire.outbox.push(Sent { bytes: frame.frame.bytes().to_vec(), destination });
            wire.outstanding_tx -= 1;
            self.tx.give(frame.frame);
        }
    }

    fn poll_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }
}

impl MemoryWire {
    /// Puts a frame where the port will receive it.
    pub fn push(&self, layer: Layer, bytes: impl Into<Vec<u8>>) {
        self.wire().inbox.push_back((layer, bytes.into()));
    }

    /// Takes everything that the port transmitted so far.
    pub fn take(&self) -> Vec<Sent> {
        std::mem::take(&mut self.wire().outbox)
    }

    /// Frames that the port handed out and did not get back: received ones and transmit ones.
    pub fn outstanding(&self) -> (usize, usize) {
        let wire = self.wire();
        (wire.outstanding_rx, wire.outstanding_tx)
    }

    fn wire(&self) -> MutexGuard<'_, Wire> {
        lock(&self.0)
    }
}

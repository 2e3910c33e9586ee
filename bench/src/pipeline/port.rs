//! A port of plain memory that costs next to nothing: what a test's port copies and allocates would be measured
//! with the pipeline. Bytes go in and out between the turns.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forwarder::id::PortId;
use forwarder::port::{Arena, Destination, Frame, Layer, Port, PortCounters, RxFrame, TxFrame};

/// Bytes of a frame, as of the chunks of AF_XDP sockets.
pub const ROOM: usize = 2048;
/// Frames of each half: four bursts.
const FRAMES: usize = 256;

/// One side of a cable. Like an AF_XDP socket it takes frames back when it is flushed.
pub struct MemoryPort {
    id: PortId,
    wire: Arc<Mutex<Frames>>,
    released: Vec<Frame>,
    free: Vec<Frame>,
    queued: Vec<TxFrame>,
    counters: PortCounters,
}

/// The cable.
pub struct Wire(Arc<Mutex<Frames>>);

#[derive(Default)]
struct Frames {
    /// Receive frames: filled ones, and those that can be.
    arrived: Vec<Frame>,
    empty: Vec<Frame>,
    /// Transmit frames: on the cable, and those that have left it.
    sent: Vec<TxFrame>,
    done: Vec<Frame>,
}

impl MemoryPort {
    /// A port and its cable.
    ///
    /// # Errors
    /// There is no memory for its frames.
    pub fn new(id: PortId) -> io::Result<(Self, Wire)> {
        let wire = Arc::new(Mutex::new(Frames { empty: frames(FRAMES)?, ..Frames::default() }));
        let port = Self {
            id,
            wire: Arc::clone(&wire),
            released: Vec::with_capacity(FRAMES),
            free: frames(FRAMES)?,
            queued: Vec::with_capacity(FRAMES),
            counters: PortCounters::default(),
        };
        Ok((port, Wire(wire)))
    }
}

/// That many frames of their own.
///
/// # Errors
/// There is no memory for them.
pub fn frames(count: usize) -> io::Result<Vec<Frame>> {
    let mut arena = Arena::new(count, ROOM)?;
    Ok(std::iter::from_fn(|| arena.take()).collect())
}

impl Port for MemoryPort {
    fn receive(&mut self, origin: u16, max: usize, into: &mut Vec<RxFrame>) -> usize {
        let mut wire = lock(&self.wire);
        let count = wire.arrived.len().min(max);
        for frame in wire.arrived.drain(..count) {
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += frame.len() as u64;
            into.push(RxFrame { frame, layer: Layer::Ethernet(self.id), origin });
        }
        count
    }

    fn release(&mut self, frame: Frame) {
        self.released.push(frame);
    }

    fn reserve(&mut self) -> Option<TxFrame> {
        Some(TxFrame { frame: self.free.pop()? })
    }

    fn transmit(&mut self, frame: TxFrame, _to: &Destination) {
        self.counters.tx_packets += 1;
        self.counters.tx_bytes += frame.frame.len() as u64;
        self.queued.push(frame);
    }

    fn cancel(&mut self, frame: TxFrame) {
        self.free.push(frame.frame);
    }

    fn flush(&mut self) {
        let mut wire = lock(&self.wire);
        wire.empty.append(&mut self.released);
        wire.sent.append(&mut self.queued);
        self.free.append(&mut wire.done);
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn counters(&self) -> PortCounters {
        self.counters
    }
}

impl Wire {
    /// Has the port receive a frame; it is lost when four bursts wait already.
    pub fn push(&self, bytes: &[u8]) {
        let mut wire = lock(&self.0);
        let Some(mut frame) = wire.empty.pop() else { return };
        frame.set_range(0, bytes.len());
        frame.bytes_mut().copy_from_slice(bytes);
        wire.arrived.push(frame);
    }

    /// Takes what the port has sent, in order.
    pub fn take(&self, mut each: impl FnMut(&[u8])) {
        let mut wire = lock(&self.0);
        let Frames { sent, done, .. } = &mut *wire;
        for TxFrame { mut frame } in sent.drain(..) {
            each(frame.bytes());
            frame.set_range(0, 0);
            done.push(frame);
        }
    }
}

fn lock(wire: &Mutex<Frames>) -> MutexGuard<'_, Frames> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

//! AF_XDP sockets as ports: one socket and one UMEM for each (device, queue).
//!
//! ```text
//!  chunks 0..ring        fill ring -> kernel -> RX ring -> receive -> pipeline -> release -> fill ring
//!  chunks ring..2 * ring reserve -> pipeline -> transmit -> TX ring -> kernel -> completion ring -> free
//! ```
//!
//! Open the sockets before the XDP program is attached. xsk-rs hands out the fill ring only after the
//! bind, and a zero-copy driver that sets its rings up while that ring is empty may never look at it
//! again (igb before 7.x: RX dead, LACP included). Without a program a driver keeps its own rings at
//! bind and builds those of AF_XDP when the program comes, from a fill ring that is full by then.
#![allow(unsafe_code)]

mod error;
mod open;

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, send};
use xsk_rs::FrameDesc;

use super::{BURST, Destination, Frame, Layer, Port, PortCounters, RxFrame, TxFrame};
use super::{dump, sockopt};
use crate::id::PortId;
use crate::topology::Mode;

pub use error::{XskCause, XskError};
use open::{Bound, Request};
pub use open::{packet_memory, probe};

/// Bytes before the data of every chunk, which the kernel keeps for the XDP program. Frames for
/// sending start behind them, too: xsk-rs names a chunk by that address.
pub const HEADROOM: u32 = 256;

/// Ring slots that suit gigabit ports; 512 were seen to halve the rate.
pub const RING: u32 = 2048;

/// Frames that the kernel copies out in one system call unless told otherwise.
const TX_BATCH: usize = 32;
/// How often one flush asks again when the kernel says "not now".
const EXTRA_KICKS: usize = 2;
/// From `linux/if_xdp.h`.
const XDP_OPTIONS: libc::c_int = 8;
const XDP_OPTIONS_ZEROCOPY: libc::c_int = 1;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// An AF_XDP socket with its own UMEM, for one thread.
///
/// # Who owns which chunk
/// At any time a chunk has exactly one owner: the kernel (it is in a ring), this port (its descriptor is
/// in `free`, `staged` or `to_fill`) or the pipeline (`lent` is set for it, and one [`Frame`] with its
/// memory exists). The `Frame` is made from the chunk's address when ownership goes to the pipeline and
/// consumed when it comes back, so no two references to a chunk live at once, and none lives while the
/// kernel owns it. A descriptor from the kernel that names a chunk the kernel does not own is not
/// followed. The UMEM is unmapped when the port is dropped with all frames at home; otherwise it stays
/// mapped (and the queue bound) until the process ends, since `Frame`s are `'static`.
#[derive(Debug)]
pub struct XskPort {
    port: PortId,
    mode: Mode,
    chunk: usize,
    /// Address of the first chunk's data.
    base: usize,
    bound: Bound,
    /// Which chunks the pipeline holds.
    lent: Box<[bool]>,
    lent_count: usize,
    /// Free chunks of the TX half, the one that came back last on top: it is still in the cache.
    free: Vec<u16>,
    /// To be sent at the next flush.
    staged: Vec<FrameDesc>,
    /// To be given to the kernel for receiving at the next flush.
    to_fill: Vec<FrameDesc>,
    scratch: Box<[FrameDesc]>,
    /// Chunks of the TX half that the kernel owns.
    in_flight: usize,
    /// Frames stand in the TX ring that no system call has told the kernel to take.
    unsent: bool,
    /// The device was down at the last kick.
    down: bool,
    counters: PortCounters,
}

impl XskPort {
    /// Binds a socket to `queue` of `device`, with `2 * ring` chunks of `chunk` bytes (2048 or 4096),
    /// and fills its fill ring. `ring` is a power of two up to 32,768; see [`RING`].
    ///
    /// A device that refuses [`Mode::ZeroCopy`] is bound in [`Mode::Copy`]; [`Self::mode`] tells.
    ///
    /// # Errors
    /// Device, queue, cause and fix.
    pub fn open(
        port: PortId,
        device: &str,
        queue: u32,
        mode: Mode,
        chunk: u32,
        ring: u32,
    ) -> Result<Self, XskError> {
        let request = Request { device, queue, mode, chunk, ring };
        let open = || Self::new(port, &request, request.bind()?);
        open().map_err(|cause| XskError { device: device.to_owned(), queue, cause })
    }

    /// Lets at most `frames` frames be on their way out at once. What one socket has queued and another
    /// overtakes must stay within the peer's replay window.
    pub fn limit_transmit(&mut self, frames: usize) {
        self.free.truncate(frames);
    }

    /// How the socket is really bound.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Frames that the pipeline holds now.
    pub fn lent(&self) -> usize {
        self.lent_count
    }

    /// The socket, for the XDP program's socket map.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the queues, which `self` owns.
        unsafe { BorrowedFd::borrow_raw(self.bound.tx.fd().as_raw_fd()) }
    }

    fn new(port: PortId, request: &Request<'_>, mut bound: Bound) -> Result<Self, XskCause> {
        let ring = request.ring;
        // SAFETY: nobody else knows the chunk yet; only its address is kept.
        let first = unsafe { bound.umem.data_mut(&mut bound.chunks[0]) }.contents_mut().as_mut_ptr();
        // The first chunk begins where the UMEM does, and that is where a page begins.
        let memory = first.wrapping_byte_sub(HEADROOM as usize);
        dump::leave_out(memory, request.bytes() as usize).map_err(XskCause::Io)?;
        let mut this = Self {
            port,
            mode: request.mode,
            chunk: request.chunk as usize,
            base: first.addr(),
            lent: vec![false; bound.chunks.len()].into(),
            lent_count: 0,
            free: (ring..2 * ring).rev().map(|index| index as u16).collect(),
            staged: Vec::with_capacity(ring as usize),
            to_fill: Vec::with_capacity(ring as usize),
            scratch: Box::new([FrameDesc::default(); BURST]),
            in_flight: 0,
            unsent: false,
            down: false,
            counters: PortCounters::default(),
            bound,
        };
        this.to_fill.extend_from_slice(&this.bound.chunks[..ring as usize]);
        this.refill();
        this.settle_options(ring)?;
        Ok(this)
    }

    /// Learns the true mode and raises what one system call may send.
    fn settle_options(&mut self, ring: u32) -> Result<(), XskCause> {
        let options =
            sockopt::get(self.fd(), libc::SOL_XDP, XDP_OPTIONS).map_err(|e| XskCause::Io(e.into()))?;
        self.mode = match self.mode {
            _ if options & XDP_OPTIONS_ZEROCOPY != 0 => Mode::ZeroCopy,
            Mode::ZeroCopy => Mode::Copy,
            other => other,
        };
        // Kernels before 6.17 do not know the option: a flush then makes several calls.
        let _ = sockopt::set(self.fd(), libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, ring.cast_signed());
        Ok(())
    }

    /// Lends chunk `index` to the pipeline: the bytes from the chunk's data address to its end.
    fn lend(&mut self, index: u16) -> Frame {
        self.lent[usize::from(index)] = true;
        self.lent_count += 1;
        let mut desc = self.bound.chunks[usize::from(index)];
        // SAFETY: the chunk belongs to this UMEM and neither the kernel nor the pipeline owns it now
        // (see the type). Its memory outlives the frame, because the UMEM is not unmapped while a
        // frame is lent.
        let memory = unsafe {
            let mut data = self.bound.umem.data_mut(&mut desc);
            data.cursor().set_pos(usize::MAX);
            let all = data.contents_mut();
            std::slice::from_raw_parts_mut(all.as_mut_ptr(), all.len())
        };
        Frame::new(memory, index)
    }

    /// Takes a lent frame back and names its chunk; `None` for a frame of another port, which is lost.
    fn take_back(&mut self, frame: Frame) -> Option<u16> {
        let (address, index) = frame.into_parts();
        let lent = self.lent.get_mut(usize::from(index))?;
        if !*lent || address != self.base + usize::from(index) * self.chunk {
            debug_assert!(false, "frame {index} of another port");
            return None;
        }
        *lent = false;
        self.lent_count -= 1;
        Some(index)
    }

    /// The chunk of a descriptor that the kernel returned, and the packet's offset in its frame.
    fn locate(&self, desc: &FrameDesc) -> Option<(u16, usize)> {
        let index = desc.addr() / self.chunk;
        let owned_by_kernel = !*self.lent.get(index)?;
        let offset = desc.addr().checked_sub(self.bound.chunks[index].addr())?;
        owned_by_kernel.then_some((index as u16, offset))
    }

    /// Collects what the kernel has sent; returns how many frames.
    fn complete(&mut self) -> usize {
        let mut collected = 0;
        loop {
            // SAFETY: the descriptors are overwritten by those of this UMEM.
            let n = unsafe { self.bound.completion.consume(&mut self.scratch) };
            self.in_flight = self.in_flight.saturating_sub(n);
            collected += n;
            for desc in &self.scratch[..n] {
                self.free.extend(self.locate(desc).map(|(index, _)| index));
            }
            if n < BURST {
                return collected;
            }
        }
    }

    /// Gives released chunks to the kernel, and wakes a driver that waits for them.
    fn refill(&mut self) {
        // SAFETY: these chunks are this port's, and nobody holds their frames.
        if unsafe { self.bound.fill.produce(&self.to_fill) } > 0 {
            self.to_fill.clear();
        }
        if self.bound.fill.needs_wakeup() {
            // Failure means that the device is down; the flag stays set, so the next flush tries again.
            let _ = self.bound.fill.wakeup(self.bound.rx.fd_mut(), 0);
        }
    }

    /// Puts the staged frames into the TX ring.
    fn produce(&mut self) {
        // SAFETY: these chunks are this port's, and nobody holds their frames.
        let n = unsafe { self.bound.tx.produce(&self.staged) };
        self.counters.tx_packets += n as u64;
        self.counters.tx_bytes += self.staged[..n].iter().map(|d| d.lengths().data() as u64).sum::<u64>();
        self.in_flight += n;
        self.unsent |= n > 0;
        self.staged.drain(..n);
    }

    /// Tells the kernel to send what stands in the TX ring.
    fn kick(&mut self) {
        let mut room = self.bound.tx.nb_free_exact();
        for _ in 0..self.in_flight / TX_BATCH + 1 + EXTRA_KICKS {
            match send(self.bound.tx.fd().as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT) {
                Ok(_) => {
                    (self.unsent, self.down) = (false, false);
                    return;
                }
                // The call's budget is spent or the completion ring is full, so there is more to do; or the
                // device's queue is full, which only time mends.
                Err(Errno::EAGAIN) => {
                    let before = std::mem::replace(&mut room, self.bound.tx.nb_free_exact());
                    if self.complete() == 0 && room == before {
                        return;
                    }
                }
                // Copy mode: the device dropped a frame. It completes like a sent one.
                Err(Errno::EBUSY) if self.mode != Mode::ZeroCopy => self.counters.tx_failed += 1,
                Err(Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV) => {
                    self.down = true;
                    return;
                }
                // No memory for an skb, or interrupted: the next flush goes on.
                Err(_) => return,
            }
        }
    }

    /// Frees the staged frames of a device that is down. Those that were in the TX ring when it went
    /// down cannot be taken out again: they are sent and completed when it comes back.
    fn discard_staged(&mut self) {
        self.counters.tx_failed += self.staged.len() as u64;
        self.free.extend(self.staged.drain(..).map(|d| (d.addr() / self.chunk) as u16));
    }
}

impl Port for XskPort {
    fn receive(&mut self, origin: u16, max: usize, into: &mut Vec<RxFrame>) -> usize {
        // SAFETY: the descriptors are overwritten by those of this UMEM.
        let n = unsafe { self.bound.rx.consume(&mut self.scratch[..max.min(BURST)]) };
        let before = into.len();
        let scratch = std::mem::take(&mut self.scratch);
        for desc in &scratch[..n] {
            let Some((index, offset)) = self.locate(desc) else { continue };
            let mut frame = self.lend(index);
            frame.set_range(offset, desc.lengths().data());
            self.counters.received(frame.len());
            into.push(RxFrame { frame, layer: Layer::Ethernet(self.port), origin });
        }
        self.scratch = scratch;
        into.len() - before
    }

    fn release(&mut self, frame: Frame) {
        if let Some(index) = self.take_back(frame) {
            self.to_fill.push(self.bound.chunks[usize::from(index)]);
        }
    }

    fn reserve(&mut self) -> Option<TxFrame> {
        let index = self.free.pop()?;
        Some(TxFrame { frame: self.lend(index) })
    }

    fn transmit(&mut self, frame: TxFrame, _to: &Destination) {
        let mut frame = frame.frame;
        let (start, len) = (frame.start(), frame.len());
        if start > 0 {
            frame.memory_mut().copy_within(start..start + len, 0);
        }
        let Some(index) = self.take_back(frame) else { return };
        let mut desc = self.bound.chunks[usize::from(index)];
        // SAFETY: the frame was just consumed, so this is the only reference to the chunk.
        unsafe { self.bound.umem.data_mut(&mut desc) }.cursor().set_pos(len);
        self.staged.push(desc);
    }

    fn cancel(&mut self, frame: TxFrame) {
        if let Some(index) = self.take_back(frame.frame) {
            self.free.push(index);
        }
    }

    fn flush(&mut self) {
        self.refill();
        self.complete();
        if self.down {
            self.kick();
        }
        if self.down {
            self.discard_staged();
            return;
        }
        self.produce();
        // In copy mode every frame needs a system call; a zero-copy driver says when it sleeps.
        let waiting = if self.mode == Mode::ZeroCopy { self.in_flight > 0 } else { self.unsent };
        if waiting && self.bound.tx.needs_wakeup() {
            self.kick();
        }
    }

    fn unsent(&self) -> bool {
        // A zero-copy driver goes on by itself when it has room. One that is down may stay so.
        self.unsent && !self.down && self.mode != Mode::ZeroCopy
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd())
    }

    fn counters(&self) -> PortCounters {
        let rx_lost = self.bound.rx.fd().xdp_statistics().map_or(0, |s| s.rx_dropped() + s.rx_ring_full());
        PortCounters { rx_lost, ..self.counters }
    }
}

impl Drop for XskPort {
    fn drop(&mut self) {
        if self.lent_count > 0 {
            std::mem::forget(self.bound.umem.clone());
        }
    }
}

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

use std::io;
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{MsgFlags, send};
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::sockopt;
use super::{BURST, Destination, Frame, Layer, Port, PortCounters, RxFrame, TxFrame};
use crate::id::PortId;
use crate::topology::Mode;

/// Bytes before the data of every chunk, which the kernel keeps for the XDP program. Frames for
/// sending start behind them, too: xsk-rs names a chunk by that address.
pub const HEADROOM: u32 = 256;

/// Ring slots that suit gigabit ports; 512 were seen to halve the rate.
pub const RING: u32 = 2048;

/// Frames that the kernel copies out in one system call unless told otherwise.
const TX_BATCH: usize = 32;
/// How often one flush asks again when the kernel says "not now".
const EXTRA_KICKS: usize = 2;
/// A queue is free again only some 30 ms after its last socket was closed.
const BUSY_RETRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// From linux/if_xdp.h.
const XDP_OPTIONS: libc::c_int = 8;
const XDP_OPTIONS_ZEROCOPY: libc::c_int = 1;
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("{device} queue {queue}: {cause}")]
pub struct XskError {
    /// The device.
    pub device: String,
    /// Its queue.
    pub queue: u32,
    /// What is wrong and how to put it right.
    pub cause: XskCause,
}

/// What is wrong, and how to put it right.
#[derive(Debug, thiserror::Error)]
pub enum XskCause {
    /// No such socket family.
    #[error("the kernel has no AF_XDP sockets: use one built with CONFIG_XDP_SOCKETS=y")]
    NoAfXdp,
    /// EPERM.
    #[error("AF_XDP sockets are not permitted: grant CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF, or run as root")]
    NotPermitted,
    /// The UMEM exceeds the limit of locked memory.
    #[error(
        "{0} bytes of packet memory exceed the limit of locked memory: grant CAP_IPC_LOCK or raise `ulimit -l`"
    )]
    LockedMemory(u64),
    /// Another socket is bound.
    #[error("another AF_XDP socket holds the queue: `ss --xdp -p` shows whose; stop that program")]
    Busy,
    /// No such device.
    #[error("there is no such device: `ip link` lists them")]
    NoDevice,
    /// The device is down.
    #[error("the device is down: `ip link set {0} up`")]
    Down(String),
    /// EINVAL.
    #[error("the queue does not exist (`ethtool -l` counts them), or the driver refuses chunks of {0} bytes")]
    Refused(u32),
    /// The driver has no such mode.
    #[error("the driver cannot bind AF_XDP sockets in {0:?} mode: choose another")]
    Unsupported(Mode),
    /// Chunk and ring sizes are powers of two within the kernel's bounds.
    #[error("a chunk of {chunk} bytes or a ring of {ring} slots is not possible: {reason}")]
    Sizes {
        /// Bytes.
        chunk: u32,
        /// Slots.
        ring: u32,
        /// Why.
        reason: String,
    },
    /// Anything else.
    #[error("AF_XDP socket: {0}")]
    Io(io::Error),
}

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
    ring: usize,
    umem: Umem,
    rx: RxQueue,
    fill: FillQueue,
    tx: TxQueue,
    completion: CompQueue,
    /// Descriptor of each chunk as the UMEM made it, by chunk number.
    chunks: Box<[FrameDesc]>,
    /// Which chunks the pipeline holds.
    lent: Box<[bool]>,
    lent_count: usize,
    /// Free chunks of the TX half, the one that came back last on top: it is still in the cache.
    free: Vec<u32>,
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
    /// and fills its fill ring. `ring` is a power of two; see [`RING`].
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
        let open = |mode| Self::open_patiently(port, device, queue, mode, chunk, ring);
        let opened = match open(mode) {
            Err(cause @ (XskCause::Unsupported(_) | XskCause::Refused(_))) if mode == Mode::ZeroCopy => {
                tracing::warn!(device, queue, %cause, "no zero-copy, binding in copy mode");
                open(Mode::Copy)
            }
            other => other,
        };
        opened.map_err(|cause| XskError { device: device.to_owned(), queue, cause })
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
        unsafe { BorrowedFd::borrow_raw(self.tx.fd().as_raw_fd()) }
    }

    fn open_patiently(
        port: PortId,
        device: &str,
        queue: u32,
        mode: Mode,
        chunk: u32,
        ring: u32,
    ) -> Result<Self, XskCause> {
        let mut retries = 0;
        loop {
            match Self::open_once(port, device, queue, mode, chunk, ring) {
                Err(XskCause::Busy) if retries < BUSY_RETRIES => retries += 1,
                other => return other,
            }
            std::thread::sleep(BUSY_PAUSE);
        }
    }

    /// One attempt. Each starts from a new UMEM, since a failed bind leaves the old one unusable.
    fn open_once(
        port: PortId,
        device: &str,
        queue: u32,
        mode: Mode,
        chunk: u32,
        ring: u32,
    ) -> Result<Self, XskCause> {
        let (umem_config, socket_config) = configure(mode, chunk, ring)?;
        let count = NonZeroU32::new(2 * ring).ok_or(XskCause::Refused(chunk))?;
        let interface: Interface = device.parse().map_err(|_| XskCause::NoDevice)?;
        let explain = |e: &dyn std::error::Error| XskCause::explain(e, device, mode, chunk, ring);

        let (umem, chunks) = Umem::new(umem_config, count, false).map_err(|e| explain(&e))?;
        // SAFETY: asked of us only when a UMEM is shared between sockets; this one is not.
        let (tx, rx, rings) =
            unsafe { Socket::new(socket_config, &umem, &interface, queue) }.map_err(|e| explain(&e))?;
        let (fill, completion) = rings.ok_or(XskCause::Busy)?;

        let mut this = Self {
            port,
            mode,
            chunk: chunk as usize,
            ring: ring as usize,
            umem,
            rx,
            fill,
            tx,
            completion,
            lent: vec![false; chunks.len()].into(),
            lent_count: 0,
            free: (ring..2 * ring).rev().collect(),
            staged: Vec::with_capacity(ring as usize),
            to_fill: Vec::with_capacity(ring as usize),
            scratch: Box::new([FrameDesc::default(); BURST]),
            in_flight: 0,
            unsent: false,
            down: false,
            counters: PortCounters::default(),
            chunks: chunks.into(),
        };
        this.to_fill.extend_from_slice(&this.chunks[..this.ring]);
        this.refill();
        this.settle_options()?;
        Ok(this)
    }

    /// Learns the true mode and raises what one system call may send.
    fn settle_options(&mut self) -> Result<(), XskCause> {
        let options =
            sockopt::get(self.fd(), libc::SOL_XDP, XDP_OPTIONS).map_err(|e| XskCause::Io(e.into()))?;
        self.mode = match self.mode {
            _ if options & XDP_OPTIONS_ZEROCOPY != 0 => Mode::ZeroCopy,
            Mode::ZeroCopy => Mode::Copy,
            other => other,
        };
        // Kernels before 6.17 do not know the option: a flush then makes several calls.
        let _ = sockopt::set(self.fd(), libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, self.ring as i32);
        Ok(())
    }

    /// Lends chunk `index` to the pipeline: the bytes from the chunk's data address to its end.
    fn lend(&mut self, index: u32) -> Frame {
        self.lent[index as usize] = true;
        self.lent_count += 1;
        let mut desc = self.chunks[index as usize];
        // SAFETY: the chunk belongs to this UMEM and neither the kernel nor the pipeline owns it now
        // (see the type). Its memory outlives the frame, because the UMEM is not unmapped while a
        // frame is lent.
        let memory = unsafe {
            let mut data = self.umem.data_mut(&mut desc);
            data.cursor().set_pos(usize::MAX);
            let all = data.contents_mut();
            std::slice::from_raw_parts_mut(all.as_mut_ptr(), all.len())
        };
        Frame::new(memory, index)
    }

    /// Takes a lent frame back: its chunk, where its packet starts and how long it is. `None` for a
    /// frame that is not of this port.
    fn take_back(&mut self, frame: Frame) -> Option<u32> {
        let index = frame.into_parts().1;
        let lent = self.lent.get_mut(index as usize)?;
        let ours = std::mem::take(lent);
        self.lent_count -= usize::from(ours);
        ours.then_some(index)
    }

    /// The chunk of a descriptor that the kernel returned, and the packet's offset in its frame.
    fn locate(&self, desc: &FrameDesc) -> Option<(u32, usize)> {
        let index = desc.addr() / self.chunk;
        let owned_by_kernel = !*self.lent.get(index)?;
        let offset = desc.addr().checked_sub(self.chunks[index].addr())?;
        owned_by_kernel.then_some((index as u32, offset))
    }

    /// Collects what the kernel has sent.
    fn complete(&mut self) {
        loop {
            // SAFETY: the descriptors are overwritten by those of this UMEM.
            let n = unsafe { self.completion.consume(&mut self.scratch) };
            self.in_flight = self.in_flight.saturating_sub(n);
            for desc in &self.scratch[..n] {
                self.free.extend(self.locate(desc).map(|(index, _)| index));
            }
            if n < BURST {
                return;
            }
        }
    }

    /// Gives released chunks to the kernel, and wakes a driver that waits for them.
    fn refill(&mut self) {
        // SAFETY: these chunks are this port's, and nobody holds their frames.
        if unsafe { self.fill.produce(&self.to_fill) } > 0 {
            self.to_fill.clear();
        }
        if self.fill.needs_wakeup() {
            // Failure means that the device is down; the flag stays set, so the next flush tries again.
            let _ = self.fill.wakeup(self.rx.fd_mut(), 0);
        }
    }

    /// Puts the staged frames into the TX ring.
    fn produce(&mut self) {
        // SAFETY: these chunks are this port's, and nobody holds their frames.
        let n = unsafe { self.tx.produce(&self.staged) };
        self.counters.tx_packets += n as u64;
        self.counters.tx_bytes += self.staged[..n].iter().map(|d| d.lengths().data() as u64).sum::<u64>();
        self.in_flight += n;
        self.unsent |= n > 0;
        self.staged.drain(..n);
    }

    /// Tells the kernel to send what stands in the TX ring.
    fn kick(&mut self) {
        for _ in 0..self.in_flight / TX_BATCH + 1 + EXTRA_KICKS {
            match send(self.tx.fd().as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT) {
                Ok(_) => {
                    (self.unsent, self.down) = (false, false);
                    return;
                }
                // The call's budget is spent, or the completion ring or the device's queue is full.
                Err(Errno::EAGAIN) => self.complete(),
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
        self.free.extend(self.staged.drain(..).map(|d| (d.addr() / self.chunk) as u32));
    }
}

impl Port for XskPort {
    fn receive(&mut self, origin: u16, max: usize, into: &mut Vec<RxFrame>) -> usize {
        // SAFETY: the descriptors are overwritten by those of this UMEM.
        let n = unsafe { self.rx.consume(&mut self.scratch[..max.min(BURST)]) };
        let before = into.len();
        let scratch = std::mem::take(&mut self.scratch);
        for desc in &scratch[..n] {
            let Some((index, offset)) = self.locate(desc) else { continue };
            let mut frame = self.lend(index);
            frame.set_range(offset, desc.lengths().data());
            self.counters.rx_packets += 1;
            self.counters.rx_bytes += frame.len() as u64;
            into.push(RxFrame { frame, layer: Layer::Ethernet(self.port), origin });
        }
        self.scratch = scratch;
        into.len() - before
    }

    fn release(&mut self, frame: RxFrame) {
        if let Some(index) = self.take_back(frame.frame) {
            self.to_fill.push(self.chunks[index as usize]);
        }
    }

    fn reserve(&mut self) -> Option<TxFrame> {
        let index = self.free.pop()?;
        Some(TxFrame { frame: self.lend(index), destination: Destination::Headers })
    }

    fn transmit(&mut self, frame: TxFrame) {
        let mut frame = frame.frame;
        let (start, len) = (frame.start(), frame.len());
        if start > 0 {
            frame.memory_mut().copy_within(start..start + len, 0);
        }
        let Some(index) = self.take_back(frame) else { return };
        let mut desc = self.chunks[index as usize];
        // SAFETY: the frame was just consumed, so this is the only reference to the chunk.
        unsafe { self.umem.data_mut(&mut desc) }.cursor().set_pos(len);
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
        if waiting && self.tx.needs_wakeup() {
            self.kick();
        }
    }

    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.rx.fd().as_raw_fd())
    }

    fn counters(&self) -> PortCounters {
        let rx_lost = self.rx.fd().xdp_statistics().map_or(0, |s| s.rx_dropped() + s.rx_ring_full());
        PortCounters { rx_lost, ..self.counters }
    }
}

impl Drop for XskPort {
    fn drop(&mut self) {
        if self.lent_count > 0 {
            std::mem::forget(self.umem.clone());
        }
    }
}

fn configure(mode: Mode, chunk: u32, ring: u32) -> Result<(UmemConfig, SocketConfig), XskCause> {
    let sizes = |e: &dyn std::error::Error| XskCause::Sizes { chunk, ring, reason: e.to_string() };
    let slots = QueueSize::new(ring).map_err(|e| sizes(&e))?;
    let umem = UmemConfig::builder()
        .frame_size(FrameSize::new(chunk).map_err(|e| sizes(&e))?)
        .fill_queue_size(slots)
        .comp_queue_size(slots)
        .build()
        .map_err(|e| sizes(&e))?;
    let copy = if mode == Mode::ZeroCopy { BindFlags::XDP_ZEROCOPY } else { BindFlags::XDP_COPY };
    let socket = SocketConfig::builder()
        .rx_queue_size(slots)
        .tx_queue_size(slots)
        .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
        .bind_flags(copy | BindFlags::XDP_USE_NEED_WAKEUP)
        .build();
    Ok((umem, socket))
}

impl XskCause {
    /// Turns an error of xsk-rs into its cause.
    fn explain(error: &dyn std::error::Error, device: &str, mode: Mode, chunk: u32, ring: u32) -> Self {
        let source = error.source().and_then(|s| s.downcast_ref::<io::Error>());
        let Some(errno) = source.and_then(io::Error::raw_os_error) else {
            return Self::Io(io::Error::other(error.to_string()));
        };
        match Errno::from_raw(errno) {
            Errno::EAFNOSUPPORT => Self::NoAfXdp,
            Errno::EPERM | Errno::EACCES => Self::NotPermitted,
            Errno::ENOBUFS => Self::LockedMemory(u64::from(chunk) * 2 * u64::from(ring)),
            Errno::EBUSY => Self::Busy,
            Errno::ENODEV => Self::NoDevice,
            Errno::ENETDOWN => Self::Down(device.to_owned()),
            Errno::EINVAL => Self::Refused(chunk),
            Errno::EOPNOTSUPP => Self::Unsupported(mode),
            other => Self::Io(other.into()),
        }
    }
}

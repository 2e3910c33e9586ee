//! Binding a socket to a queue.
#![allow(unsafe_code)]

use std::num::NonZeroU32;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use xsk_rs::config::{BindFlags, FrameSize, Interface, LibxdpFlags, QueueSize, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use super::XskCause;
use crate::topology::Mode;

/// A queue is free again only some 30 ms after its last socket was closed.
const BUSY_RETRIES: u32 = 20;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// A chunk's number is a frame's index, which has 16 bits, and there are two for each slot.
const MOST_SLOTS: u32 = 1 << 15;

/// Bytes of packet memory of a socket with chunks of `chunk` bytes and rings of `ring` slots.
pub fn packet_memory(chunk: u32, ring: u32) -> u64 {
    2 * u64::from(ring) * u64::from(chunk)
}

/// Whether the kernel has AF_XDP sockets and gives us one.
///
/// # Errors
/// Why not.
pub fn probe() -> Result<(), XskCause> {
    // SAFETY: no memory is involved.
    let socket = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    let socket = Errno::result(socket).map_err(|errno| match errno {
        Errno::EAFNOSUPPORT => XskCause::NoAfXdp,
        Errno::EPERM | Errno::EACCES => XskCause::NotPermitted,
        other => XskCause::Io(other.into()),
    })?;
    // SAFETY: the descriptor is new, and nobody else has it.
    drop(unsafe { OwnedFd::from_raw_fd(socket) });
    Ok(())
}

/// What is asked for.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub device: &'a str,
    pub queue: u32,
    pub mode: Mode,
    pub chunk: u32,
    pub ring: u32,
}

/// A bound socket's queues and memory.
#[derive(Debug)]
pub(super) struct Bound {
    pub umem: Umem,
    /// A descriptor of each chunk, at its data's address.
    pub chunks: Box<[FrameDesc]>,
    pub rx: RxQueue,
    pub fill: FillQueue,
    pub tx: TxQueue,
    pub completion: CompQueue,
}

impl Request<'_> {
    /// Bytes of packet memory.
    pub(super) fn bytes(&self) -> u64 {
        packet_memory(self.chunk, self.ring)
    }

    /// Binds, in copy mode when zero-copy is refused, waiting a little for a queue that was just closed.
    pub(super) fn bind(&self) -> Result<Bound, XskCause> {
        match self.bind_patiently() {
            Err(cause @ (XskCause::Unsupported(_) | XskCause::Refused(_))) if self.mode == Mode::ZeroCopy => {
                let &Self { device, queue, .. } = self;
                tracing::warn!(device, queue, %cause, "no zero-copy, binding in copy mode");
                Self { mode: Mode::Copy, ..*self }.bind_patiently()
            }
            other => other,
        }
    }

    fn bind_patiently(&self) -> Result<Bound, XskCause> {
        let mut retries = 0;
        loop {
            match self.bind_once() {
                Err(XskCause::Busy) if retries < BUSY_RETRIES => retries += 1,
                other => return other,
            }
            std::thread::sleep(BUSY_PAUSE);
        }
    }

    /// One attempt. Each starts from a new UMEM, since a failed bind leaves the old one unusable.
    fn bind_once(&self) -> Result<Bound, XskCause> {
        let (umem_config, socket_config) = self.configure()?;
        let count = NonZeroU32::new(2 * self.ring).ok_or(XskCause::Refused(self.chunk))?;
        let interface: Interface = self.device.parse().map_err(|_| XskCause::NoDevice)?;
        let explain = |e: &dyn std::error::Error| XskCause::explain(e, self);

        let (umem, chunks) = Umem::new(umem_config, count, false).map_err(|e| explain(&e))?;
        // SAFETY: the call asks something of us only when sockets share a UMEM; this one is not shared.
        let (tx, rx, rings) =
            unsafe { Socket::new(socket_config, &umem, &interface, self.queue) }.map_err(|e| explain(&e))?;
        let (fill, completion) = rings.ok_or(XskCause::Busy)?;
        Ok(Bound { umem, chunks: chunks.into(), rx, fill, tx, completion })
    }

    fn configure(&self) -> Result<(UmemConfig, SocketConfig), XskCause> {
        let &Self { chunk, ring, .. } = self;
        let sizes = |e: &dyn std::error::Error| XskCause::Sizes { chunk, ring, reason: e.to_string() };
        if ring > MOST_SLOTS {
            return Err(XskCause::Sizes { chunk, ring, reason: format!("at most {MOST_SLOTS} slots") });
        }
        let slots = QueueSize::new(ring).map_err(|e| sizes(&e))?;
        let umem = UmemConfig::builder()
            .frame_size(FrameSize::new(chunk).map_err(|e| sizes(&e))?)
            .fill_queue_size(slots)
            .comp_queue_size(slots)
            .build()
            .map_err(|e| sizes(&e))?;
        let copy = if self.mode == Mode::ZeroCopy { BindFlags::XDP_ZEROCOPY } else { BindFlags::XDP_COPY };
        let socket = SocketConfig::builder()
            .rx_queue_size(slots)
            .tx_queue_size(slots)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(copy | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        Ok((umem, socket))
    }
}

//! Ports: where frames come from and go to.
//!
//! A port owns a fixed set of frames, taken at start. One half circulates between the port's fill side
//! and [`Port::receive`], the other between [`Port::reserve`] and [`Port::transmit`]; the two types
//! [`RxFrame`] and [`TxFrame`] keep the halves apart. Every frame that a port hands out comes back to
//! that same port: an [`RxFrame`] by `release`, a [`TxFrame`] by `transmit` or `cancel`.
//!
//! The pipeline knows ports only by this trait: AF_XDP sockets, TUN, UDP sockets and plain memory
//! stand behind it.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use crate::id::{InterfaceId, PortId, TunnelId};

mod dump;
mod frame;
pub mod memory;
pub mod queue;
mod sockopt;
pub mod tun;
pub mod udp;
mod uring;
pub mod xsk;

pub use frame::{Arena, Frame};
pub use uring::{UringError, probe as probe_io_uring};

/// Frames that a port receives, transmits or releases in one call, at most.
pub const BURST: usize = 64;

/// What the bytes of a received frame are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// An Ethernet frame from this port.
    Ethernet(PortId),
    /// An IP packet that the kernel routed into our TUN.
    Ip,
    /// A WireGuard message: the payload of a UDP datagram that one of our sockets received.
    Datagram {
        /// The tunnel whose listen port it came to.
        tunnel: TunnelId,
        /// Who sent it.
        source: SocketAddr,
        /// The outer header's DS byte (DSCP and ECN).
        ds: u8,
    },
}

/// A frame that was received; its bytes are the packet.
#[derive(Debug)]
pub struct RxFrame {
    /// The frame, its range set to the received bytes.
    pub frame: Frame,
    /// What the bytes are.
    pub layer: Layer,
    /// Position of the port in its lane, to which the frame returns.
    pub origin: u16,
}

/// Where a frame goes on ports that have no Ethernet header to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The frame's own headers say it (AF_XDP, memory, TUN).
    Headers,
    /// A WireGuard message for this address, sent from the tunnel's UDP socket.
    Datagram {
        /// The tunnel whose socket sends.
        tunnel: TunnelId,
        /// Where to.
        to: SocketAddr,
        /// The outer header's DS byte (DSCP and ECN).
        tos: u8,
    },
}

/// A frame to be filled and transmitted.
#[derive(Debug)]
pub struct TxFrame {
    /// The frame; its range is set to what shall be sent.
    pub frame: Frame,
}

/// A device's transmit and receive side for one thread.
pub trait Port: Send {
    /// Appends at most `max` received frames to `into`, setting `origin` in each; returns how many.
    fn receive(&mut self, origin: u16, max: usize, into: &mut Vec<RxFrame>) -> usize;

    /// Takes a received frame back.
    fn release(&mut self, frame: Frame);

    /// A free transmit frame with an empty range at offset 0, or `None` when all are in flight.
    fn reserve(&mut self) -> Option<TxFrame>;

    /// Queues a reserved frame for sending to `to`. There is always room: a port has no more transmit frames
    /// than its ring has slots.
    fn transmit(&mut self, frame: TxFrame, to: &Destination);

    /// Takes a reserved frame back unsent. Its bytes are not sent, but stay in memory: wipe them
    /// first if they are plaintext that failed a check.
    fn cancel(&mut self, frame: TxFrame);

    /// Hands queued work to the kernel and collects completions; called once per turn of the loop.
    fn flush(&mut self);

    /// Whether frames wait until the device has room. Nothing tells when it has: flush again soon.
    fn unsent(&self) -> bool {
        false
    }

    /// The descriptor to poll for received frames, if the port has one.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// What the port counted so far.
    fn counters(&self) -> PortCounters;
}

/// Packets and bytes of one port since it was opened, as one thread counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct PortCounters {
    /// Frames received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames handed to the device.
    pub tx_packets: u64,
    /// Bytes handed to the device.
    pub tx_bytes: u64,
    /// Frames that the device refused.
    pub tx_failed: u64,
    /// Frames lost before the pipeline: the RX or fill ring had no room, or a datagram was larger than a frame.
    pub rx_lost: u64,
}

impl PortCounters {
    /// Counts a received frame of `len` bytes.
    fn received(&mut self, len: usize) {
        self.rx_packets += 1;
        self.rx_bytes += len as u64;
    }

    /// Counts a frame of `len` bytes that the device took, or refused.
    fn sent(&mut self, len: usize, taken: bool) {
        if taken {
            self.tx_packets += 1;
            self.tx_bytes += len as u64;
        } else {
            self.tx_failed += 1;
        }
    }
}

/// The layer-3 interface and the port of an Ethernet frame, for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attachment {
    /// The device.
    pub port: PortId,
    /// The interface that the kernel would have delivered it on.
    pub interface: InterfaceId,
}

//! Why an AF_XDP socket could not be opened, and what to do.

use std::io;

use nix::errno::Errno;

use super::open::Request;
use crate::topology::Mode;

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

impl XskCause {
    /// Turns an error of xsk-rs into its cause.
    pub(super) fn explain(error: &dyn std::error::Error, request: &Request<'_>) -> Self {
        let source = error.source().and_then(|s| s.downcast_ref::<io::Error>());
        let Some(errno) = source.and_then(io::Error::raw_os_error) else {
            return Self::Io(io::Error::other(error.to_string()));
        };
        match Errno::from_raw(errno) {
            Errno::EAFNOSUPPORT => Self::NoAfXdp,
            Errno::EPERM | Errno::EACCES => Self::NotPermitted,
            Errno::ENOBUFS => Self::LockedMemory(request.bytes()),
            Errno::EBUSY => Self::Busy,
            Errno::ENODEV => Self::NoDevice,
            Errno::ENETDOWN => Self::Down(request.device.to_owned()),
            Errno::EINVAL => Self::Refused(request.chunk),
            Errno::EOPNOTSUPP => Self::Unsupported(request.mode),
            other => Self::Io(other.into()),
        }
    }
}

//! The packet pipeline: pure functions over batches of frames, a [`Snapshot`] and a lane's own state.
//!
//! ```text
//! outbound: parse -> source check -> route -> hash -> bucket -> path -> seal -> encapsulate -> transmit
//! inbound:  demux -> session -> open -> replay -> source check -> route -> next hop -> transmit
//! ```
//!
//! Every lane (a worker with its AF_XDP sockets, the slow path with TUN and UDP sockets, a test with
//! memory) runs these same functions; all checks live here.

pub mod control;
pub mod snapshot;

pub use control::Control;
pub use snapshot::Snapshot;

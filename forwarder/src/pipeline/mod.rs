//! The packet pipeline: functions over batches of frames, a [`Snapshot`] and a lane's own state.
//!
//! ```text
//! outbound: demux -> admit -> route -> hash -> bucket -> path -> seal -> encapsulate -> transmit
//! inbound:  demux -> session -> open -> replay -> source check -> next hop -> transmit
//! ```
//!
//! Every [`Lane`] (a worker with its AF_XDP sockets, the slow path with TUN and UDP sockets, a test with
//! memory) runs these same functions; all checks live here. Nothing here allocates per packet.

#![forbid(unsafe_code)]

mod checksum;
pub mod control;
mod deliver;
mod demux;
pub mod ds;
pub mod encap;
pub mod flow;
mod inbound;
mod lane;
mod martian;
mod neighbours;
mod outbound;
pub mod parse;
mod ports;
mod prefixes;
mod rewrite;
pub mod snapshot;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod tests;
mod waiting;

pub use control::Control;
pub use lane::{Lane, LaneCounters};
pub use ports::Ports;
pub use snapshot::Snapshot;
pub use waiting::WAITING;

//! A simulated network for `forwarder::wireguard`.
//!
//! ```text
//!             plan (from the seed)
//!               |
//!  world: one queue of events in virtual time
//!    |- site: clocks, and while it lives a gateway: control thread (gateway), lanes (lane)
//!    |- network: loss, delay, duplicates, a NAT     |- observer: replays what it saw
//!    |- judge: sees everything, and knows the properties
//! ```
//!
//! The protocol is the real one, keys and ciphers included. What the control thread and the lanes do around
//! it stands here a second time, as small as it can be: the order of a turn in `control/gateway.rs`, and the
//! waiting packets of `pipeline`. A seed gives the same run on every machine.

mod bug;
pub mod campaign;
mod gateway;
mod judge;
mod lane;
mod network;
mod observer;
mod plan;
mod site;
mod talk;
mod world;

pub use bug::Bug;
pub use judge::{Property, Violation};
pub use world::{Summary, run};

/// Virtual time since the simulation began.
type Time = std::time::Duration;

/// A link's two ends: one peer here, one there.
type Side = usize;

//! The control thread: configuration to topology, start, handshakes, timers, the kernel's changes, stop.

pub mod egress;
pub mod gateway;
pub mod handle;
pub mod lanes;
mod plan;
pub mod report;
pub mod routes;
pub mod snapshots;
mod start;

pub use start::run;

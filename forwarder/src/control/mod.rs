//! The control thread.

pub mod egress;
pub mod gateway;
pub mod handle;
pub mod routes;
pub mod snapshots;

//! The XDP program: load, attach, maps, queries.
//!
//! Each port has its own instance of the program with its own maps ([`Program`]): queue numbers of two
//! ports collide. The program's source is the `ebpf` workspace; what both sides agree on is
//! `forwarder_contract`.

mod error;
mod program;
pub mod query;
mod table;

pub use error::XdpError;
pub use program::{Program, in_the_way};

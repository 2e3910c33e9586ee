//! The ports against the kernel's own ends: packet sockets, UDP sockets, the TUN. Each test runs in its own
//! network namespace and needs root; without, it says so and passes.
#![allow(missing_docs, clippy::unwrap_used)]

mod lab;
mod tun;
mod udp;
mod xsk;

//! A WireGuard site-to-site gateway in user space.
//!
//! ```text
//!  LAN frame -> XDP -> XSK(port, queue) -> worker: outbound -> XSK(path's port) -> wire
//!  WireGuard data -> XDP -> XSK         -> worker: inbound  -> XSK(LAN port) or TUN
//!  everything else -> kernel -> UDP sockets -> control thread (handshakes)
//!                            -> TUN         -> slow path: the same pipeline
//! ```
//!
//! `docs/architecture.md` has the code map and the invariants.

pub mod aead;
pub mod clock;
pub mod config;
pub mod control;
pub mod drops;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod id;
pub mod kernel;
pub mod pace;
pub mod pipeline;
pub mod port;
pub mod publish;
mod sync;
pub mod topology;
pub mod tun;
pub mod uapi;
pub mod wireguard;
pub mod worker;
pub mod xdp;

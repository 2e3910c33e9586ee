//! WireGuard without I/O: no clock, socket or random source inside; time and randomness are arguments.
//!
//! Section numbers refer to the whitepaper, "WireGuard: Next Generation Kernel Network Tunnel".
//!
//! The control thread owns a [`Tunnel`] per configuration file and feeds it handshake messages and time;
//! the tunnel answers with [`Transmit`]s and [`Event`]s. A [`Session`] is what a handshake yields: it
//! is shared with the workers, who seal and open data messages with it and leave *facts* in it (data
//! sent, data received, confirmed) that the tunnel sweeps.

// The whitepaper and its readers count in seconds.
#![allow(clippy::duration_suboptimal_units)]

mod context;
mod cookie;
mod crypto;
mod door;
mod limiter;
mod mac;
pub mod message;
mod noise;
mod outbox;
mod peer;
mod replay;
mod session;
mod shared;
mod slots;
mod tai64n;
#[cfg(test)]
mod tests;
mod timers;
mod traffic;
mod tunnel;
#[cfg(test)]
mod vectors;

pub use crypto::{PrivateKey, PublicKey};
pub use door::{Door, Stopped};
#[cfg(feature = "keylog")]
pub use noise::keylog::HandshakeSecrets;
pub use outbox::{Event, Transmit};
pub use session::{Endpoint, Role, Session, SessionId, SessionKeys};
pub use shared::Shared;
pub use slots::Slots;
pub use traffic::{Direction, Traffic};
pub use tunnel::{PeerConfig, PeerStatus, Refusal, Tunnel};

use std::time::Duration;

/// Age at which the initiator renews a session when it sends (section 6.1).
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Age at which a session is neither used nor accepted any more (section 6.1).
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Messages after which a session is renewed (section 6.1).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Messages after which a session is neither used nor accepted any more (section 6.1).
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// Time between two initiations to one peer (section 6.1).
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Up to this much, at random, is added to [`REKEY_TIMEOUT`], so that peers do not keep colliding.
pub const REKEY_TIMEOUT_JITTER: Duration = Duration::from_millis(333);
/// How long initiations are repeated without an answer (section 6.1).
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// DS byte of initiations and responses: DSCP AF41, as the kernel marks them.
pub const HANDSHAKE_DS: u8 = 0x88;
/// How long after received data an answer is due, be it empty (section 6.1).
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

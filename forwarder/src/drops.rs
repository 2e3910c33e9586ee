//! Why packets are dropped: one table gives the enum, the metric's label and the sentence.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! drops {
    ($($name:ident, $label:literal, $sentence:literal;)+) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Drop { $(#[doc = $sentence] $name),+ }

        impl Drop {
            /// Every reason, in table order.
            pub const ALL: &[Drop] = &[$(Drop::$name),+];

            /// The reason's name in metrics and JSON.
            pub const fn label(self) -> &'static str {
                match self { $(Drop::$name => $label),+ }
            }

            /// The reason in a sentence.
            pub const fn sentence(self) -> &'static str {
                match self { $(Drop::$name => $sentence),+ }
            }
        }
    };
}

drops! {
    Malformed, "malformed", "The frame ends inside a header, or its lengths disagree.";
    Foreign, "foreign", "The frame's VLAN tags and destination MAC are not those of a known interface.";
    Unroutable, "unroutable", "No route, or an unreachable route, for the inner destination.";
    NotSteered, "not_steered", "A LAN frame whose destination belongs to no tunnel reached a socket.";
    SourceSpoofed, "source_spoofed", "A LAN packet's source is not one that its interface may send.";
    Martian, "martian", "An inner source or destination that no packet may carry.";
    TooBig, "too_big", "The packet is larger than the tunnel's or the egress's MTU.";
    TtlExpired, "ttl_expired", "TTL or hop limit ran out.";
    NoSession, "no_session", "No session with the peer, and the waiting queue was full.";
    SessionExpired, "session_expired", "The session reached its age or message limit.";
    NoNeighbour, "no_neighbour", "The next hop's MAC address is unknown, and the waiting queue was full.";
    PortDown, "port_down", "The path's port is down or not part of the bond's aggregate.";
    TxFull, "tx_full", "No free transmit frame on the port.";
    TxFailed, "tx_failed", "The device refused the frame.";
    UnknownIndex, "unknown_index", "No session has the message's receiver index.";
    AuthFailed, "auth_failed", "The message's authentication tag is wrong.";
    Replayed, "replayed", "The message's counter was seen before or is too old.";
    SourceNotAllowed, "source_not_allowed", "The inner source is not in the peer's allowed-IPs.";
    Transit, "transit", "An opened packet's destination lies behind another tunnel.";
    EcnIllegal, "ecn_illegal", "Congestion was marked on the outside of a packet that may not be marked.";
    KernelQueueFull, "kernel_queue_full", "The queue to the kernel (TUN) was full.";
    NoTunnel, "no_tunnel", "A handshake message for a tunnel that is not there yet, or no more.";
    Mac1Wrong, "mac1_wrong", "A handshake message whose sender does not know our public key.";
    CookieRequired, "cookie_required", "Under load: a handshake message without a valid cookie.";
    HandshakeRate, "handshake_rate", "Under load: more handshake messages than one source may send.";
    ControlQueueFull, "control_queue_full", "The queue to the control thread was full.";
}

/// Drop counters of one thread; only that thread adds, anyone reads.
#[derive(Debug)]
pub struct DropCounters([AtomicU64; Drop::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl DropCounters {
    /// Counts one packet.
    pub fn count(&self, reason: Drop) {
        add(&self.0[reason as usize], 1);
    }

    /// Packets dropped for `reason` so far.
    pub fn get(&self, reason: Drop) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}

/// Adds to a counter that one thread writes: a plain load and store, no locked instruction.
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

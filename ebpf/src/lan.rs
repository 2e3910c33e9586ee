//! Packets for the far site: ours when their destination is steered and the fast path can carry them.
//! The kernel routes the others, and answers those that a tunnel cannot take with ICMP.

use forwarder_contract::{Interface, Verdict};

use crate::ip::Packet;

/// What to do with a packet that is for no listener of ours.
#[inline(always)]
pub fn classify(packet: &Packet, steered: bool, interface: &Interface) -> Verdict {
    if !steered {
        return if packet.fragment { Verdict::PassFragment } else { Verdict::PassUnsteered };
    }
    if packet.options {
        Verdict::PassOptions
    } else if packet.ttl <= 1 {
        Verdict::PassTtl
    } else if packet.length > interface.tunnel_mtu as usize {
        Verdict::PassTooBig
    } else {
        Verdict::RedirectLan
    }
}

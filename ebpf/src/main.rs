//! The XDP program: which frames go to our sockets, and which to the kernel.
//!
//! ```text
//! ethernet    tags and destination MAC name a known interface, else pass
//!   ip        headers within the frame, lengths consistent, else pass
//!     wireguard   data message for one of our listeners -> socket
//!     lan         destination steered and packet carryable -> socket
//! everything else -> kernel
//! ```
//!
//! It only sorts: whatever reaches a socket is checked again there. In doubt it passes.
#![no_std]
#![no_main]

mod ethernet;
mod frame;
mod ip;
mod lan;
mod maps;
mod wireguard;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use forwarder_contract::Verdict;

use crate::frame::Frame;

#[xdp]
pub fn steer(context: XdpContext) -> u32 {
    let verdict = ethernet::classify(Frame::new(&context));
    let (verdict, action) = act(verdict, context.rx_queue_index());
    maps::count(verdict);
    action
}

/// Carries a verdict out. An empty socket slot turns a redirect into a pass: the map's fallback.
#[inline(always)]
fn act(verdict: Verdict, queue: u32) -> (Verdict, u32) {
    match verdict {
        Verdict::RedirectWireGuard | Verdict::RedirectLan => {
            match maps::SOCKETS.redirect(queue, u64::from(xdp_action::XDP_PASS)) {
                Ok(redirect) => (verdict, redirect),
                Err(fallback) => (Verdict::PassNoSocket, fallback),
            }
        }
        Verdict::PassNoSocket
        | Verdict::PassNotIp
        | Verdict::PassTruncated
        | Verdict::PassForeign
        | Verdict::PassControl
        | Verdict::PassFragment
        | Verdict::PassUnsteered
        | Verdict::PassTooBig
        | Verdict::PassTtl
        | Verdict::PassOptions => (verdict, xdp_action::XDP_PASS),
    }
}

/// None of the helpers that we call is reserved to GPL programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 18] = *b"MIT OR Apache-2.0\0";

/// Never linked: nothing here can panic.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

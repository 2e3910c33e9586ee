//! The kernel for AVX-512 with IFMA.

mod chacha;
pub(super) mod poly;

use super::GROUP;
use super::plan::{self, Packet};

/// Encrypts or decrypts the packets, at most [`GROUP`], and computes their tags.
///
/// # Safety
/// The processor has AVX-512F, BW, DQ, VL, IFMA and BMI2. Sources can be read, destinations can be written.
pub unsafe fn run(packets: &[Packet], tags: &mut [[u8; 16]]) {
    let mut keys = [[0; 8]; GROUP];
    // SAFETY: the caller's promise.
    unsafe {
        plan::run(packets, &mut keys, chacha::pass);
        poly::tags(packets, &keys, tags);
    }
}

/// What the packets, sorted by length, cost in cycles (measured on Zen 4).
pub fn cost(packets: &[Packet]) -> usize {
    let blocks: usize = packets.iter().map(|packet| 1 + packet.len.div_ceil(plan::BLOCK)).sum();
    let sets = blocks.div_ceil(chacha::LANES);
    let rows: usize =
        packets.chunks(poly::LANES).filter_map(|group| group.last()).map(|packet| 1 + packet.len / 16).sum();
    700 + 1450 * (sets / 2) + 850 * (sets % 2) + 32 * rows + 40 * packets.len()
}

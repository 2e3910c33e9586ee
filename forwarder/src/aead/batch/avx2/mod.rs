//! The kernel for AVX2.

mod chacha;
pub(super) mod poly;

use super::GROUP;
use super::plan::{self, Packet};

/// Encrypts or decrypts the packets, at most [`GROUP`], and computes their tags.
///
/// # Safety
/// The processor has AVX2 and BMI2. Sources can be read, destinations can be written.
pub unsafe fn run(packets: &[Packet], tags: &mut [[u8; 16]]) {
    let mut keys = [[0; 8]; GROUP];
    // SAFETY: the caller's promise.
    unsafe {
        plan::run(packets, &mut keys, chacha::pass);
        poly::tags(packets, &keys, tags);
    }
}

/// What packets of these lengths cost in cycles (measured on Zen 4).
pub fn cost(lens: &[usize]) -> usize {
    let blocks: usize = lens.iter().map(|len| 1 + len.div_ceil(plan::BLOCK)).sum();
    let texts: usize = lens.iter().sum();
    400 + 800 * blocks.div_ceil(chacha::LANES) + 60 * lens.len() + texts / 2
}

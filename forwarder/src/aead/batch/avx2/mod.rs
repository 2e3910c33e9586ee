//! The kernel for AVX2: `ChaCha20` in the vector units, and woven into its rounds, in the scalar units,
//! Poly1305 of what is encrypted already.

mod chacha;
mod output;
pub(super) mod poly;
mod sets;
mod weave;

use super::plan::{self, Packet};
use super::{BATCH, TAG_LEN};
use sets::{Set, Sets};
use weave::Weave;

/// Encrypts or decrypts the packets, at most [`BATCH`], and computes their tags.
///
/// # Safety
/// The processor has AVX2 and BMI2. Sources can be read, destinations can be written.
#[target_feature(enable = "avx2,bmi2")]
pub unsafe fn run(packets: &[Packet], tags: &mut [[u8; TAG_LEN]]) {
    let mut keys = [[0; 4]; BATCH];
    let mut weave = Weave::new(packets, keys.as_ptr(), tags.as_mut_ptr());
    // SAFETY: the caller's promise.
    unsafe {
        encrypt(packets, &mut keys, &mut weave);
        weave.finish();
    }
}

/// Encrypts the packets, and authenticates most of them.
///
/// Not inlined, as the compiler then scatters the weave over the stack.
///
/// # Safety
/// As above; the weave is of these packets and keys.
#[target_feature(enable = "avx2,bmi2")]
#[inline(never)]
unsafe fn encrypt(packets: &[Packet], keys: &mut [[u64; 4]; BATCH], weave: &mut Weave<'_>) {
    let mut sets = Sets::new(packets);
    let mut set = Set::new();
    loop {
        sets.fill(&mut set);
        if set.is_empty() {
            return;
        }
        // SAFETY: the caller's promise; what the set has written is released after it.
        unsafe {
            let words = chacha::rounds(&chacha::start(&set), weave);
            output::write(&set, &words, keys);
            weave.release(sets.front());
        }
    }
}

/// What the packets cost in cycles (measured on Zen 4).
pub fn cost(packets: &[Packet]) -> usize {
    let blocks: usize = packets.iter().map(|packet| 1 + packet.len.div_ceil(plan::BLOCK)).sum();
    let texts: usize = packets.iter().map(|packet| packet.len).sum();
    400 + 450 * blocks.div_ceil(chacha::LANES) + 60 * packets.len() + texts / 10
}

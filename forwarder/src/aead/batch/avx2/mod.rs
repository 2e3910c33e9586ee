//! The kernel for AVX2: `ChaCha20` in the vector units, and woven into its rounds, in the scalar units,
//! Poly1305 of what is encrypted already.
// What is woven in must not be called: a call would save all registers of the rounds.
#![allow(clippy::inline_always)]

mod chacha;
mod output;
pub(super) mod poly;
mod sets;
mod weave;

use super::packet::{BLOCK, Packet, Packets};
use super::{GROUP, Tags};
use chacha::{DOUBLE_ROUNDS, LANES};
use sets::{Set, Sets};
use weave::{STEP, Weave};

/// Encrypts or decrypts so many packets, at most [`GROUP`], and computes their tags.
///
/// # Safety
/// The processor has AVX2 and BMI2. Sources can be read, destinations can be written.
#[target_feature(enable = "avx2,bmi2")]
pub unsafe fn run(packets: &[Packets], count: usize, tags: *mut Tags) {
    let packets = &packets.as_flattened()[..count];
    let mut keys = [[0; 4]; GROUP];
    let mut weave = Weave::new(packets, keys.as_mut_ptr(), tags.cast());
    // SAFETY: the caller's promise.
    unsafe {
        encrypt(packets, &mut weave);
        weave.finish();
    }
}

/// Encrypts the packets, and authenticates most of them.
///
/// Not inlined, as the compiler then scatters the weave over the stack.
///
/// # Safety
/// As above; the weave is of these packets.
#[target_feature(enable = "avx2,bmi2")]
#[inline(never)]
unsafe fn encrypt(packets: &[Packet], weave: &mut Weave<'_>) {
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
            output::write(&set, &words, weave.keys);
            weave.release(sets.front());
        }
    }
}

/// What packets of these lengths, sorted, cost in cycles (measured on Zen 4).
///
/// One is always too few, and other numbers than three are not: to ask costs something, too.
pub fn cost(lens: &[usize]) -> usize {
    let &[a, b, c] = lens else { return if lens.len() == 1 { usize::MAX } else { 0 } };
    let blocks = [a, b, c].map(|len| 1 + len.div_ceil(BLOCK));
    let [b_steps, c_steps] = [b, c].map(|len| len / STEP);
    let sets = blocks.iter().sum::<usize>().div_ceil(LANES);
    // The rounds of so many sets have a step woven in. The third packet waits for its own blocks.
    let woven = |sets: usize| DOUBLE_ROUNDS * sets.saturating_sub(1);
    let after = (b_steps + c_steps).saturating_sub(woven(sets - blocks[0] / LANES));
    let after = after.max(c_steps.saturating_sub(woven(blocks[2] / LANES))).max(4);
    310 + 650 * sets + 52 * after
}

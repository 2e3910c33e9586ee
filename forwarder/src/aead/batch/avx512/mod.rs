//! The kernel for AVX-512 with IFMA.

mod chacha;
mod keys;
mod lanes;
mod poly;
mod table;

use std::mem::MaybeUninit;

use super::packet::{BLOCK, Packets, TOGETHER};
use super::{GROUP, Tags};
use keys::Keys;
use table::Table;

/// Encrypts or decrypts so many packets, at most [`GROUP`], and computes their tags.
///
/// # Safety
/// The processor has AVX-512F, BW, DQ, VL, IFMA and BMI2. Sources can be read, destinations can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
pub unsafe fn run(packets: &[Packets], count: usize, tags: *mut Tags) {
    let (mut table, mut keys) = (MaybeUninit::uninit(), Keys::UNKNOWN);
    let table = Table::fill(&mut table, packets, count);
    // SAFETY: the caller's promise.
    unsafe {
        chacha::encrypt(&packets.as_flattened()[..count], table, &mut keys);
        poly::tags(packets, table, &keys, tags);
    }
}

/// What packets of these lengths cost in cycles (measured on Zen 4).
pub fn cost(lens: &[usize]) -> usize {
    const SET: usize = lanes::LANES * BLOCK;
    let whole: usize = lens.iter().map(|len| len / SET).sum();
    let lanes: usize = lens.iter().map(|len| 1 + (len % SET).div_ceil(BLOCK)).sum();
    let sets = whole + lanes.div_ceil(lanes::LANES);
    let rows = 1 + lens.iter().max().map_or(0, |longest| longest.div_ceil(16));
    450 + 1290 * (sets / 2) + 700 * (sets % 2) + 32 * rows * lens.len().div_ceil(TOGETHER) + 25 * lens.len()
}

/// The tags by themselves, with the first block of each packet.
///
/// # Safety
/// As above; ciphertexts are read only.
#[cfg(test)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
pub unsafe fn tags_of(packets: &[Packets], count: usize, blocks: &[[u64; 8]; GROUP], tags: *mut Tags) {
    let mut table = MaybeUninit::uninit();
    // SAFETY: the caller's promise.
    unsafe { poly::tags(packets, Table::fill(&mut table, packets, count), &Keys::of(blocks), tags) };
}

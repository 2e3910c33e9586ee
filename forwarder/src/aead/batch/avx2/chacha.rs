//! `ChaCha20` (RFC 8439, section 2.3): eight blocks in the lanes of sixteen registers, register `i` has
//! word `i` of every block.

#[allow(clippy::wildcard_imports)] // every line is an intrinsic
use std::arch::x86_64::*;

use super::super::plan::{BLOCK, Lanes, Run};

/// Blocks of a set.
pub const LANES: usize = 8;

const CONSTANTS: [i32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Encrypts one or two sets of blocks.
///
/// # Safety
/// The processor has the features. Sources can be read, destinations can be written.
#[target_feature(enable = "avx2,bmi2")]
pub unsafe fn pass(sets: &[Lanes<LANES>]) {
    for set in sets {
        // SAFETY: the caller's promise.
        unsafe { output(set, &rounds(&start(set))) };
    }
}

/// Words 0 to 15 of the blocks, before the rounds.
///
/// # Safety
/// There is a run, and keys can be read.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn start(runs: &Lanes<LANES>) -> [__m256i; 16] {
    let iota = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let run = &runs[0];
    // SAFETY: keys can be read.
    let word = |run: &Run, i| unsafe { run.key.cast::<i32>().add(i).read_unaligned() };
    let mut x = [_mm256_setzero_si256(); 16];
    for (x, word) in x.iter_mut().zip(CONSTANTS) {
        *x = _mm256_set1_epi32(word);
    }
    for i in 0..8 {
        x[4 + i] = _mm256_set1_epi32(word(run, i));
    }
    x[12] = _mm256_add_epi32(_mm256_set1_epi32(run.block.cast_signed()), iota);
    x[14] = _mm256_set1_epi32(run.nonce as i32);
    x[15] = _mm256_set1_epi32((run.nonce >> 32) as i32);
    let one_key = runs[1..].iter().all(|next| next.key == run.key);
    for next in &runs[1..] {
        // The lanes of this run and all later ones.
        let mask = _mm256_cmpgt_epi32(iota, _mm256_set1_epi32(next.lane.cast_signed() - 1));
        let blend = |x, word: i32| _mm256_blendv_epi8(x, _mm256_set1_epi32(word), mask);
        let counter = next.block.wrapping_sub(next.lane).cast_signed();
        x[12] = _mm256_blendv_epi8(x[12], _mm256_add_epi32(_mm256_set1_epi32(counter), iota), mask);
        x[14] = blend(x[14], next.nonce as i32);
        x[15] = blend(x[15], (next.nonce >> 32) as i32);
        if !one_key {
            for i in 0..8 {
                x[4 + i] = blend(x[4 + i], word(next, i));
            }
        }
    }
    x
}

macro_rules! rotate {
    ($x:expr, $by:literal) => {
        _mm256_or_si256(_mm256_slli_epi32::<$by>($x), _mm256_srli_epi32::<{ 32 - $by }>($x))
    };
}

macro_rules! quarters {
    ($by16:ident $by8:ident $([$a:ident $b:ident $c:ident $d:ident])*) => {
        $($a = _mm256_add_epi32($a, $b);)* $($d = _mm256_shuffle_epi8(_mm256_xor_si256($d, $a), $by16);)*
        $($c = _mm256_add_epi32($c, $d);)* $($b = _mm256_xor_si256($b, $c); $b = rotate!($b, 12);)*
        $($a = _mm256_add_epi32($a, $b);)* $($d = _mm256_shuffle_epi8(_mm256_xor_si256($d, $a), $by8);)*
        $($c = _mm256_add_epi32($c, $d);)* $($b = _mm256_xor_si256($b, $c); $b = rotate!($b, 7);)*
    };
}

#[target_feature(enable = "avx2,bmi2")]
#[inline]
fn rounds(start: &[__m256i; 16]) -> [__m256i; 16] {
    let by16 =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
    let by8 =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14));
    let [mut x0, mut x1, mut x2, mut x3, mut x4, mut x5, mut x6, mut x7, ..] = *start;
    let [.., mut x8, mut x9, mut xa, mut xb, mut xc, mut xd, mut xe, mut xf] = *start;
    for _ in 0..10 {
        quarters!(by16 by8 [x0 x4 x8 xc] [x1 x5 x9 xd]);
        quarters!(by16 by8 [x2 x6 xa xe] [x3 x7 xb xf]);
        quarters!(by16 by8 [x0 x5 xa xf] [x1 x6 xb xc]);
        quarters!(by16 by8 [x2 x7 x8 xd] [x3 x4 x9 xe]);
    }
    let mut end = [x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, xa, xb, xc, xd, xe, xf];
    for (end, start) in end.iter_mut().zip(start) {
        *end = _mm256_add_epi32(*end, *start);
    }
    end
}

/// Turns words of blocks into blocks, and encrypts the runs with them.
///
/// # Safety
/// Sources can be read, destinations can be written.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn output(runs: &Lanes<LANES>, words: &[__m256i; 16]) {
    let [w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, wa, wb, wc, wd, we, wf] = *words;
    let first = transpose([w0, w1, w2, w3, w4, w5, w6, w7]);
    let second = transpose([w8, w9, wa, wb, wc, wd, we, wf]);
    for run in runs {
        let (mut source, mut destination) = (run.source, run.destination);
        let (mut source_len, mut len) = (run.source_len, run.len);
        for lane in (run.lane as usize..).take(run.lanes as usize) {
            let block = [first[lane], second[lane]];
            // SAFETY: the caller's promise, and the lengths.
            unsafe {
                if source_len >= BLOCK {
                    for (half, key) in block.into_iter().enumerate() {
                        let text = _mm256_loadu_si256(source.cast::<__m256i>().add(half));
                        _mm256_storeu_si256(
                            destination.cast::<__m256i>().add(half),
                            _mm256_xor_si256(text, key),
                        );
                    }
                } else {
                    partial(source, source_len, destination, len.min(BLOCK), block);
                }
            }
            (source, destination) = (source.wrapping_add(BLOCK), destination.wrapping_add(BLOCK));
            (source_len, len) = (source_len.saturating_sub(BLOCK), len.saturating_sub(BLOCK));
        }
    }
}

/// A block that ends early, or whose source does.
///
/// # Safety
/// So many bytes of the source can be read, so many of the destination written; both fewer than 65.
#[target_feature(enable = "avx2,bmi2")]
unsafe fn partial(
    source: *const u8,
    source_len: usize,
    destination: *mut u8,
    len: usize,
    block: [__m256i; 2],
) {
    let mut text = [0_u8; BLOCK];
    // SAFETY: the caller's promise.
    unsafe {
        source.copy_to_nonoverlapping(text.as_mut_ptr(), source_len);
        for (half, key) in block.into_iter().enumerate() {
            let at = text.as_mut_ptr().cast::<__m256i>().add(half);
            _mm256_storeu_si256(at, _mm256_xor_si256(_mm256_loadu_si256(at), key));
        }
        destination.copy_from_nonoverlapping(text.as_ptr(), len);
    }
}

/// Eight words of eight blocks.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
fn transpose([a, b, c, d, e, f, g, h]: [__m256i; 8]) -> [__m256i; 8] {
    // Words 0 to 3, then 4 to 7, of blocks i and i + 4.
    let [p0, p1, p2, p3] = transpose4([a, b, c, d]);
    let [q0, q1, q2, q3] = transpose4([e, f, g, h]);
    let low = |p, q| _mm256_permute2x128_si256::<0x20>(p, q);
    let high = |p, q| _mm256_permute2x128_si256::<0x31>(p, q);
    [
        low(p0, q0),
        low(p1, q1),
        low(p2, q2),
        low(p3, q3),
        high(p0, q0),
        high(p1, q1),
        high(p2, q2),
        high(p3, q3),
    ]
}

/// Within each 128-bit half.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
fn transpose4([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab_low, cd_low),
        _mm256_unpackhi_epi64(ab_low, cd_low),
        _mm256_unpacklo_epi64(ab_high, cd_high),
        _mm256_unpackhi_epi64(ab_high, cd_high),
    ]
}

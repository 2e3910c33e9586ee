//! `ChaCha20` (RFC 8439, section 2.3): eight blocks in the lanes of sixteen registers, register `i` has
//! word `i` of every block.

#[allow(clippy::wildcard_imports)] // every line is an intrinsic
use std::arch::x86_64::*;

use super::poly;
use super::sets::{Run, Set};
use super::weave::{STEP, Weave, step};

/// Blocks of a set.
pub const LANES: usize = 8;

const CONSTANTS: [i32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Words 0 to 15 of the blocks, before the rounds.
///
/// # Safety
/// There is a run, and keys can be read.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
pub unsafe fn start(runs: &Set<'_>) -> [__m256i; 16] {
    let iota = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let run = &runs[0];
    // SAFETY: keys can be read.
    let word = |run: &Run<'_>, i| unsafe { run.packet.key.cast::<i32>().add(i).read_unaligned() };
    let mut x = [_mm256_setzero_si256(); 16];
    for (x, word) in x.iter_mut().zip(CONSTANTS) {
        *x = _mm256_set1_epi32(word);
    }
    for i in 0..8 {
        x[4 + i] = _mm256_set1_epi32(word(run, i));
    }
    x[12] = _mm256_add_epi32(_mm256_set1_epi32(run.block as i32), iota);
    x[14] = _mm256_set1_epi32(run.packet.nonce as i32);
    x[15] = _mm256_set1_epi32((run.packet.nonce >> 32) as i32);
    let one_key = runs[1..].iter().all(|next| next.packet.key == run.packet.key);
    for next in &runs[1..] {
        // The lanes of this run and all later ones.
        let mask = _mm256_cmpgt_epi32(iota, _mm256_set1_epi32(next.lane as i32 - 1));
        let blend = |x, word: i32| _mm256_blendv_epi8(x, _mm256_set1_epi32(word), mask);
        let counter = next.block.wrapping_sub(next.lane) as i32;
        x[12] = _mm256_blendv_epi8(x[12], _mm256_add_epi32(_mm256_set1_epi32(counter), iota), mask);
        x[14] = blend(x[14], next.packet.nonce as i32);
        x[15] = blend(x[15], (next.packet.nonce >> 32) as i32);
        if !one_key {
            for i in 0..8 {
                x[4 + i] = blend(x[4 + i], word(next, i));
            }
        }
    }
    x
}

macro_rules! each {
    ($op:literal [$($x:literal)*] [$($y:literal)*]) => {
        concat!($($op, " ymm", $x, ", ymm", $x, ", ymm", $y, "\n"),*)
    };
}

macro_rules! shuffle {
    ([$($x:literal)*] $by:literal) => {
        concat!($("vpshufb ymm", $x, ", ymm", $x, ", ymmword ptr [{m} + ", $by, "]\n"),*)
    };
}

macro_rules! rotate {
    ([$($x:literal)*] $left:literal $right:literal) => {
        concat!($(
            "vpslld ymm0, ymm", $x, ", ", $left, "\n",
            "vpsrld ymm", $x, ", ymm", $x, ", ", $right, "\n",
            "vpor ymm", $x, ", ymm", $x, ", ymm0\n",
        )*)
    };
}

/// Half of four quarter rounds.
macro_rules! eighths {
    ([$b:literal $($bs:literal)*] $c:tt $d:tt $shuffle:literal $left:literal $right:literal) => {
        concat!(
            "vpaddd ymm0, ymm", $b, ", ymmword ptr [{m} + 64]\n",
            each!("vpaddd" [1 2 3] [$($bs)*]),
            each!("vpxor" $d [0 1 2 3]),
            "vmovdqa ymmword ptr [{m} + 64], ymm0\n",
            shuffle!($d $shuffle),
            each!("vpaddd" $c $d),
            each!("vpxor" [$b $($bs)*] $c),
            rotate!([$b $($bs)*] $left $right),
        )
    };
}

/// Memory of the rounds.
#[repr(C)]
struct Memory {
    by16: __m256i,
    by8: __m256i,
    /// Word 0, as rotations need one of the registers.
    x0: __m256i,
}

/// The blocks after the rounds. Between them goes on what is woven in.
///
/// A compiler would keep more words in memory, and make two shuffles of one.
///
/// # Safety
/// As for [`Weave::step`].
#[target_feature(enable = "avx2,bmi2")]
#[inline]
pub unsafe fn rounds(start: &[__m256i; 16], weave: &mut Weave<'_>) -> [__m256i; 16] {
    let by16 = _mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
    let by8 = _mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14);
    let [x0, mut x1, mut x2, mut x3, mut x4, mut x5, mut x6, mut x7, ..] = *start;
    let [.., mut x8, mut x9, mut xa, mut xb, mut xc, mut xd, mut xe, mut xf] = *start;
    let mut memory =
        Memory { by16: _mm256_broadcastsi128_si256(by16), by8: _mm256_broadcastsi128_si256(by8), x0 };
    macro_rules! part {
        ($b:tt $c:tt $d:tt $shuffle:literal $left:literal $right:literal) => {
            std::arch::asm!(
                eighths!($b $c $d $shuffle $left $right),
                m = in(reg) &raw mut memory,
                out("ymm0") _, inout("ymm1") x1, inout("ymm2") x2, inout("ymm3") x3,
                inout("ymm4") x4, inout("ymm5") x5, inout("ymm6") x6, inout("ymm7") x7,
                inout("ymm8") x8, inout("ymm9") x9, inout("ymm10") xa, inout("ymm11") xb,
                inout("ymm12") xc, inout("ymm13") xd, inout("ymm14") xe, inout("ymm15") xf,
                options(nostack, preserves_flags),
            )
        };
    }
    for _ in 0..10 {
        // SAFETY: changes nothing but what it names; the weave is the caller's promise.
        unsafe {
            step!(
                weave,
                part!([4 5 6 7] [8 9 10 11] [12 13 14 15] 0 12 20),
                part!([4 5 6 7] [8 9 10 11] [12 13 14 15] 32 7 25),
                part!([5 6 7 4] [10 11 8 9] [15 12 13 14] 0 12 20),
                part!([5 6 7 4] [10 11 8 9] [15 12 13 14] 32 7 25)
            );
        }
    }
    let mut end = [memory.x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, xa, xb, xc, xd, xe, xf];
    for (end, start) in end.iter_mut().zip(start) {
        *end = _mm256_add_epi32(*end, *start);
    }
    end
}

/// Eight words of eight blocks.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
pub fn transpose([a, b, c, d, e, f, g, h]: [__m256i; 8]) -> [__m256i; 8] {
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

//! `ChaCha20` (RFC 8439, section 2.3): sixteen blocks in the lanes of sixteen registers, register `i`
//! has word `i` of every block. Two such sets fill all registers, and neither waits for itself.

#[allow(clippy::wildcard_imports)] // every line is an intrinsic
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::super::plan::{BLOCK, Lanes, Run};

/// Blocks of a set.
pub const LANES: usize = 16;

/// What a set of blocks starts from, but the constants.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Start {
    key: [__m512i; 8],
    counter: __m512i,
    nonce: [__m512i; 2],
}

const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Encrypts one or two sets of blocks.
///
/// # Safety
/// The processor has the features. Sources can be read, destinations can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
pub unsafe fn pass(sets: &[Lanes<LANES>]) {
    let mut starts = MaybeUninit::<[Start; 2]>::uninit();
    let mut ends = MaybeUninit::<[[__m512i; 16]; 2]>::uninit();
    let (starts, ends) = (starts.as_mut_ptr().cast::<Start>(), ends.as_mut_ptr().cast::<[__m512i; 16]>());
    // SAFETY: there are one or two sets; starts are written before they are read, and so are ends.
    unsafe {
        for (i, set) in sets.iter().enumerate() {
            starts.add(i).write(start(set));
        }
        if sets.len() == 2 {
            wide(starts, ends);
        } else {
            ends.write(narrow(&*starts));
        }
        for (i, set) in sets.iter().enumerate() {
            output(set, &*ends.add(i));
        }
    }
}

/// Where a set starts.
///
/// # Safety
/// There is a run, and keys can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
#[inline]
unsafe fn start(runs: &Lanes<LANES>) -> Start {
    let iota = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    let run = &runs[0];
    // SAFETY: the caller's promise.
    let word = |run: &Run, i| unsafe { run.key.cast::<i32>().add(i).read_unaligned() };
    let mut start = Start {
        key: [
            _mm512_set1_epi32(word(run, 0)),
            _mm512_set1_epi32(word(run, 1)),
            _mm512_set1_epi32(word(run, 2)),
            _mm512_set1_epi32(word(run, 3)),
            _mm512_set1_epi32(word(run, 4)),
            _mm512_set1_epi32(word(run, 5)),
            _mm512_set1_epi32(word(run, 6)),
            _mm512_set1_epi32(word(run, 7)),
        ],
        counter: _mm512_add_epi32(_mm512_set1_epi32(run.block.cast_signed()), iota),
        nonce: [_mm512_set1_epi32(run.nonce as i32), _mm512_set1_epi32((run.nonce >> 32) as i32)],
    };
    for next in &runs[1..] {
        // The lanes of this run and all later ones.
        let mask = (u16::MAX) << next.lane;
        let block = _mm512_set1_epi32(next.block.wrapping_sub(next.lane).cast_signed());
        start.counter = _mm512_mask_add_epi32(start.counter, mask, block, iota);
        start.nonce[0] = _mm512_mask_set1_epi32(start.nonce[0], mask, next.nonce as i32);
        start.nonce[1] = _mm512_mask_set1_epi32(start.nonce[1], mask, (next.nonce >> 32) as i32);
    }
    if runs[1..].iter().any(|next| next.key != run.key) {
        for next in &runs[1..] {
            let mask = (u16::MAX) << next.lane;
            for i in 0..8 {
                start.key[i] = _mm512_mask_set1_epi32(start.key[i], mask, word(next, i));
            }
        }
    }
    start
}

macro_rules! quarters {
    ($([$a:ident $b:ident $c:ident $d:ident])*) => {
        $($a = _mm512_add_epi32($a, $b);)* $($d = _mm512_rol_epi32::<16>(_mm512_xor_si512($d, $a));)*
        $($c = _mm512_add_epi32($c, $d);)* $($b = _mm512_rol_epi32::<12>(_mm512_xor_si512($b, $c));)*
        $($a = _mm512_add_epi32($a, $b);)* $($d = _mm512_rol_epi32::<8>(_mm512_xor_si512($d, $a));)*
        $($c = _mm512_add_epi32($c, $d);)* $($b = _mm512_rol_epi32::<7>(_mm512_xor_si512($b, $c));)*
    };
}

/// The rounds of one set.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
#[inline]
fn narrow(start: &Start) -> [__m512i; 16] {
    let c = CONSTANTS.map(|word| _mm512_set1_epi32(word.cast_signed()));
    let k = &start.key;
    let ([mut x0, mut x1, mut x2, mut x3], [mut x4, mut x5, mut x6, mut x7, mut x8, mut x9, mut xa, mut xb]) =
        (c, *k);
    let (mut xc, mut xd, [mut xe, mut xf]) = (start.counter, _mm512_setzero_si512(), start.nonce);
    for _ in 0..10 {
        quarters!([x0 x4 x8 xc] [x1 x5 x9 xd] [x2 x6 xa xe] [x3 x7 xb xf]);
        quarters!([x0 x5 xa xf] [x1 x6 xb xc] [x2 x7 x8 xd] [x3 x4 x9 xe]);
    }
    let add = |x, y| _mm512_add_epi32(x, y);
    [
        add(x0, c[0]),
        add(x1, c[1]),
        add(x2, c[2]),
        add(x3, c[3]),
        add(x4, k[0]),
        add(x5, k[1]),
        add(x6, k[2]),
        add(x7, k[3]),
        add(x8, k[4]),
        add(x9, k[5]),
        add(xa, k[6]),
        add(xb, k[7]),
        add(xc, start.counter),
        xd,
        add(xe, start.nonce[0]),
        add(xf, start.nonce[1]),
    ]
}

macro_rules! each {
    ($op:literal [$($x:literal)*] [$($y:literal)*]) => {
        concat!($($op, " zmm", $x, ", zmm", $x, ", zmm", $y, "\n"),*)
    };
}

macro_rules! rotate {
    ([$($x:literal)*] $by:literal) => { concat!($("vprold zmm", $x, ", zmm", $x, ", ", $by, "\n"),*) };
}

/// Four quarter rounds of each set.
macro_rules! half_round {
    ($a:tt $b:tt $c:tt $d:tt) => {
        concat!(
            each!("vpaddd" $a $b), each!("vpxord" $d $a), rotate!($d 16),
            each!("vpaddd" $c $d), each!("vpxord" $b $c), rotate!($b 12),
            each!("vpaddd" $a $b), each!("vpxord" $d $a), rotate!($d 8),
            each!("vpaddd" $c $d), each!("vpxord" $b $c), rotate!($b 7),
        )
    };
}

macro_rules! constants {
    ($($x:literal $y:literal $at:literal),*) => {
        concat!($("vpbroadcastd zmm", $x, ", dword ptr [{c} + ", $at, "]\nvmovdqa64 zmm", $y, ", zmm", $x, "\n"),*)
    };
}

macro_rules! load {
    ($($x:literal $at:literal),*) => { concat!($("vmovdqa64 zmm", $x, ", zmmword ptr [{s} + ", $at, "]\n"),*) };
}

macro_rules! add {
    ($($x:literal $at:literal),*) => {
        concat!($("vpaddd zmm", $x, ", zmm", $x, ", zmmword ptr [{s} + ", $at, "]\n"),*)
    };
}

macro_rules! add_constants {
    ($($x:literal $at:literal),*) => {
        concat!($("vpaddd zmm", $x, ", zmm", $x, ", dword ptr [{c} + ", $at, "]{{1to16}}\n"),*)
    };
}

macro_rules! store {
    ($($x:literal $at:literal),*) => { concat!($("vmovdqa64 zmmword ptr [{e} + ", $at, "], zmm", $x, "\n"),*) };
}

/// The rounds of two sets. The second's end is stored: there is no register left for it.
///
/// A compiler would not keep 32 registers of state in 32 registers.
///
/// # Safety
/// There are two starts; the end can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
#[inline]
unsafe fn wide(starts: *const Start, ends: *mut [__m512i; 16]) {
    // SAFETY: reads the constants and two starts of 11 registers each, writes 16 registers.
    unsafe {
        std::arch::asm!(
            constants!(0 16 0, 1 17 4, 2 18 8, 3 19 12),
            load!(4 0, 5 64, 6 128, 7 192, 8 256, 9 320, 10 384, 11 448, 12 512, 14 576, 15 640),
            load!(20 704, 21 768, 22 832, 23 896, 24 960, 25 1024, 26 1088, 27 1152, 28 1216, 30 1280, 31 1344),
            "vpxord zmm13, zmm13, zmm13",
            "vpxord zmm29, zmm29, zmm29",
            "mov {n:e}, 10",
            "2:",
            half_round!([0 1 2 3 16 17 18 19] [4 5 6 7 20 21 22 23] [8 9 10 11 24 25 26 27] [12 13 14 15 28 29 30 31]),
            half_round!([0 1 2 3 16 17 18 19] [5 6 7 4 21 22 23 20] [10 11 8 9 26 27 24 25] [15 12 13 14 31 28 29 30]),
            "dec {n:e}",
            "jnz 2b",
            add_constants!(0 0, 1 4, 2 8, 3 12, 16 0, 17 4, 18 8, 19 12),
            add!(4 0, 5 64, 6 128, 7 192, 8 256, 9 320, 10 384, 11 448, 12 512, 14 576, 15 640),
            add!(20 704, 21 768, 22 832, 23 896, 24 960, 25 1024, 26 1088, 27 1152, 28 1216, 30 1280, 31 1344),
            store!(0 0, 1 64, 2 128, 3 192, 4 256, 5 320, 6 384, 7 448),
            store!(8 512, 9 576, 10 640, 11 704, 12 768, 13 832, 14 896, 15 960),
            store!(16 1024, 17 1088, 18 1152, 19 1216, 20 1280, 21 1344, 22 1408, 23 1472),
            store!(24 1536, 25 1600, 26 1664, 27 1728, 28 1792, 29 1856, 30 1920, 31 1984),
            c = in(reg) CONSTANTS.as_ptr(),
            s = in(reg) starts,
            e = in(reg) ends,
            n = out(reg) _,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _,
            out("zmm4") _, out("zmm5") _, out("zmm6") _, out("zmm7") _,
            out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _,
            out("zmm12") _, out("zmm13") _, out("zmm14") _, out("zmm15") _,
            out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
            out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
            options(nostack),
        );
    }
}

/// Turns words of blocks into blocks, and encrypts the runs with them.
///
/// # Safety
/// Sources can be read, destinations can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
#[inline]
unsafe fn output(runs: &Lanes<LANES>, words: &[__m512i; 16]) {
    let blocks = transpose(words);
    if let [run] = &runs[..]
        && run.source_len >= LANES * BLOCK
    {
        for (i, block) in blocks.into_iter().enumerate() {
            // SAFETY: the run is that long.
            unsafe {
                let text = _mm512_loadu_si512(run.source.add(i * BLOCK).cast());
                _mm512_storeu_si512(run.destination.add(i * BLOCK).cast(), _mm512_xor_si512(block, text));
            }
        }
        return;
    }
    for run in runs {
        let (mut source, mut destination) = (run.source, run.destination);
        let (mut source_len, mut len) = (run.source_len, run.len);
        for &block in &blocks[run.lane as usize..][..run.lanes as usize] {
            // SAFETY: whole blocks, or as much as there is.
            unsafe {
                if source_len >= BLOCK {
                    let text = _mm512_loadu_si512(source.cast());
                    _mm512_storeu_si512(destination.cast(), _mm512_xor_si512(block, text));
                } else {
                    let text = _mm512_maskz_loadu_epi8(mask(source_len), source.cast());
                    _mm512_mask_storeu_epi8(destination.cast(), mask(len), _mm512_xor_si512(block, text));
                }
            }
            (source, destination) = (source.wrapping_add(BLOCK), destination.wrapping_add(BLOCK));
            (source_len, len) = (source_len.saturating_sub(BLOCK), len.saturating_sub(BLOCK));
        }
    }
}

/// The first `bytes` bytes of a block.
#[target_feature(enable = "bmi2")]
#[inline]
fn mask(bytes: usize) -> u64 {
    _bzhi_u64(u64::MAX, bytes.min(BLOCK) as u32)
}

/// From words of blocks to blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
#[inline]
fn transpose(x: &[__m512i; 16]) -> [__m512i; 16] {
    // Four words of four blocks each.
    let z = [
        transpose4([x[0], x[1], x[2], x[3]]),
        transpose4([x[4], x[5], x[6], x[7]]),
        transpose4([x[8], x[9], x[10], x[11]]),
        transpose4([x[12], x[13], x[14], x[15]]),
    ];
    let mut blocks = *x;
    for j in 0..4 {
        let a = _mm512_shuffle_i32x4::<0b01_00_01_00>(z[0][j], z[1][j]);
        let b = _mm512_shuffle_i32x4::<0b01_00_01_00>(z[2][j], z[3][j]);
        let c = _mm512_shuffle_i32x4::<0b11_10_11_10>(z[0][j], z[1][j]);
        let d = _mm512_shuffle_i32x4::<0b11_10_11_10>(z[2][j], z[3][j]);
        blocks[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b);
        blocks[4 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b);
        blocks[8 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(c, d);
        blocks[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d);
    }
    blocks
}

/// Within each 128-bit piece.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
#[inline]
fn transpose4([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    [
        _mm512_unpacklo_epi64(ab_low, cd_low),
        _mm512_unpackhi_epi64(ab_low, cd_low),
        _mm512_unpacklo_epi64(ab_high, cd_high),
        _mm512_unpackhi_epi64(ab_high, cd_high),
    ]
}

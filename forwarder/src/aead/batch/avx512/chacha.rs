//! `ChaCha20` (RFC 8439, section 2.3): sixteen blocks in the lanes of sixteen registers, register `i`
//! has word `i` of every block. Two such sets fill all registers, and neither waits for itself.

#[allow(clippy::wildcard_imports)] // every line is an intrinsic
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::super::packet::{BLOCK, Packet};
use super::keys::Keys;
use super::lanes::{LANES, Room, Set, Start, Walk};
use super::table::Table;

const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// Two sets at most, which go through the rounds together.
struct Pass {
    starts: [MaybeUninit<Start>; 2],
    rooms: [Room; 2],
    sets: [Option<Set>; 2],
}

/// Encrypts the texts of all packets, and takes the one-time keys from their first blocks.
///
/// # Safety
/// The processor has the features. Sources can be read, destinations can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
pub unsafe fn encrypt(packets: &[Packet], table: &Table, keys: &mut Keys) {
    let (mut now, mut next) = (&mut Pass::new(), &mut Pass::new());
    // SAFETY: the caller's promise.
    unsafe {
        let walk = &mut Walk::new(packets, table);
        now.fill(walk);
        while now.sets[0].is_some() {
            // Early, so that the rounds do not wait for what is still being written.
            next.fill(walk);
            now.run(packets, table, keys);
            (now, next) = (next, now);
        }
    }
}

impl Pass {
    fn new() -> Self {
        let room = || Room { keys: MaybeUninit::uninit(), text: MaybeUninit::uninit() };
        Self { starts: [const { MaybeUninit::uninit() }; 2], rooms: [room(), room()], sets: [None; 2] }
    }

    /// Takes the next sets.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
    #[inline]
    unsafe fn fill(&mut self, walk: &mut Walk<'_>) {
        for ((start, room), set) in self.starts.iter_mut().zip(&mut self.rooms).zip(&mut self.sets) {
            // SAFETY: the caller's promise.
            *set = unsafe { walk.next(room) }.map(|(set, at)| {
                start.write(at);
                set
            });
        }
    }

    /// # Safety
    /// As above, and there is a set.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
    #[inline]
    unsafe fn run(&self, packets: &[Packet], table: &Table, keys: &mut Keys) {
        let ([a, b], [Some(set_a), set_b]) = (&self.starts, self.sets) else { return };
        let mut second = MaybeUninit::<[__m512i; 16]>::uninit();
        // SAFETY: sets have their starts; the second words are there if the second set is.
        unsafe {
            let a = a.assume_init_ref();
            let first = if set_b.is_some() {
                wide(a, b.assume_init_ref(), second.as_mut_ptr().cast())
            } else {
                narrow(a)
            };
            output::<0>(packets, table, set_a, a.source, &first, keys);
            if let Some(set_b) = set_b {
                output::<1>(
                    packets,
                    table,
                    set_b,
                    b.assume_init_ref().source,
                    second.assume_init_ref(),
                    keys,
                );
            }
        }
    }
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
///
/// # Safety
/// The key can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
#[inline]
unsafe fn narrow(start: &Start) -> [__m512i; 16] {
    let c = CONSTANTS.map(|word| _mm512_set1_epi32(word.cast_signed()));
    // SAFETY: the caller's promise.
    let k = unsafe { &*start.key };
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

/// Of some columns: `a += b; d ^= a; d <<<= by`.
macro_rules! step {
    ($by:literal $([$a:tt $b:tt $d:tt])*) => {
        concat!($(each!("vpaddd" $a $b), each!("vpxord" $d $a), rotate!($d $by)),*)
    };
}

/// Quarter rounds of some columns, two and two: so, rotations, which two of the four vector units do,
/// meet with additions.
macro_rules! half_round {
    ($([$a:tt $b:tt $c:tt $d:tt])*) => {
        concat!(
            step!(16 $([$a $b $d])*), step!(12 $([$c $d $b])*),
            step!(8 $([$a $b $d])*), step!(7 $([$c $d $b])*),
        )
    };
}

macro_rules! constants {
    ($($x:literal $y:literal $at:literal),*) => {
        concat!($("vpbroadcastd zmm", $x, ", dword ptr [{c} + ", $at, "]\nvmovdqa64 zmm", $y, ", zmm", $x, "\n"),*)
    };
}

macro_rules! load {
    ($from:literal $($x:literal $at:literal),*) => {
        concat!($("vmovdqa64 zmm", $x, ", zmmword ptr [{", $from, "} + ", $at, "]\n"),*)
    };
}

macro_rules! add {
    ($from:literal $($x:literal $at:literal),*) => {
        concat!($("vpaddd zmm", $x, ", zmm", $x, ", zmmword ptr [{", $from, "} + ", $at, "]\n"),*)
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
/// Keys can be read; the end can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
#[inline]
unsafe fn wide(a: &Start, b: &Start, second: *mut __m512i) -> [__m512i; 16] {
    let mut x = [_mm512_setzero_si512(); 16];
    // SAFETY: reads the constants, two keys of 8 registers and two starts of 3, writes 16 registers.
    unsafe {
        std::arch::asm!(
            constants!(0 16 0, 1 17 4, 2 18 8, 3 19 12),
            load!("ka" 4 0, 5 64, 6 128, 7 192, 8 256, 9 320, 10 384, 11 448),
            load!("kb" 20 0, 21 64, 22 128, 23 192, 24 256, 25 320, 26 384, 27 448),
            load!("a" 12 0, 14 64, 15 128),
            load!("b" 28 0, 30 64, 31 128),
            "vpxord zmm13, zmm13, zmm13",
            "vpxord zmm29, zmm29, zmm29",
            "mov {n:e}, 10",
            ".p2align 6",
            "2:",
            half_round!(
                [[0 1] [4 5] [8 9] [12 13]] [[2 3] [6 7] [10 11] [14 15]]
                [[16 17] [20 21] [24 25] [28 29]] [[18 19] [22 23] [26 27] [30 31]]
            ),
            half_round!(
                [[0 1] [5 6] [10 11] [15 12]] [[2 3] [7 4] [8 9] [13 14]]
                [[16 17] [21 22] [26 27] [31 28]] [[18 19] [23 20] [24 25] [29 30]]
            ),
            "dec {n:e}",
            "jnz 2b",
            add_constants!(0 0, 1 4, 2 8, 3 12, 16 0, 17 4, 18 8, 19 12),
            add!("ka" 4 0, 5 64, 6 128, 7 192, 8 256, 9 320, 10 384, 11 448),
            add!("kb" 20 0, 21 64, 22 128, 23 192, 24 256, 25 320, 26 384, 27 448),
            add!("a" 12 0, 14 64, 15 128),
            add!("b" 28 0, 30 64, 31 128),
            store!(16 0, 17 64, 18 128, 19 192, 20 256, 21 320, 22 384, 23 448),
            store!(24 512, 25 576, 26 640, 27 704, 28 768, 29 832, 30 896, 31 960),
            c = in(reg) CONSTANTS.as_ptr(),
            a = in(reg) a,
            b = in(reg) b,
            ka = in(reg) a.key,
            kb = in(reg) b.key,
            e = in(reg) second,
            n = out(reg) _,
            out("zmm0") x[0], out("zmm1") x[1], out("zmm2") x[2], out("zmm3") x[3],
            out("zmm4") x[4], out("zmm5") x[5], out("zmm6") x[6], out("zmm7") x[7],
            out("zmm8") x[8], out("zmm9") x[9], out("zmm10") x[10], out("zmm11") x[11],
            out("zmm12") x[12], out("zmm13") x[13], out("zmm14") x[14], out("zmm15") x[15],
            out("zmm16") _, out("zmm17") _, out("zmm18") _, out("zmm19") _,
            out("zmm20") _, out("zmm21") _, out("zmm22") _, out("zmm23") _,
            out("zmm24") _, out("zmm25") _, out("zmm26") _, out("zmm27") _,
            out("zmm28") _, out("zmm29") _, out("zmm30") _, out("zmm31") _,
            options(nostack),
        );
    }
    x
}

/// Takes key blocks from a set, and encrypts its texts with the others.
///
/// Written once for each of a pass's sets, so that a compiler puts it where the words are in registers.
///
/// # Safety
/// Sources can be read, destinations can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
#[inline]
unsafe fn output<const SET: usize>(
    packets: &[Packet],
    table: &Table,
    set: Set,
    source: *const u8,
    words: &[__m512i; 16],
    keys: &mut Keys,
) {
    let lane = match set {
        Set::Mixed(lane) => lane,
        Set::Whole(packet, first) => {
            let destination = packets[packet].destination.wrapping_add(first.wrapping_mul(BLOCK));
            for (i, block) in transpose(words).into_iter().enumerate() {
                // SAFETY: the text is that long.
                unsafe { whole_block(source.add(i * BLOCK), destination.add(i * BLOCK), block) };
            }
            return;
        }
    };
    if lane < table.keys {
        keys.put(lane / LANES, words);
        if table.keys.min(lane + LANES) == table.end.min(lane + LANES) {
            return;
        }
    }
    let blocks = transpose(words);
    // Not in a loop, which would take the blocks from memory.
    macro_rules! lanes {
        ($($i:literal)*) => {
            $(if lane + $i >= table.keys && lane + $i < table.end {
                // SAFETY: there is that lane.
                let packet = unsafe { table.packet(lane + $i) };
                let block = table.first[packet].wrapping_add((lane + $i) as u32) as usize;
                // SAFETY: the table is of these packets.
                unsafe { text_block(packets.get_unchecked(packet), block.wrapping_mul(BLOCK), blocks[$i]) };
            })*
        };
    }
    lanes!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
}

/// Encrypts a packet's text from byte `at` on: a whole block, or as much as there is.
///
/// # Safety
/// The source can be read, the destination can be written.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi2")]
#[inline]
unsafe fn text_block(packet: &Packet, at: usize, block: __m512i) {
    let (source, destination) = (packet.source.wrapping_add(at), packet.destination.wrapping_add(at));
    // SAFETY: the caller's promise.
    unsafe {
        if at.wrapping_add(BLOCK) <= packet.source_len {
            whole_block(source, destination, block);
        } else {
            let text = _mm512_maskz_loadu_epi8(mask(packet.source_len.saturating_sub(at)), source.cast());
            let wanted = mask(packet.len.saturating_sub(at));
            _mm512_mask_storeu_epi8(destination.cast(), wanted, _mm512_xor_si512(block, text));
        }
    }
}

/// Encrypts a block.
///
/// # Safety
/// It can be read, and written.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn whole_block(source: *const u8, destination: *mut u8, block: __m512i) {
    // SAFETY: the caller's promise.
    unsafe {
        let text = _mm512_loadu_si512(source.cast());
        _mm512_storeu_si512(destination.cast(), _mm512_xor_si512(block, text));
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

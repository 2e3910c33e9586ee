//! Poly1305 (RFC 8439, section 2.5) of eight packets in the lanes of IFMA registers; no power of `r` is
//! needed, since every lane is a packet of its own.
//!
//! Numbers are three limbs of 44, 44 and 42 bits. Between blocks the first may have up to 51 bits, which
//! leaves products of 52 bits each and sums of 64 far from their ends:
//! `h0 < 2^51`, `h1 < 2^45`, `h2 < 2^43`, `r0, r1 < 2^44`, `r2 < 2^36`, `20 r1 < 2^49`, `20 r2 < 2^41`; and the
//! upper halves of the third sum are below 2^38, so that `5 * 2^10` of them are below 2^51.

#[allow(clippy::wildcard_imports)] // every line is an intrinsic
use std::arch::x86_64::*;

use super::super::Tags;
use super::super::packet::Packets;
use super::keys::{Key, Keys};
use super::table::Table;

/// Bytes of a block.
const BLOCK: usize = 16;

/// Bits of the lower limbs, and of the upper one.
const LIMB: i64 = (1 << 44) - 1;
const TOP: i64 = (1 << 42) - 1;

/// The accumulators and multipliers of eight packets.
#[derive(Clone, Copy)]
struct Group {
    h: [__m512i; 3],
    r: [__m512i; 3],
    /// `20 r1` and `20 r2`: what comes out above 2^132 comes back below.
    s: [__m512i; 2],
}

/// What eight packets authenticate.
#[derive(Clone, Copy)]
struct Texts<'a> {
    packets: &'a Packets,
    /// The lengths, once more.
    lens: __m512i,
}

/// Computes the tags of the packets. `keys` are theirs.
///
/// # Safety
/// The processor has the features. The ciphertexts can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
pub unsafe fn tags(packets: &[Packets], table: &Table, keys: &Keys, tags: *mut Tags) {
    // SAFETY: the caller's promise.
    unsafe {
        for (i, pair) in packets.chunks(2).enumerate() {
            let tags = tags.cast::<[__m512i; 2]>().wrapping_add(2 * i);
            let text = |group: usize| Texts { packets: &pair[group], lens: table.lens[2 * i + group] };
            let key = keys.group(2 * i);
            if pair.len() == 2 {
                let [a, b] = two([key, keys.group(2 * i + 1)], [text(0), text(1)]);
                write(a, tags);
                write(b, tags.wrapping_add(1));
            } else {
                let texts = text(0);
                write(Group::new(&key).absorb(&texts, 0).finish(texts.lens, key.s), tags);
            }
        }
    }
}

/// The tags of two groups. Their blocks take turns as long as all packets have some: one group alone would
/// wait for its own multiplications.
///
/// # Safety
/// The texts can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
#[inline]
unsafe fn two([key_a, key_b]: [Key; 2], [texts_a, texts_b]: [Texts<'_>; 2]) -> [[__m512i; 2]; 2] {
    let (mut a, mut b) = (Group::new(&key_a), Group::new(&key_b));
    let blocks = texts_a.least().min(texts_b.least());
    for i in 0..blocks {
        // SAFETY: all of them have this block.
        unsafe {
            a.block(texts_a.blocks(i));
            b.block(texts_b.blocks(i));
        }
    }
    // SAFETY: the caller's promise.
    unsafe {
        if !texts_a.end_at(blocks) {
            a = a.absorb(&texts_a, blocks);
        }
        if !texts_b.end_at(blocks) {
            b = b.absorb(&texts_b, blocks);
        }
    }
    [a.finish(texts_a.lens, key_a.s), b.finish(texts_b.lens, key_b.s)]
}

/// Eight blocks as their lower and their upper halves.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
#[inline]
pub fn gather(block: impl Fn(usize) -> __m128i) -> [__m512i; 2] {
    let four = |i: usize| {
        let x = _mm512_castsi128_si512(block(i));
        let x = _mm512_mask_broadcast_i64x2(x, 0b0000_1100, block(i + 2));
        let x = _mm512_mask_broadcast_i64x2(x, 0b0011_0000, block(i + 4));
        _mm512_mask_broadcast_i64x2(x, 0b1100_0000, block(i + 6))
    };
    let (even, odd) = (four(0), four(1));
    [_mm512_unpacklo_epi64(even, odd), _mm512_unpackhi_epi64(even, odd)]
}

/// 128 bits in limbs of 44, 44 and 40 bits.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
#[inline]
fn limbs([low, high]: [__m512i; 2]) -> [__m512i; 3] {
    let limb = _mm512_set1_epi64(LIMB);
    let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
    [_mm512_and_si512(low, limb), _mm512_and_si512(middle, limb), _mm512_srli_epi64::<24>(high)]
}

impl Texts<'_> {
    /// Whole blocks that all texts have.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn least(&self) -> usize {
        _mm512_reduce_min_epu64(self.lens) as usize / BLOCK
    }

    /// Whole blocks of the longest text.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn most(&self) -> usize {
        _mm512_reduce_max_epu64(self.lens) as usize / BLOCK
    }

    /// Whether all have that many blocks, and no part of another one.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn end_at(&self, blocks: usize) -> bool {
        _mm512_cmpneq_epi64_mask(self.lens, _mm512_set1_epi64(((blocks * BLOCK) as u64).cast_signed())) == 0
    }

    /// Block `i` of each text.
    ///
    /// # Safety
    /// All have it.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    unsafe fn blocks(&self, i: usize) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        gather(|lane| unsafe { _mm_loadu_si128(self.packets[lane].ciphertext.add(i * BLOCK).cast()) })
    }
}

impl Group {
    /// Eight packets at their beginning.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    fn new(key: &Key) -> Self {
        let [low, high] = key.r;
        let low = _mm512_and_si512(low, _mm512_set1_epi64(0x0fff_fffc_0fff_ffff));
        let high = _mm512_and_si512(high, _mm512_set1_epi64(0x0fff_fffc_0fff_fffc));
        let r = limbs([low, high]);
        let times20 = |x| {
            let five = _mm512_add_epi64(x, _mm512_slli_epi64::<2>(x));
            _mm512_slli_epi64::<2>(five)
        };
        Self { h: [_mm512_setzero_si512(); 3], r, s: [times20(r[1]), times20(r[2])] }
    }

    /// `h = (h + text + 2^128) r`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    fn block(&mut self, text: [__m512i; 2]) {
        let limb = _mm512_set1_epi64(LIMB);
        let [m0, m1, m2] = limbs(text);
        let h0 = _mm512_add_epi64(self.h[0], m0);
        let h1 = _mm512_add_epi64(self.h[1], m1);
        let h2 = _mm512_add_epi64(self.h[2], _mm512_or_si512(m2, _mm512_set1_epi64(1 << 40)));
        let ([r0, r1, r2], [s1, s2]) = (self.r, self.s);
        let zero = _mm512_setzero_si512();
        let low = |a, x, b, y, c, z| {
            let sum = _mm512_madd52lo_epu64(zero, a, x);
            _mm512_madd52lo_epu64(_mm512_madd52lo_epu64(sum, b, y), c, z)
        };
        let high = |a, x, b, y, c, z| {
            let sum = _mm512_madd52hi_epu64(zero, a, x);
            _mm512_madd52hi_epu64(_mm512_madd52hi_epu64(sum, b, y), c, z)
        };
        // In the order in which they come from the block before.
        let (l0, u0) = (low(h1, s2, h2, s1, h0, r0), high(h1, s2, h2, s1, h0, r0));
        let (l1, u1) = (low(h1, r0, h2, s2, h0, r1), high(h1, r0, h2, s2, h0, r1));
        let (l2, u2) = (low(h1, r1, h2, r0, h0, r2), high(h1, r1, h2, r0, h0, r2));
        // The upper halves count 2^52, which is 2^8 of the next limb, or 2^10 times 2^130 for the last.
        let d1 = _mm512_add_epi64(l1, _mm512_slli_epi64::<8>(u0));
        let d2 = _mm512_add_epi64(l2, _mm512_slli_epi64::<8>(u1));
        let d1 = _mm512_add_epi64(d1, _mm512_srli_epi64::<44>(l0));
        let d2 = _mm512_add_epi64(d2, _mm512_srli_epi64::<44>(d1));
        // 2^130 is 5.
        let h0 = _mm512_madd52lo_epu64(_mm512_and_si512(l0, limb), u2, _mm512_set1_epi64(5 << 10));
        self.h = [
            _mm512_madd52lo_epu64(h0, _mm512_srli_epi64::<42>(d2), _mm512_set1_epi64(5)),
            _mm512_and_si512(d1, limb),
            _mm512_and_si512(d2, _mm512_set1_epi64(TOP)),
        ];
    }

    /// The same for some lanes; the others stay.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    fn masked_block(&mut self, text: [__m512i; 2], mask: u8) {
        let before = self.h;
        self.block(text);
        for (h, before) in self.h.iter_mut().zip(before) {
            *h = _mm512_mask_mov_epi64(before, mask, *h);
        }
    }

    /// All blocks from `from` on: those that all texts have, those that only some have, the parts of blocks.
    ///
    /// # Safety
    /// The texts can be read.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline(never)]
    unsafe fn absorb(mut self, texts: &Texts<'_>, from: usize) -> Self {
        let (least, most) = (texts.least(), texts.most());
        for i in from..least {
            // SAFETY: all of them have this block.
            self.block(unsafe { texts.blocks(i) });
        }
        let rests = _mm512_test_epi64_mask(texts.lens, _mm512_set1_epi64((BLOCK as u64 - 1).cast_signed()));
        // SAFETY: the caller's promise.
        unsafe {
            if most > least {
                self = self.some(texts, least, most);
            }
            if rests != 0 {
                self = self.rests(texts, rests);
            }
        }
        self
    }

    /// Blocks `from` to `to`, as far as texts have them.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    unsafe fn some(mut self, texts: &Texts<'_>, from: usize, to: usize) -> Self {
        static NOTHING: [u8; BLOCK] = [0; BLOCK];
        let blocks = _mm512_srli_epi64::<4>(texts.lens);
        // A lane that has come to its end reads its last block again and again.
        let last = texts.packets.map(|packet| (packet.len / BLOCK).saturating_sub(1) * BLOCK);
        let start =
            texts.packets.map(|packet| if packet.len < BLOCK { NOTHING.as_ptr() } else { packet.ciphertext });
        for i in from..to {
            let mask = _mm512_cmpgt_epu64_mask(blocks, _mm512_set1_epi64(i.cast_signed() as i64));
            let block = |lane: usize| {
                // SAFETY: this block, or an earlier one.
                unsafe { _mm_loadu_si128(start[lane].add(last[lane].min(i * BLOCK)).cast()) }
            };
            self.masked_block(gather(block), mask);
        }
        self
    }

    /// The parts of blocks with which texts end, where they do so.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    unsafe fn rests(mut self, texts: &Texts<'_>, mask: u8) -> Self {
        let part = |lane: usize| {
            let packet = &texts.packets[lane];
            let (len, rest) = (packet.len, packet.len % BLOCK);
            let mask = (1_u16 << rest).wrapping_sub(1);
            // SAFETY: reads what there is.
            unsafe { _mm_maskz_loadu_epi8(mask, packet.ciphertext.wrapping_add(len - rest).cast()) }
        };
        self.masked_block(gather(part), mask);
        self
    }

    /// The last block, and the tags.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    fn finish(mut self, lens: __m512i, s: [__m512i; 2]) -> [__m512i; 2] {
        // The associated data is empty: its length, the lower half, is 0.
        self.block([_mm512_setzero_si512(), lens]);
        self.tags(s)
    }

    /// The accumulators modulo 2^130 - 5, and the second halves of the keys, are the tags.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    fn tags(self, [s_low, s_high]: [__m512i; 2]) -> [__m512i; 2] {
        let (limb, top) = (_mm512_set1_epi64(LIMB), _mm512_set1_epi64(TOP));
        let add = |x, y| _mm512_add_epi64(x, y);
        let and = |x, y| _mm512_and_si512(x, y);
        // Twice around: what the first leaves above 2^130 is one at most.
        let [mut h0, mut h1, mut h2] = self.h;
        for _ in 0..2 {
            h1 = add(h1, _mm512_srli_epi64::<44>(h0));
            h2 = add(h2, _mm512_srli_epi64::<44>(h1));
            let over = _mm512_srli_epi64::<42>(h2);
            h0 = add(and(h0, limb), add(over, _mm512_slli_epi64::<2>(over)));
            (h1, h2) = (and(h1, limb), and(h2, top));
        }
        // h + 5, which reaches 2^130 if h is not below the modulus.
        let g0 = add(h0, _mm512_set1_epi64(5));
        let g1 = add(h1, _mm512_srli_epi64::<44>(g0));
        let g2 = add(h2, _mm512_srli_epi64::<44>(g1));
        let reduce = _mm512_cmpgt_epu64_mask(g2, top);
        let h0 = _mm512_mask_and_epi64(h0, reduce, g0, limb);
        let h1 = _mm512_mask_and_epi64(h1, reduce, g1, limb);
        let h2 = _mm512_mask_and_epi64(h2, reduce, g2, top);
        let low = _mm512_or_si512(h0, _mm512_slli_epi64::<44>(h1));
        let high = _mm512_or_si512(_mm512_srli_epi64::<20>(h1), _mm512_slli_epi64::<24>(h2));
        let low = add(low, s_low);
        let carry = _mm512_cmplt_epu64_mask(low, s_low);
        let high = add(high, s_high);
        [low, _mm512_mask_add_epi64(high, carry, high, _mm512_set1_epi64(1))]
    }
}

/// Writes the tags of eight packets, given in halves.
///
/// # Safety
/// There is room.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn write([low, high]: [__m512i; 2], tags: *mut [__m512i; 2]) {
    let first = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), high);
    let second = _mm512_permutex2var_epi64(low, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), high);
    // SAFETY: the caller's promise.
    unsafe { tags.write_unaligned([first, second]) };
}

#[cfg(test)]
mod tests {
    use super::super::super::packet::TOGETHER as LANES;
    use super::*;

    /// Accumulators around the modulus, which random packets hardly ever reach.
    #[test]
    fn the_accumulator_is_fully_reduced() {
        if super::super::super::avx512().is_none() {
            return;
        }
        let limb = (1_u64 << 44) - 1;
        // 2^130 - 5 + i, as it is and with everything above the first limbs still to be carried.
        for unreduced in [false, true] {
            let value = |i: u64| match (i < 5, unreduced) {
                (true, false) => [limb - 4 + i, limb, (1 << 42) - 1],
                (true, true) => [(1 << 44) + limb - 4 + i, limb - 1, (1 << 42) - 1],
                (false, false) => [i - 5, 0, 1 << 42],
                (false, true) => [(1 << 44) + i - 5, limb, (1 << 42) - 1],
            };
            // SAFETY: the processor has the features.
            unsafe { check(std::array::from_fn(|i| value(i as u64)), |i| i) };
            // Just below.
            let below = |i: u64| [limb - 5 - i, limb, (1 << 42) - 1];
            // SAFETY: as above.
            unsafe { check(std::array::from_fn(|i| below(i as u64)), |i| 0_u128.wrapping_sub(6 + i)) };
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    fn check(values: [[u64; 3]; LANES], expected: impl Fn(u128) -> u128) {
        // The second half of a key is added, with its carry.
        let s = [u64::MAX, 7].map(|half| _mm512_set1_epi64(half.cast_signed()));
        let mut group = Group::new(&Key { r: s, s });
        for (limb, h) in group.h.iter_mut().enumerate() {
            let words: [u64; LANES] = std::array::from_fn(|i| values[i][limb]);
            // SAFETY: eight words are a register.
            *h = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        }
        let mut tags = [[0; 16]; LANES];
        // SAFETY: there is room for eight.
        unsafe { write(group.tags(s), tags.as_mut_ptr().cast()) };
        for (i, tag) in tags.iter().enumerate() {
            let s = 7_u128 << 64 | u128::from(u64::MAX);
            assert_eq!(u128::from_le_bytes(*tag), expected(i as u128).wrapping_add(s), "lane {i}");
        }
    }
}

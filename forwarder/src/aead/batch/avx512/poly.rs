//! Poly1305 (RFC 8439, section 2.5) of eight packets in the lanes of IFMA registers; no power of `r` is
//! needed, since every lane is a packet of its own.
//!
//! Numbers are three limbs of 44, 44 and 42 bits. Between blocks the first may have up to 51 bits, which
//! leaves products of 52 bits each and sums of 64 far from their ends:
//! `h0 < 2^51`, `h1 < 2^45`, `h2 < 2^43`, `r0, r1 < 2^44`, `r2 < 2^36`, `20 r1 < 2^49`, `20 r2 < 2^41`.

#[allow(clippy::wildcard_imports)] // every line is an intrinsic
use std::arch::x86_64::*;

use super::super::GROUP;
use super::super::plan::Packet;

/// Packets of a group.
pub const LANES: usize = 8;

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

/// Where eight packets' next blocks are.
struct Cursors {
    text: [*const u8; LANES],
    /// Whole blocks left.
    whole: [usize; LANES],
    /// The last part of a block, padded, and the lengths.
    end: [[u8; 2 * BLOCK]; LANES],
    /// Where in `end` the packet's last blocks begin.
    end_at: [usize; LANES],
}

/// Computes the tags of at most 16 packets. `keys` has the first block of each.
///
/// # Safety
/// The processor has the features. The ciphertexts can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
pub unsafe fn tags(packets: &[Packet], keys: &[[u64; 8]; GROUP], tags: &mut [[u8; 16]]) {
    let (first, second) = packets.split_at(packets.len().min(LANES));
    let (keys_a, keys_b) = keys.split_at(LANES);
    let (tags_a, tags_b) = tags.split_at_mut(first.len());
    // SAFETY: the caller's promise; the cursors are those of the packets.
    unsafe {
        let (mut a, mut at_a) = (Group::new(keys_a), Cursors::new(first));
        if second.is_empty() {
            a.blocks(&mut at_a);
        } else {
            let (mut b, mut at_b) = (Group::new(keys_b), Cursors::new(second));
            both(&mut a, &mut at_a, &mut b, &mut at_b);
            b.blocks(&mut at_b);
            b.ends(&mut at_b);
            b.finish(keys_b, tags_b);
        }
        a.ends(&mut at_a);
        a.finish(keys_a, tags_a);
    }
}

/// Whole blocks of both groups in turn, as long as every packet has one.
///
/// # Safety
/// The cursors are at texts that can be read.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
#[inline]
unsafe fn both(a: &mut Group, at_a: &mut Cursors, b: &mut Group, at_b: &mut Cursors) {
    let blocks = at_a.common().min(at_b.common());
    let (mut x, mut y) = (*a, *b);
    for i in 0..blocks {
        // SAFETY: every packet has that many.
        unsafe {
            x.block(gather(&at_a.text, i * BLOCK));
            y.block(gather(&at_b.text, i * BLOCK));
        }
    }
    (*a, *b) = (x, y);
    at_a.skip(blocks);
    at_b.skip(blocks);
}

/// Eight blocks as their lower and their upper halves.
///
/// # Safety
/// Each text has 16 bytes at `at`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
#[inline]
unsafe fn gather(text: &[*const u8; LANES], at: usize) -> [__m512i; 2] {
    // SAFETY: the caller's promise.
    let block = |i: usize| unsafe { _mm_loadu_si128(text[i].add(at).cast()) };
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

impl Group {
    /// Eight packets. `r` are the first 16 bytes of their keys.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    fn new(keys: &[[u64; 8]]) -> Self {
        // SAFETY: there are eight keys of 64 bytes.
        let [low, high] = unsafe { gather(&std::array::from_fn(|i| keys[i].as_ptr().cast()), 0) };
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
        let (l0, u0) = (low(h2, s1, h1, s2, h0, r0), high(h2, s1, h1, s2, h0, r0));
        let (l1, u1) = (low(h2, s2, h1, r0, h0, r1), high(h2, s2, h1, r0, h0, r1));
        let (l2, u2) = (low(h2, r0, h1, r1, h0, r2), high(h2, r0, h1, r1, h0, r2));
        // The upper halves count 2^52, which is 2^8 of the next limb, or 2^10 times 2^130 for the last.
        let d1 = _mm512_add_epi64(l1, _mm512_slli_epi64::<8>(u0));
        let d2 = _mm512_add_epi64(l2, _mm512_slli_epi64::<8>(u1));
        let d1 = _mm512_add_epi64(d1, _mm512_srli_epi64::<44>(l0));
        let d2 = _mm512_add_epi64(d2, _mm512_srli_epi64::<44>(d1));
        let over = _mm512_add_epi64(_mm512_slli_epi64::<10>(u2), _mm512_srli_epi64::<42>(d2));
        let over = _mm512_add_epi64(over, _mm512_slli_epi64::<2>(over));
        self.h = [
            _mm512_add_epi64(_mm512_and_si512(l0, limb), over),
            _mm512_and_si512(d1, limb),
            _mm512_and_si512(d2, _mm512_set1_epi64(TOP)),
        ];
    }

    /// Whole blocks, as long as every packet has one.
    ///
    /// # Safety
    /// The cursors are at texts that can be read.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    unsafe fn blocks(&mut self, at: &mut Cursors) {
        let mut x = *self;
        let blocks = at.common();
        for i in 0..blocks {
            // SAFETY: every packet has that many.
            x.block(unsafe { gather(&at.text, i * BLOCK) });
        }
        *self = x;
        at.skip(blocks);
    }

    /// The rest of every packet.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    unsafe fn ends(&mut self, at: &mut Cursors) {
        for _ in 0..at.most() {
            let mut text = at.text;
            let mut mask = 0;
            for (i, text) in text.iter_mut().enumerate() {
                mask |= u8::from(at.advance(i, text)) << i;
            }
            let before = self.h;
            // SAFETY: a whole block of the text, or of the padded end.
            self.block(unsafe { gather(&text, 0) });
            for (h, before) in self.h.iter_mut().zip(before) {
                *h = _mm512_mask_mov_epi64(before, mask, *h);
            }
        }
    }

    /// The accumulators modulo 2^130 - 5, and the second halves of the keys, are the tags.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    fn finish(&self, keys: &[[u64; 8]], tags: &mut [[u8; 16]]) {
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
        // SAFETY: as in `new`.
        let [s_low, s_high] = unsafe { gather(&std::array::from_fn(|i| keys[i][2..].as_ptr().cast()), 0) };
        let low = add(low, s_low);
        let carry = _mm512_cmplt_epu64_mask(low, s_low);
        let high = add(high, s_high);
        let high = _mm512_mask_add_epi64(high, carry, high, _mm512_set1_epi64(1));
        let mut words = [[0_u64; LANES]; 2];
        // SAFETY: each has room for a register.
        unsafe {
            _mm512_storeu_si512(words[0].as_mut_ptr().cast(), low);
            _mm512_storeu_si512(words[1].as_mut_ptr().cast(), high);
        }
        for (i, tag) in tags.iter_mut().enumerate() {
            *tag = (u128::from(words[1][i]) << 64 | u128::from(words[0][i])).to_le_bytes();
        }
    }
}

impl Cursors {
    /// Lanes without a packet read the first one's text as often as it can be read.
    ///
    /// # Safety
    /// The ciphertexts can be read.
    #[inline]
    unsafe fn new(packets: &[Packet]) -> Self {
        let mut cursors = Self {
            text: [packets[0].ciphertext; LANES],
            whole: [packets[0].len / BLOCK; LANES],
            end: [[0; 2 * BLOCK]; LANES],
            end_at: [2 * BLOCK; LANES],
        };
        for (i, packet) in packets.iter().enumerate() {
            let rest = packet.len % BLOCK;
            cursors.text[i] = packet.ciphertext;
            cursors.whole[i] = packet.len / BLOCK;
            cursors.end_at[i] = if rest > 0 { 0 } else { BLOCK };
            // SAFETY: the text goes on that far.
            let end = unsafe { std::slice::from_raw_parts(packet.ciphertext.add(packet.len - rest), rest) };
            cursors.end[i][..rest].copy_from_slice(end);
            // The associated data is empty.
            cursors.end[i][BLOCK + 8..].copy_from_slice(&(packet.len as u64).to_le_bytes());
        }
        cursors
    }

    fn common(&self) -> usize {
        self.whole.into_iter().min().unwrap_or(0)
    }

    /// Blocks of the packet that has most left, its last ones included.
    fn most(&self) -> usize {
        let left = |i: usize| self.whole[i] + (2 * BLOCK - self.end_at[i]) / BLOCK;
        (0..LANES).map(left).max().unwrap_or(0)
    }

    #[inline]
    fn skip(&mut self, blocks: usize) {
        for (text, whole) in self.text.iter_mut().zip(&mut self.whole) {
            *text = text.wrapping_add(blocks * BLOCK);
            *whole -= blocks;
        }
    }

    /// Where a lane's next block is, if it has one.
    #[inline]
    fn advance(&mut self, i: usize, text: &mut *const u8) -> bool {
        if self.whole[i] > 0 {
            self.whole[i] -= 1;
            *text = self.text[i];
            self.text[i] = text.wrapping_add(BLOCK);
            return true;
        }
        let at = self.end_at[i];
        if at == 2 * BLOCK {
            *text = self.end[i].as_ptr();
            return false;
        }
        *text = self.end[i][at..].as_ptr();
        self.end_at[i] += BLOCK;
        true
    }
}

#[cfg(test)]
mod tests {
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
        let keys = [[0, 0, u64::MAX, 7, 0, 0, 0, 0]; LANES];
        let mut group = Group::new(&keys);
        for (limb, h) in group.h.iter_mut().enumerate() {
            let words: [u64; LANES] = std::array::from_fn(|i| values[i][limb]);
            // SAFETY: eight words are a register.
            *h = unsafe { _mm512_loadu_si512(words.as_ptr().cast()) };
        }
        let mut tags = [[0; 16]; LANES];
        group.finish(&keys, &mut tags);
        for (i, tag) in tags.iter().enumerate() {
            let s = 7_u128 << 64 | u128::from(u64::MAX);
            assert_eq!(u128::from_le_bytes(*tag), expected(i as u128).wrapping_add(s), "lane {i}");
        }
    }
}

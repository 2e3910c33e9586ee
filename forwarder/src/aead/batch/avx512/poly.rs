//! Poly1305 (RFC 8439, section 2.5) of eight packets in the lanes of IFMA registers; no power of `r` is
//! needed, since every lane is a packet of its own.
//!
//! Numbers are three limbs of 44, 44 and 42 bits. Between blocks the first may have up to 51 bits, which
//! leaves products of 52 bits each and sums of 64 far from their ends:
//! `h0 < 2^51`, `h1 < 2^45`, `h2 < 2^43`, `r0, r1 < 2^44`, `r2 < 2^36`, `20 r1 < 2^49`, `20 r2 < 2^41`.

use std::arch::x86_64::*;

use super::super::GROUP;
use super::super::plan::Packet;

/// Packets of a group.
const LANES: usize = 8;

/// Bytes of a block.
const BLOCK: usize = 16;

const LIMB: u64 = (1 << 44) - 1;

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
    let split = packets.len().min(LANES);
    let (first, second) = packets.split_at(split);
    let mut a = Group::new(&keys[..LANES]);
    let mut at_a = Cursors::new(first);
    if second.is_empty() {
        unsafe { a.blocks(&mut at_a) };
        unsafe { a.ends(&mut at_a) };
    } else {
        let mut b = Group::new(&keys[LANES..]);
        let mut at_b = Cursors::new(second);
        unsafe {
            both(&mut a, &mut at_a, &mut b, &mut at_b);
            a.ends(&mut at_a);
            b.blocks(&mut at_b);
            b.ends(&mut at_b);
        }
        b.finish(&keys[LANES..], &mut tags[LANES..]);
    }
    a.finish(&keys[..LANES], &mut tags[..split]);
}

/// Whole blocks, as long as every packet has one.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
#[inline]
unsafe fn both(a: &mut Group, at_a: &mut Cursors, b: &mut Group, at_b: &mut Cursors) {
    let blocks = at_a.common().min(at_b.common());
    let (mut x, mut y) = (*a, *b);
    for i in 0..blocks {
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
#[inline]
unsafe fn gather(text: &[*const u8; LANES], at: usize) -> [__m512i; 2] {
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

impl Group {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    fn new(keys: &[[u64; 8]]) -> Self {
        let mut r = [[0; LANES]; 3];
        for (i, key) in keys.iter().enumerate() {
            let (low, high) = (key[0] & 0x0fff_fffc_0fff_ffff, key[1] & 0x0fff_fffc_0fff_fffc);
            r[0][i] = low & LIMB;
            r[1][i] = (low >> 44 | high << 20) & LIMB;
            r[2][i] = high >> 24;
        }
        let load = |x: [u64; LANES]| unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
        let zero = _mm512_setzero_si512();
        let s = [r[1].map(|r| r * 20), r[2].map(|r| r * 20)];
        Self { h: [zero; 3], r: r.map(load), s: s.map(load) }
    }

    /// `h = (h + text + 2^128) r`.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    fn block(&mut self, [low, high]: [__m512i; 2]) {
        let limb = _mm512_set1_epi64(LIMB as i64);
        let top = _mm512_set1_epi64((1 << 42) - 1);
        let middle = _mm512_or_si512(_mm512_srli_epi64::<44>(low), _mm512_slli_epi64::<20>(high));
        let m2 = _mm512_or_si512(_mm512_srli_epi64::<24>(high), _mm512_set1_epi64(1 << 40));
        let h0 = _mm512_add_epi64(self.h[0], _mm512_and_si512(low, limb));
        let h1 = _mm512_add_epi64(self.h[1], _mm512_and_si512(middle, limb));
        let h2 = _mm512_add_epi64(self.h[2], m2);
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
            _mm512_and_si512(d2, top),
        ];
    }

    /// Whole blocks, as long as every packet has one.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    unsafe fn blocks(&mut self, at: &mut Cursors) {
        let mut x = *self;
        let blocks = at.common();
        for i in 0..blocks {
            x.block(unsafe { gather(&at.text, i * BLOCK) });
        }
        *self = x;
        at.skip(blocks);
    }

    /// The rest of every packet.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    unsafe fn ends(&mut self, at: &mut Cursors) {
        loop {
            let mut text = at.text;
            let mut mask = 0;
            for i in 0..LANES {
                mask |= u8::from(at.advance(i, &mut text[i])) << i;
            }
            if mask == 0 {
                return;
            }
            let before = self.h;
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
        let mut limbs = [[0_u64; LANES]; 3];
        for (limbs, h) in limbs.iter_mut().zip(self.h) {
            unsafe { _mm512_storeu_si512(limbs.as_mut_ptr().cast(), h) };
        }
        for (i, (tag, key)) in tags.iter_mut().zip(keys).enumerate() {
            let [h0, h1, h2] = limbs.map(|limb| limb[i]);
            let low = u128::from(h0) + (u128::from(h1) << 44);
            let (h, carry) = low.overflowing_add(u128::from(h2) << 88);
            let top = (h2 >> 40) + u64::from(carry);
            // 2^130 is 5.
            let (h, carry) = h.overflowing_add(u128::from(top >> 2) * 5);
            let top = (top & 3) + u64::from(carry);
            let (less, carry) = h.overflowing_add(5);
            let reduce = 0_u128.wrapping_sub(u128::from((top + u64::from(carry)) >> 2));
            let h = (less & reduce) | (h & !reduce);
            *tag = h.wrapping_add(u128::from(key[3]) << 64 | u128::from(key[2])).to_le_bytes();
        }
    }
}

impl Cursors {
    /// Lanes without a packet read the first one's text as often as it can be read.
    #[inline(always)]
    fn new(packets: &[Packet]) -> Self {
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
            for j in 0..rest {
                cursors.end[i][j] = unsafe { packet.ciphertext.add(packet.len - rest + j).read() };
            }
            // The associated data is empty.
            cursors.end[i][BLOCK + 8..].copy_from_slice(&(packet.len as u64).to_le_bytes());
        }
        cursors
    }

    fn common(&self) -> usize {
        self.whole.into_iter().min().unwrap_or(0)
    }

    #[inline(always)]
    fn skip(&mut self, blocks: usize) {
        for (text, whole) in self.text.iter_mut().zip(&mut self.whole) {
            *text = text.wrapping_add(blocks * BLOCK);
            *whole -= blocks;
        }
    }

    /// Where a lane's next block is, if it has one.
    #[inline(always)]
    fn advance(&mut self, i: usize, text: &mut *const u8) -> bool {
        if self.whole[i] > 0 {
            self.whole[i] -= 1;
            *text = self.text[i];
            self.text[i] = text.wrapping_add(BLOCK);
            return true;
        }
        let at = self.end_at[i];
        let more = at < 2 * BLOCK;
        let at = at.min(BLOCK);
        *text = self.end[i][at..].as_ptr();
        self.end_at[i] += BLOCK;
        more
    }
}

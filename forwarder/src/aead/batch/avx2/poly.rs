//! Poly1305 (RFC 8439, section 2.5) on the scalar units.
//!
//! Numbers are three words in radix 2^64. Nothing branches on them.

#[cfg(test)]
use super::super::packet::Packets;
#[cfg(test)]
use super::super::{GROUP, Tags};
#[cfg(test)]
use super::{sets::Front, weave::Weave};

/// Bytes of a block.
pub const BLOCK: usize = 16;

/// One packet's accumulator and multiplier.
#[derive(Clone, Copy)]
pub struct Mac {
    /// 130 bits and a little: the upper word stays below 8.
    pub h: [u64; 3],
    /// The multiplier, and `5/4` of its upper word, for what comes out above 2^130. That word is a multiple of 4.
    pub r: [u64; 3],
}

/// Computes the tags of so many packets. `keys` has the first block of each.
///
/// # Safety
/// The processor has BMI2. The ciphertexts can be read.
#[cfg(test)]
#[target_feature(enable = "avx2,bmi2")]
pub unsafe fn tags(packets: &[Packets], count: usize, keys: &[[u64; 8]; GROUP], tags: *mut Tags) {
    let packets = &packets.as_flattened()[..count];
    let mut keys = keys.map(|[a, b, c, d, ..]| [a, b, c, d]);
    let mut weave = Weave::new(packets, keys.as_mut_ptr(), tags.cast());
    // SAFETY: the caller's promise; everything is encrypted.
    unsafe {
        weave.release(Front { number: packets.len(), block: 0 });
        weave.finish();
    }
}

/// `(h + text + 2^128) r`, partly reduced modulo 2^130 - 5.
///
/// A compiler takes half as many instructions again, which the rounds it is woven into have no room for.
///
/// # Safety
/// The processor has BMI2. The block and the multiplier can be read.
#[inline(always)]
pub unsafe fn block(h: [u64; 3], r: *const [u64; 3], text: *const u8) -> [u64; 3] {
    let [mut h0, mut h1, mut h2] = h;
    // SAFETY: reads the text and the multiplier, and changes nothing but what it names.
    unsafe {
        std::arch::asm!(
            "add rdx, [{t}]",
            "adc {h1}, [{t} + 8]",
            "adc {h2}, 1",
            "mulx {d0h}, {d0l}, [{r}]",
            "mulx {d1h}, {d1l}, [{r} + 8]",
            "mov rdx, {h1}",
            "mulx {c}, {h1}, [{r}]",
            "add {h1}, {d1l}",
            "adc {d1h}, {c}",
            "mulx {c}, rdx, [{r} + 16]",
            "add rdx, {d0l}",
            "adc {d0h}, {c}",
            "mov {c}, {h2}",
            "imul {c}, [{r} + 16]",
            "imul {h2}, [{r}]",
            "add {h1}, {c}",
            "adc {h2}, {d1h}",
            "add {h1}, {d0h}",
            "adc {h2}, 0",
            // 2^130 is 5.
            "mov {c}, {h2}",
            "and {h2}, 3",
            "shr {c}, 2",
            "lea {c}, [{c} + 4*{c}]",
            "add rdx, {c}",
            "adc {h1}, 0",
            "adc {h2}, 0",
            t = in(reg) text,
            r = in(reg) r,
            inout("rdx") h0,
            h1 = inout(reg) h1,
            h2 = inout(reg) h2,
            d0l = out(reg) _,
            d0h = out(reg) _,
            d1l = out(reg) _,
            d1h = out(reg) _,
            c = out(reg) _,
            options(nostack, readonly),
        );
    }
    [h0, h1, h2]
}

impl Mac {
    /// Of no packet.
    pub const IDLE: Self = Self { h: [0; 3], r: [0; 3] };

    #[inline(always)]
    pub fn new(key: &[u64; 4]) -> Self {
        let [r0, r1] = [key[0] & 0x0fff_fffc_0fff_ffff, key[1] & 0x0fff_fffc_0fff_fffc];
        Self { h: [0; 3], r: [r0, r1, r1.wrapping_add(r1 >> 2)] }
    }

    /// Authenticates a block.
    ///
    /// # Safety
    /// As for [`block`].
    #[inline(always)]
    pub unsafe fn block(&mut self, text: *const u8) {
        // SAFETY: the caller's promise.
        self.h = unsafe { block(self.h, &raw const self.r, text) };
    }

    /// Authenticates what follows the last whole block, and the lengths. The accumulator modulo 2^130 - 5, and
    /// the second half of the key, are the tag.
    ///
    /// # Safety
    /// The processor has BMI2. The whole text can be read, up to that part and with it.
    #[inline(always)]
    pub unsafe fn finish(mut self, len: usize, rest: *const u8, key: &[u64; 4]) -> [u8; 16] {
        let (whole, rest_len) = (len / BLOCK, len % BLOCK);
        if rest_len > 0 {
            // SAFETY: the text goes on that far, and began that far before.
            unsafe {
                let last = if whole > 0 {
                    let last =
                        rest.wrapping_add(rest_len).wrapping_sub(BLOCK).cast::<u128>().read_unaligned();
                    last.to_le() >> (8 * (BLOCK - rest_len))
                } else {
                    (0..rest_len).fold(0, |last, i| last | u128::from(rest.add(i).read()) << (8 * i))
                };
                self.block(last.to_le_bytes().as_ptr());
            }
        }
        // The associated data is empty: its length, the lower half, is 0.
        // SAFETY: as above.
        unsafe { self.block([0, len as u64].as_ptr().cast()) };
        let [h0, h1, h2] = self.h;
        let h = u128::from(h1) << 64 | u128::from(h0);
        let (less, carry) = h.overflowing_add(5);
        let reduce = 0_u128.wrapping_sub(u128::from(h2.wrapping_add(u64::from(carry)) >> 2));
        let h = (less & reduce) | (h & !reduce);
        h.wrapping_add(u128::from(key[3]) << 64 | u128::from(key[2])).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Accumulators from the modulus on, which random packets hardly ever reach.
    #[test]
    fn the_accumulator_is_fully_reduced() {
        if super::super::super::avx2().is_none() {
            return;
        }
        let key = [0, 0, u64::MAX, 7];
        for i in 0..5_u64 {
            // The lengths' block adds 2^128, which makes it the modulus and i.
            let mac = Mac { h: [u64::MAX - 4 + i, u64::MAX, 2], r: [1, 0, 0] };
            // SAFETY: the processor has the features; there is no text to read.
            let tag = unsafe { mac.finish(0, std::ptr::null(), &key) };
            assert_eq!(u128::from_le_bytes(tag), u128::from(i) + (7 << 64 | u128::from(u64::MAX)));
        }
    }

    /// The same number, by a compiler.
    fn expected(h: [u64; 3], [r0, r1, s]: [u64; 3], text: [u64; 2]) -> [u64; 3] {
        let wide = |a: u64, b: u64| u128::from(a) * u128::from(b);
        let (h0, carry) = h[0].overflowing_add(text[0]);
        let (h1, carry) = h[1].carrying_add(text[1], carry);
        let h2 = h[2] + 1 + u64::from(carry);
        let d0 = wide(h0, r0) + wide(h1, s);
        let d1 = wide(h0, r1) + wide(h1, r0) + u128::from(h2 * s) + (d0 >> 64);
        let d2 = h2 * r0 + (d1 >> 64) as u64;
        let (h0, carry) = (d0 as u64).overflowing_add(5 * (d2 >> 2));
        let (h1, carry) = (d1 as u64).overflowing_add(u64::from(carry));
        [h0, h1, (d2 & 3) + u64::from(carry)]
    }

    /// Each word as small and as large as it gets, and about to carry.
    #[test]
    fn blocks_at_the_limits() {
        if super::super::super::avx2().is_none() {
            return;
        }
        let words = [0, 1, 4, 1 << 32, 1 << 63, u64::MAX - 5, u64::MAX - 1, u64::MAX];
        let r0s = [0, 1, 5, 0x0fff_fffc_0fff_fffe, 0x0fff_fffc_0fff_ffff];
        let r1s = [0, 4, 0x0fff_fffc_0fff_fff8, 0x0fff_fffc_0fff_fffc];
        for (h0, h1) in words.iter().flat_map(|h0| words.iter().map(|h1| (*h0, *h1))) {
            for h in (0..5).map(|h2| [h0, h1, h2]) {
                for r in r0s.iter().flat_map(|r0| r1s.iter().map(|r1| [*r0, *r1, r1 / 4 * 5])) {
                    for text in words.iter().flat_map(|low| words.iter().map(|high| [*low, *high])) {
                        // SAFETY: the processor has the features; multiplier and text are here.
                        let found = unsafe { block(h, &raw const r, text.as_ptr().cast()) };
                        assert_eq!(found, expected(h, r, text), "{h:x?} {r:x?} {text:x?}");
                    }
                }
            }
        }
    }

    /// A carry that goes through a full word, once in 2^64 blocks.
    #[test]
    fn carries_reach_the_upper_word() {
        if super::super::super::avx2().is_none() {
            return;
        }
        // 5 * 2^128 is 2^128 + 5.
        let mut mac = Mac { h: [u64::MAX - 1, u64::MAX, 4], r: [1, 0, 0] };
        // SAFETY: the processor has the features.
        unsafe { mac.block([0_u64, 0].as_ptr().cast()) };
        assert_eq!(mac.h, [3, 0, 2]);
        // The same in the sum with the text.
        let mut mac = Mac { h: [u64::MAX, u64::MAX, 1], r: [1, 0, 0] };
        // SAFETY: as above.
        unsafe { mac.block([4_u64, 0].as_ptr().cast()) };
        assert_eq!(mac.h, [3, 0, 3]);
    }
}

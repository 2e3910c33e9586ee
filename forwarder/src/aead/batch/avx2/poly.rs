//! Poly1305 (RFC 8439, section 2.5) on the scalar units, two packets at a time: one alone would wait for
//! its own multiplications.
//!
//! Numbers are three words in radix 2^64. Nothing branches on them.

use super::super::GROUP;
use super::super::plan::Packet;

/// Bytes of a block.
const BLOCK: usize = 16;

/// One packet's accumulator and multiplier.
#[derive(Clone, Copy)]
struct Mac {
    /// 130 bits and a little: the upper word stays below 8.
    h: [u64; 3],
    r: [u64; 2],
    /// `5/4 r1`, for what comes out above 2^130. `r1` is a multiple of 4.
    s: u64,
}

/// Computes the tags of at most [`GROUP`] packets. `keys` has the first block of each.
///
/// # Safety
/// The processor has BMI2. The ciphertexts can be read.
#[target_feature(enable = "avx2,bmi2")]
pub unsafe fn tags(packets: &[Packet], keys: &[[u64; 8]; GROUP], tags: &mut [[u8; 16]]) {
    for ((packets, keys), tags) in packets.chunks(2).zip(keys.chunks(2)).zip(tags.chunks_mut(2)) {
        match (packets, tags) {
            ([a, b], [tag_a, tag_b]) => {
                let (mut x, mut y) = (Mac::new(&keys[0]), Mac::new(&keys[1]));
                let both = (a.len / BLOCK).min(b.len / BLOCK);
                for i in 0..both {
                    // SAFETY: both have that many blocks.
                    unsafe {
                        x.block(read(a.ciphertext, i));
                        y.block(read(b.ciphertext, i));
                    }
                }
                // SAFETY: as above.
                unsafe {
                    *tag_a = x.finish(a, both, &keys[0]);
                    *tag_b = y.finish(b, both, &keys[1]);
                }
            }
            // SAFETY: as above.
            ([a], [tag]) => unsafe { *tag = Mac::new(&keys[0]).finish(a, 0, &keys[0]) },
            _ => {}
        }
    }
}

/// Block `i` of a text.
///
/// # Safety
/// It can be read.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn read(text: *const u8, i: usize) -> u128 {
    // SAFETY: the caller's promise.
    u128::from_le_bytes(unsafe { text.add(i * BLOCK).cast::<[u8; BLOCK]>().read() })
}

impl Mac {
    #[target_feature(enable = "avx2,bmi2")]
    #[inline]
    fn new(key: &[u64; 8]) -> Self {
        let r = [key[0] & 0x0fff_fffc_0fff_ffff, key[1] & 0x0fff_fffc_0fff_fffc];
        Self { h: [0; 3], r, s: r[1] + (r[1] >> 2) }
    }

    /// `h = (h + text + 2^128) r`, partly reduced modulo 2^130 - 5.
    #[target_feature(enable = "avx2,bmi2")]
    #[inline]
    fn block(&mut self, text: u128) {
        let wide = |a: u64, b: u64| u128::from(a).wrapping_mul(u128::from(b));
        let (Self { h: [h0, h1, h2], r: [r0, r1], s }, low, high) = (*self, text as u64, (text >> 64) as u64);
        let (h0, carry) = h0.overflowing_add(low);
        let (h1, carry) = h1.carrying_add(high, carry);
        let h2 = h2.wrapping_add(1).wrapping_add(u64::from(carry));
        let d0 = wide(h0, r0).wrapping_add(wide(h1, s));
        let d1 = wide(h0, r1).wrapping_add(wide(h1, r0)).wrapping_add(u128::from(h2.wrapping_mul(s)));
        let d1 = d1.wrapping_add(d0 >> 64);
        let d2 = h2.wrapping_mul(r0).wrapping_add((d1 >> 64) as u64);
        // 2^130 is 5: four times the part above it is there already.
        let (h0, carry) = (d0 as u64).overflowing_add((d2 & !3).wrapping_add(d2 >> 2));
        let (h1, carry) = (d1 as u64).overflowing_add(u64::from(carry));
        self.h = [h0, h1, (d2 & 3).wrapping_add(u64::from(carry))];
    }

    /// Authenticates all blocks from `first` on, the last part and the lengths. The accumulator modulo
    /// 2^130 - 5, and the second half of the key, are the tag.
    ///
    /// # Safety
    /// The ciphertext can be read.
    #[target_feature(enable = "avx2,bmi2")]
    #[inline]
    unsafe fn finish(mut self, packet: &Packet, first: usize, key: &[u64; 8]) -> [u8; 16] {
        let whole = packet.len / BLOCK;
        for i in first..whole {
            // SAFETY: there are that many blocks.
            self.block(unsafe { read(packet.ciphertext, i) });
        }
        let rest = packet.len % BLOCK;
        if rest > 0 {
            let mut last = [0; BLOCK];
            // SAFETY: the text goes on that far.
            unsafe { packet.ciphertext.add(whole * BLOCK).copy_to_nonoverlapping(last.as_mut_ptr(), rest) };
            self.block(u128::from_le_bytes(last));
        }
        // The associated data is empty: its length, the lower half, is 0.
        self.block((packet.len as u128) << 64);
        let [h0, h1, h2] = self.h;
        let h = u128::from(h1) << 64 | u128::from(h0);
        let (less, carry) = h.overflowing_add(5);
        let reduce = 0_u128.wrapping_sub(u128::from((h2 + u64::from(carry)) >> 2));
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
        let text = [0; 0];
        let empty = Packet {
            job: 0,
            key: &[0; 32],
            nonce: 0,
            source: text.as_ptr(),
            source_len: 0,
            destination: std::ptr::null_mut(),
            len: 0,
            ciphertext: text.as_ptr(),
        };
        let key = [0, 0, u64::MAX, 7, 0, 0, 0, 0];
        for i in 0..5_u64 {
            // The lengths' block adds 2^128, which makes it the modulus and i.
            let mac = Mac { h: [u64::MAX - 4 + i, u64::MAX, 2], r: [1, 0], s: 0 };
            // SAFETY: the processor has the features; there is no text to read.
            let tag = unsafe { mac.finish(&empty, 0, &key) };
            assert_eq!(u128::from_le_bytes(tag), u128::from(i) + (7 << 64 | u128::from(u64::MAX)));
        }
    }

    /// A carry that goes through a full word, once in 2^64 blocks.
    #[test]
    fn carries_reach_the_upper_word() {
        if super::super::super::avx2().is_none() {
            return;
        }
        // 5 * 2^128 is 2^128 + 5.
        let mut mac = Mac { h: [u64::MAX - 1, u64::MAX, 4], r: [1, 0], s: 0 };
        // SAFETY: the processor has the features.
        unsafe { mac.block(0) };
        assert_eq!(mac.h, [3, 0, 2]);
        // The same in the sum with the text.
        let mut mac = Mac { h: [u64::MAX, u64::MAX, 1], r: [1, 0], s: 0 };
        // SAFETY: as above.
        unsafe { mac.block(4) };
        assert_eq!(mac.h, [3, 0, 3]);
    }
}

//! One-time keys of Poly1305: the first 32 bytes of the packets' key blocks.

#[allow(clippy::wildcard_imports)] // every line is an intrinsic
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::GROUP;
use super::lanes::LANES;

/// The keys of a call's packets, as `ChaCha20` leaves them: word by word, each of sixteen packets.
pub struct Keys {
    words: [MaybeUninit<[__m512i; 8]>; GROUP / LANES],
}

/// Those of eight packets, in halves of 16 bytes, each of them in two registers.
#[derive(Clone, Copy)]
pub struct Key {
    pub r: [__m512i; 2],
    pub s: [__m512i; 2],
}

impl Keys {
    pub const UNKNOWN: Self = Self { words: [MaybeUninit::uninit(); GROUP / LANES] };

    /// Takes those of the packets `16 i` to `16 i + 15`.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub fn put(&mut self, i: usize, [x0, x1, x2, x3, x4, x5, x6, x7, ..]: &[__m512i; 16]) {
        self.words[i].write([*x0, *x1, *x2, *x3, *x4, *x5, *x6, *x7]);
    }

    /// Those of the packets `8 i` to `8 i + 7`.
    ///
    /// # Safety
    /// They have been put there.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub unsafe fn group(&self, i: usize) -> Key {
        // SAFETY: the caller's promise.
        let words = unsafe { self.words[i / 2].assume_init_ref() };
        // The first eight lanes, or the others.
        let lanes = _mm512_add_epi32(
            _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
            _mm512_set1_epi32((i as u32 % 2 * 8).cast_signed()),
        );
        let pair = |low: usize, high: usize| _mm512_permutex2var_epi32(words[low], lanes, words[high]);
        Key { r: [pair(0, 1), pair(2, 3)], s: [pair(4, 5), pair(6, 7)] }
    }

    /// Those of packets whose first blocks are given.
    #[cfg(test)]
    #[target_feature(enable = "avx512f")]
    pub fn of(blocks: &[[u64; 8]; GROUP]) -> Self {
        let mut keys = Self::UNKNOWN;
        for (i, blocks) in blocks.as_chunks::<LANES>().0.iter().enumerate() {
            let word = |i: usize| {
                let words = blocks.map(|block| (block[i / 2] >> (i % 2 * 32)) as u32);
                // SAFETY: sixteen words are a register.
                unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
            };
            keys.put(i, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].map(word));
        }
        keys
    }
}

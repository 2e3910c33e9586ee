//! What becomes of the key stream: one-time keys, and encrypted texts.

#[allow(clippy::wildcard_imports)] // every line is an intrinsic
use std::arch::x86_64::*;

use super::super::packet::BLOCK;
use super::chacha::{LANES, transpose};
use super::sets::{Run, Set};

/// A block of the key stream.
type Block = [__m256i; 2];

/// Bytes of the smallest part of a block that is encrypted at once.
const PART: usize = 16;

/// Turns words of blocks into blocks, and encrypts the runs with them; beginnings of blocks 0 go into `keys`.
///
/// # Safety
/// Sources can be read, destinations can be written; `keys` has room for each packet's.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
pub unsafe fn write(set: &Set<'_>, words: &[__m256i; 16], keys: *mut [u64; 4]) {
    let [w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, wa, wb, wc, wd, we, wf] = *words;
    let first = transpose([w0, w1, w2, w3, w4, w5, w6, w7]);
    let second = transpose([w8, w9, wa, wb, wc, wd, we, wf]);
    let blocks: [Block; LANES] = std::array::from_fn(|lane| [first[lane], second[lane]]);
    for run in set {
        let mut blocks = &blocks[run.lane..run.lane + run.lanes];
        let mut block = run.block;
        if block == 0 {
            // SAFETY: there is room, and a key is as long as a vector.
            unsafe { _mm256_storeu_si256(keys.add(run.number).cast(), blocks[0][0]) };
            (block, blocks) = (1, &blocks[1..]);
        }
        // SAFETY: the caller's promise.
        unsafe { texts(run, block, blocks) };
    }
}

/// Encrypts text from a block on.
///
/// # Safety
/// As above.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn texts(run: &Run<'_>, block: usize, blocks: &[Block]) {
    let packet = run.packet;
    let mut at = block.wrapping_sub(1).wrapping_mul(BLOCK);
    let whole = packet.source_len.saturating_sub(at) / BLOCK;
    let (whole, rest) = blocks.split_at(whole.min(blocks.len()));
    // SAFETY: the caller's promise, and the lengths.
    unsafe {
        for block in whole {
            let source = packet.source.wrapping_add(at).cast::<__m256i>();
            let destination = packet.destination.wrapping_add(at).cast::<__m256i>();
            for (half, key) in block.iter().enumerate() {
                let text = _mm256_loadu_si256(source.wrapping_add(half));
                _mm256_storeu_si256(destination.wrapping_add(half), _mm256_xor_si256(text, *key));
            }
            at = at.wrapping_add(BLOCK);
        }
        for block in rest {
            let (source, destination) = (packet.source.wrapping_add(at), packet.destination.wrapping_add(at));
            let (source_len, len) = (packet.source_len.saturating_sub(at), packet.len.wrapping_sub(at));
            partial(source, source_len, destination, len.min(BLOCK), block);
            at = at.wrapping_add(BLOCK);
        }
    }
}

/// A block that ends early, or whose source does.
///
/// # Safety
/// So many bytes of the source can be read, so many of the destination written; both fewer than 65.
#[target_feature(enable = "avx2,bmi2")]
unsafe fn partial(source: *const u8, source_len: usize, destination: *mut u8, len: usize, block: &Block) {
    // SAFETY: the caller's promise.
    unsafe {
        for at in (0..len).step_by(PART) {
            let key = _mm_loadu_si128(block.as_ptr().cast::<u8>().add(at).cast());
            let text = load(source.wrapping_add(at), source_len.saturating_sub(at).min(PART));
            store(destination.add(at), (len - at).min(PART), _mm_xor_si128(text, key));
        }
    }
}

/// Bytes, and zeros after them.
///
/// # Safety
/// So many bytes can be read, at most 16.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn load(from: *const u8, len: usize) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe {
        if len == PART {
            return _mm_loadu_si128(from.cast());
        }
        let mut text = [0_u8; PART];
        from.copy_to_nonoverlapping(text.as_mut_ptr(), len);
        _mm_loadu_si128(text.as_ptr().cast())
    }
}

/// Writes the first bytes.
///
/// # Safety
/// So many bytes can be written, at most 16.
#[target_feature(enable = "avx2,bmi2")]
#[inline]
unsafe fn store(to: *mut u8, len: usize, text: __m128i) {
    // SAFETY: the caller's promise.
    unsafe {
        if len == PART {
            return _mm_storeu_si128(to.cast(), text);
        }
        let mut bytes = [0_u8; PART];
        _mm_storeu_si128(bytes.as_mut_ptr().cast(), text);
        to.copy_from_nonoverlapping(bytes.as_ptr(), len);
    }
}

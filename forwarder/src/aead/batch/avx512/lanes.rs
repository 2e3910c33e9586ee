//! Which `ChaCha20` blocks share a set of lanes: a walk over all packets, so that key blocks and tails of
//! many packets fill the lanes together.
//!
//! A lane has the number of a packet; all else is looked up by that, in registers.

#[allow(clippy::wildcard_imports)] // every line is an intrinsic
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::super::packet::{BLOCK, Packet};
use super::table::{Table, whole_blocks};

/// Blocks of a set.
pub const LANES: usize = 16;

/// A key in all lanes, or the keys of all lanes.
pub type Key = [__m512i; 8];

/// What a set of blocks starts from, but the constants.
#[repr(C, align(64))]
pub struct Start {
    pub counter: __m512i,
    pub nonce: [__m512i; 2],
    pub key: *const Key,
    /// The text of a whole set.
    pub source: *const u8,
}

/// Room for what a set needs beside the packets.
pub struct Room {
    pub keys: MaybeUninit<Key>,
    pub text: MaybeUninit<[u8; LANES * BLOCK]>,
}

/// Blocks that go through the rounds together.
#[derive(Clone, Copy)]
pub enum Set {
    /// Lanes of the table, from this one on.
    Mixed(usize),
    /// Successive blocks of this packet's text, from this one on.
    Whole(usize, usize),
}

/// A walk over the blocks of the packets: key blocks, then what is left of the texts beyond whole sets,
/// then whole sets of one text each, which are the cheapest.
pub struct Walk<'a> {
    packets: &'a [Packet],
    table: &'a Table,
    first: [__m512i; 2],
    /// The first packet's key.
    key: Key,
    next: Option<Set>,
}

impl<'a> Walk<'a> {
    /// At the first block. There are packets.
    ///
    /// # Safety
    /// The processor has the features. The packets' keys can be read.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub unsafe fn new(packets: &'a [Packet], table: &'a Table) -> Self {
        // SAFETY: there are four registers of nonces and two of blocks; the rest is the caller's promise.
        unsafe {
            let first = table.first.as_ptr().cast::<__m512i>();
            Self {
                packets,
                table,
                first: [*first, *first.add(1)],
                key: key(packets[0].key),
                next: Some(Set::Mixed(0)),
            }
        }
    }

    /// The next set, if there is one, and where it starts. The room belongs to it.
    ///
    /// # Safety
    /// As above. The walk stays where it is.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    pub unsafe fn next(&mut self, room: &mut Room) -> Option<(Set, Start)> {
        let set = self.next?;
        // SAFETY: the caller's promise.
        let start = unsafe {
            match set {
                Set::Mixed(lane) => self.mixed(lane, room),
                Set::Whole(packet, block) => self.whole(&self.packets[packet], block, room),
            }
        };
        self.next = match set {
            Set::Mixed(lane) if lane + LANES < self.table.end => Some(Set::Mixed(lane + LANES)),
            Set::Mixed(_) => self.next_whole(0, 0),
            Set::Whole(packet, block) => self.next_whole(packet, block + LANES),
        };
        Some((set, start))
    }

    /// The next whole set from that packet's block on.
    #[inline]
    fn next_whole(&self, mut packet: usize, mut block: usize) -> Option<Set> {
        while block >= whole_blocks(self.packets.get(packet)?) {
            (packet, block) = (packet + 1, 0);
        }
        Some(Set::Whole(packet, block))
    }

    /// Where sixteen lanes of the table start.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    unsafe fn mixed(&self, lane: usize, room: &mut Room) -> Start {
        let lanes = &self.table.lanes[lane..][..LANES];
        // SAFETY: sixteen bytes are a register.
        let packets = unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(lanes.as_ptr().cast())) };
        let look_up = |[low, high]: [__m512i; 2]| _mm512_permutex2var_epi32(low, packets, high);
        // Block 0 is the key block.
        let texts = u32::from(u16::MAX) << self.table.keys.saturating_sub(lane).min(LANES);
        let counter = _mm512_add_epi32(after(lane), look_up(self.first));
        Start {
            counter: _mm512_maskz_mov_epi32(texts as u16, counter),
            nonce: self.table.nonces.map(look_up),
            key: if self.table.same_key {
                &raw const self.key
            } else {
                // SAFETY: the caller's promise.
                unsafe { self.keys(lane, &mut room.keys) }
            },
            source: std::ptr::null(),
        }
    }

    /// Different keys.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline(never)]
    unsafe fn keys(&self, lane: usize, keys: &mut MaybeUninit<Key>) -> *const Key {
        // SAFETY: there are these lanes.
        let of = |i: usize| unsafe { self.packets[self.table.packet(lane + i)].key };
        // SAFETY: the caller's promise.
        let keys = keys.write(unsafe { key(of(0)) });
        for i in (1..LANES.min(self.table.end - lane)).filter(|&i| of(i) != of(i - 1)) {
            // SAFETY: the caller's promise.
            let next = unsafe { key(of(i)) };
            for (word, next) in keys.iter_mut().zip(next) {
                // This lane and all later ones.
                *word = _mm512_mask_mov_epi32(*word, u16::MAX << i, next);
            }
        }
        keys
    }

    /// Where sixteen blocks of one text start.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    unsafe fn whole(&self, packet: &Packet, block: usize, room: &mut Room) -> Start {
        let at = block.wrapping_mul(BLOCK);
        Start {
            counter: after(block),
            nonce: [packet.nonce, packet.nonce >> 32].map(|half| _mm512_set1_epi32(half as i32)),
            key: if self.table.same_key {
                &raw const self.key
            } else {
                // SAFETY: the caller's promise.
                room.keys.write(unsafe { key(packet.key) })
            },
            source: if at + LANES * BLOCK <= packet.source_len {
                packet.source.wrapping_add(at)
            } else {
                // SAFETY: the caller's promise.
                unsafe { padded(packet, at, &mut room.text) }
            },
        }
    }
}

/// What there is of the packet's text from byte `at` on, and zeros.
///
/// # Safety
/// The source can be read.
#[cold]
#[inline(never)]
unsafe fn padded(packet: &Packet, at: usize, room: &mut MaybeUninit<[u8; LANES * BLOCK]>) -> *const u8 {
    let room = room.write([0; LANES * BLOCK]);
    let len = packet.source_len.saturating_sub(at);
    // SAFETY: the caller's promise; there is room, as the text is too short to fill it.
    unsafe { packet.source.wrapping_add(at).copy_to_nonoverlapping(room.as_mut_ptr(), len) };
    room.as_ptr()
}

/// The sixteen numbers after this one.
#[target_feature(enable = "avx512f")]
#[inline]
fn after(number: usize) -> __m512i {
    let iota = _mm512_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
    _mm512_add_epi32(iota, _mm512_set1_epi32((number as u32).cast_signed()))
}

/// A key in all lanes.
///
/// # Safety
/// It can be read.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn key(key: *const [u8; 32]) -> Key {
    // SAFETY: the caller's promise.
    let word = |i| unsafe { _mm512_set1_epi32(key.cast::<i32>().add(i).read_unaligned()) };
    [word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)]
}

//! Which `ChaCha20` blocks share a set of lanes: a walk over all packets, so that key blocks and tails of
//! many packets fill the lanes together.
//!
//! A set names a packet for each lane; all else is looked up by that, in registers. Lists of lanes would
//! be written more slowly than the blocks are encrypted.

#[allow(clippy::wildcard_imports)] // every line is an intrinsic
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::super::plan::Packet;
use super::GROUP;
use super::table::Table;

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
}

/// Blocks that go through the rounds together.
#[repr(C, align(64))]
pub struct Set {
    /// For each packet, which block lane 0 would have if that packet's blocks began there.
    first: [u32; GROUP],
    /// Each lane's packet. What lies beyond the lanes is room for writing whole registers.
    packets: [u8; 2 * LANES],
    /// So many lanes have key blocks.
    pub keys: usize,
    /// Lanes from here on have nothing.
    pub end: usize,
    /// All lanes have successive blocks of one text.
    pub whole: bool,
    /// The lanes' keys, if packets have different ones.
    key: MaybeUninit<Key>,
}

/// A walk over the blocks of the packets: key blocks, then what is left of the texts beyond whole sets,
/// then whole sets of one text each, which are the cheapest.
pub struct Walk<'a> {
    packets: &'a [Packet],
    table: &'a Table,
    /// The key, if all packets have the same.
    key: Key,
    /// How many packets' key blocks are done.
    keys: usize,
    /// The next tail's packet, and block.
    tail: Place,
    /// The next whole set's packet, and block.
    whole: Place,
}

#[derive(Clone, Copy)]
struct Place {
    packet: usize,
    block: u32,
}

impl Set {
    pub const fn new() -> Self {
        let key = MaybeUninit::uninit();
        Self { first: [0; GROUP], packets: [0; 2 * LANES], keys: 0, end: 0, whole: false, key }
    }

    /// A lane's packet, and which block of its text.
    #[inline]
    pub fn block(&self, lane: usize) -> (usize, usize) {
        let packet = usize::from(self.packets[lane]) % GROUP;
        (packet, self.first[packet].wrapping_add(lane as u32) as usize)
    }
}

impl<'a> Walk<'a> {
    /// At the first block. There are packets, at most [`GROUP`].
    ///
    /// # Safety
    /// The processor has the features. The packets' keys can be read.
    #[target_feature(enable = "avx512f")]
    #[inline]
    pub unsafe fn new(packets: &'a [Packet], table: &'a Table) -> Self {
        // SAFETY: the caller's promise.
        let key = unsafe { key(packets[0].key) };
        let start = Place { packet: 0, block: 0 };
        let mut walk = Self { packets, table, key, keys: 0, tail: start, whole: start };
        (walk.tail, walk.whole) = (walk.next_tail(0), walk.next_whole(0));
        walk
    }

    /// Fills the next set, if there is one.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    pub unsafe fn next(&mut self, set: &mut Set) -> Option<Start> {
        let count = self.packets.len();
        // SAFETY: the caller's promise.
        unsafe {
            if self.keys < count || self.tail.packet < count {
                self.mixed(set);
                Some(self.start(set))
            } else if self.whole.packet < count {
                Some(self.whole(set))
            } else {
                None
            }
        }
    }

    /// Key blocks and tails, as many as there are lanes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    fn mixed(&mut self, set: &mut Set) {
        let iota = _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        let mut write = |lane: usize, packets: __m128i| {
            let lanes = &mut set.packets[lane..][..LANES];
            // SAFETY: a register has sixteen bytes.
            unsafe { _mm_storeu_si128(lanes.as_mut_ptr().cast(), packets) };
        };
        write(0, _mm_add_epi8(iota, _mm_set1_epi8(self.keys as i8)));
        let keys = LANES.min(self.packets.len() - self.keys);
        self.keys += keys;
        let (mut lane, mut tail) = (keys, self.tail);
        while lane < LANES && tail.packet < self.packets.len() {
            write(lane, _mm_set1_epi8(tail.packet as i8));
            set.first[tail.packet] = tail.block.wrapping_sub(lane as u32);
            let left = self.table.blocks[tail.packet].wrapping_sub(tail.block) as usize;
            let room = LANES - lane;
            if left > room {
                tail.block = tail.block.wrapping_add(room as u32);
                lane = LANES;
            } else {
                lane += left;
                tail = self.next_tail(tail.packet + 1);
            }
        }
        self.tail = tail;
        (set.keys, set.end, set.whole) = (keys, lane, false);
    }

    /// Where that starts.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    unsafe fn start(&self, set: &mut Set) -> Start {
        // SAFETY: sixteen bytes are a register.
        let lanes = unsafe { _mm512_cvtepu8_epi32(_mm_loadu_si128(set.packets.as_ptr().cast())) };
        let look_up = |table: &[u32; GROUP]| {
            // SAFETY: the table has two registers.
            let halves = [0, 16].map(|i| unsafe { _mm512_loadu_si512(table.as_ptr().add(i).cast()) });
            _mm512_permutex2var_epi32(halves[0], lanes, halves[1])
        };
        // Block 0 is the key block.
        let iota = _mm512_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
        let texts = (u32::from(u16::MAX) << set.keys) as u16;
        let counter = _mm512_maskz_add_epi32(texts, look_up(&set.first), iota);
        let nonce = [look_up(&self.table.nonces[0]), look_up(&self.table.nonces[1])];
        if !self.table.same_key {
            // SAFETY: the caller's promise.
            unsafe { self.keys(set) };
        }
        Start { counter, nonce, key: if self.table.same_key { &self.key } else { set.key.as_ptr() } }
    }

    /// Different keys.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline(never)]
    unsafe fn keys(&self, set: &mut Set) {
        let of = |lane: usize| self.packets[set.block(lane).0].key;
        // SAFETY: the caller's promise.
        let mut keys = unsafe { key(of(0)) };
        for lane in (1..set.end).filter(|&lane| of(lane) != of(lane - 1)) {
            // SAFETY: the caller's promise.
            let next = unsafe { key(of(lane)) };
            for (word, next) in keys.iter_mut().zip(next) {
                // This lane and all later ones.
                *word = _mm512_mask_mov_epi32(*word, u16::MAX << lane, next);
            }
        }
        set.key.write(keys);
    }

    /// A whole set of one text.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    #[inline]
    unsafe fn whole(&mut self, set: &mut Set) -> Start {
        let Place { packet: i, block } = self.whole;
        let packet = &self.packets[i];
        set.packets[0] = i as u8;
        set.first[i] = block;
        (set.keys, set.end, set.whole) = (0, LANES, true);
        self.whole.block = block.wrapping_add(LANES as u32);
        if self.whole.block == self.table.whole[i] {
            self.whole = self.next_whole(i + 1);
        }
        let iota = _mm512_setr_epi32(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16);
        if !self.table.same_key {
            // SAFETY: the caller's promise.
            set.key.write(unsafe { key(packet.key) });
        }
        Start {
            counter: _mm512_add_epi32(iota, _mm512_set1_epi32(block.cast_signed())),
            nonce: [packet.nonce, packet.nonce >> 32].map(|half| _mm512_set1_epi32(half as i32)),
            key: if self.table.same_key { &self.key } else { set.key.as_ptr() },
        }
    }

    /// The first packet from there on that has a tail, and where that begins.
    #[inline]
    fn next_tail(&self, mut packet: usize) -> Place {
        while packet < self.packets.len() {
            let block = self.table.whole[packet];
            if block < self.table.blocks[packet] {
                return Place { packet, block };
            }
            packet += 1;
        }
        Place { packet, block: 0 }
    }

    /// The first packet from there on that has a whole set.
    #[inline]
    fn next_whole(&self, mut packet: usize) -> Place {
        while packet < self.packets.len() && self.table.whole[packet] == 0 {
            packet += 1;
        }
        Place { packet, block: 0 }
    }
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

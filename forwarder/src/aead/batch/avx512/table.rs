//! What the lanes look up of the packets, in registers; and which packet each lane has.

#[allow(clippy::wildcard_imports)] // every line is an intrinsic
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

use super::super::packet::{BLOCK, Packet, Packets, TOGETHER};
use super::GROUP;
use super::lanes::LANES;
use super::poly::gather;

/// Lanes of key blocks and tails, and room for writing many of them at once.
const ROOM: usize = GROUP + GROUP * LANES + LANES;

/// A number of each packet, in lanes of 32 bits.
type Numbers = [__m512i; GROUP / LANES];

/// What is known of the packets.
#[repr(C, align(64))]
pub struct Table {
    /// Their nonces, in lower and upper halves.
    pub nonces: [Numbers; 2],
    /// Their lengths.
    pub lens: [__m512i; GROUP / TOGETHER],
    /// Which block of its text lane 0 would have if the packet's blocks began there.
    pub first: [u32; GROUP],
    /// Whether all have the same key.
    pub same_key: bool,
    /// How many packets there are: the first lanes have their key blocks.
    pub keys: usize,
    /// How many lanes there are: the other ones have what is left of the texts beyond whole sets.
    pub end: usize,
    /// Each lane's packet. Sixteen lanes together are known if one of them is.
    pub lanes: [MaybeUninit<u8>; ROOM],
}

impl Table {
    /// The table of so many packets.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    pub fn fill<'a>(room: &'a mut MaybeUninit<Self>, packets: &[Packets], count: usize) -> &'a Self {
        let table = room.as_mut_ptr();
        let mut numbers = [[_mm512_setzero_si512(); 2]; GROUP / TOGETHER];
        for (numbers, packets) in numbers.iter_mut().zip(packets) {
            // SAFETY: a packet begins with these two, at a multiple of their length.
            *numbers = gather(|lane| unsafe { _mm_load_si128((&raw const packets[lane]).cast()) });
        }
        let [[n0, l0], [n1, l1], [n2, l2], [n3, l3]] = numbers;
        // SAFETY: all of the table is written, but lanes after the end and those that are together with it.
        unsafe {
            (&raw mut (*table).nonces).write([
                [halves::<0>(n0, n1), halves::<0>(n2, n3)],
                [halves::<1>(n0, n1), halves::<1>(n2, n3)],
            ]);
            (&raw mut (*table).lens).write([l0, l1, l2, l3]);
            (&raw mut (*table).keys).write(count);
            let lens = [halves::<0>(l0, l1), halves::<0>(l2, l3)];
            Self::place(table, lens, packets.as_flattened(), count);
            room.assume_init_ref()
        }
    }

    /// Writes which packet each lane has.
    ///
    /// # Safety
    /// The table can be written.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512ifma,bmi2")]
    #[inline]
    unsafe fn place(table: *mut Self, lens: Numbers, packets: &[Packet], count: usize) {
        let mut begins = [0_u32; GROUP];
        let mut end = count;
        // SAFETY: the caller's promise; there are two registers of each number, and room for sixteen lanes at a time.
        unsafe {
            let lanes = (&raw mut (*table).lanes).cast::<u8>();
            for (i, lens) in lens.into_iter().enumerate() {
                let packets = count.saturating_sub(i * LANES).min(LANES);
                let (whole, tails) = blocks(lens);
                let tails = _mm512_maskz_mov_epi32(_bzhi_u32(u32::MAX, packets as u32) as u16, tails);
                let ends = _mm512_add_epi32(_mm512_set1_epi32((end as u32).cast_signed()), sums(tails));
                let begin = _mm512_sub_epi32(ends, tails);
                end = _mm512_reduce_max_epu32(ends) as usize;
                _mm512_storeu_si512(begins.as_mut_ptr().add(i * LANES).cast(), begin);
                let first = (&raw mut (*table).first).cast::<__m512i>().add(i);
                _mm512_storeu_si512(first.cast(), _mm512_sub_epi32(whole, begin));
                let numbers = _mm_add_epi8(iota(), _mm_set1_epi8((i * LANES) as i8));
                _mm_storeu_si128(lanes.add(i * LANES).cast(), numbers);
            }
            let mut number = _mm_setzero_si128();
            let mut same_key = true;
            for (begin, packet) in begins[..count].iter().zip(packets) {
                _mm_storeu_si128(lanes.add(*begin as usize).cast(), number);
                number = _mm_add_epi8(number, _mm_set1_epi8(1));
                same_key &= packet.key == packets[0].key;
            }
            _mm_storeu_si128(lanes.add(end).cast(), number);
            (&raw mut (*table).end).write(end);
            (&raw mut (*table).same_key).write(same_key);
        }
    }

    /// The packet of a lane.
    ///
    /// # Safety
    /// There is such a lane.
    #[inline]
    pub unsafe fn packet(&self, lane: usize) -> usize {
        // SAFETY: lanes that there are have their packets.
        usize::from(unsafe { self.lanes[lane].assume_init() }) % GROUP
    }
}

/// The numbers from 0 on.
#[target_feature(enable = "avx512f,avx512vl")]
#[inline]
fn iota() -> __m128i {
    _mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
}

/// Lower halves of numbers, or upper ones.
#[target_feature(enable = "avx512f")]
#[inline]
fn halves<const UPPER: i32>(a: __m512i, b: __m512i) -> __m512i {
    let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    _mm512_permutex2var_epi32(a, _mm512_add_epi32(even, _mm512_set1_epi32(UPPER)), b)
}

/// Blocks of texts of these lengths: how many are in whole sets, and how many are left.
#[target_feature(enable = "avx512f")]
#[inline]
fn blocks(lens: __m512i) -> (__m512i, __m512i) {
    const { assert!(BLOCK == 1 << 6 && LANES == 1 << 4) };
    let all = _mm512_srli_epi32::<6>(_mm512_add_epi32(lens, _mm512_set1_epi32(63)));
    let whole = _mm512_slli_epi32::<4>(_mm512_srli_epi32::<10>(lens));
    (whole, _mm512_sub_epi32(all, whole))
}

/// Of each lane, the sum of the lanes up to it.
#[target_feature(enable = "avx512f")]
#[inline]
fn sums(x: __m512i) -> __m512i {
    let zero = _mm512_setzero_si512();
    let x = _mm512_add_epi32(x, _mm512_alignr_epi32::<15>(x, zero));
    let x = _mm512_add_epi32(x, _mm512_alignr_epi32::<14>(x, zero));
    let x = _mm512_add_epi32(x, _mm512_alignr_epi32::<12>(x, zero));
    _mm512_add_epi32(x, _mm512_alignr_epi32::<8>(x, zero))
}

/// How many blocks of the packet's text are in whole sets.
#[inline]
pub fn whole_blocks(packet: &Packet) -> usize {
    packet.len / (LANES * BLOCK) * LANES
}

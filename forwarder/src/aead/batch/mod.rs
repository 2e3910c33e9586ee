//! Whole batches at once, in vector lanes.
//!
//! A batch becomes a list of [`Packet`]s, sorted by length; a [`Kernel`] encrypts some of
//! them and computes their tags. A single packet would leave most lanes empty, so ring takes it.
//!
//! Pointers, not slices: seal authenticates what it has just written, by lanes that belong to any packet.
#![allow(unsafe_code)]
// Vectors are read and written where they lie, by instructions that mind no alignment.
#![allow(clippy::cast_ptr_alignment)]
// Other processors have no kernel yet.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod packet;
#[cfg(all(test, target_arch = "x86_64"))]
mod tests;

use std::hint::black_box;
use std::mem::MaybeUninit;

use arrayvec::ArrayVec;

use super::{Open, Seal, TAG_LEN, single};
use packet::{Packet, Packets, TOGETHER};

/// Packets of a kernel's call.
pub const GROUP: usize = 32;

/// Packets that are sorted together.
const BATCH: usize = 64;

/// Of fewer packets than these it is asked whether ring does them faster.
const FEW: usize = 8;

/// The tags of a kernel's call.
type Tags = [[u8; TAG_LEN]; GROUP];

/// Where the packets of a batch are put together.
type Room = [MaybeUninit<Packet>; BATCH];

/// Nothing yet.
const ROOM: Room = [const { MaybeUninit::uninit() }; BATCH];

/// Encrypts or decrypts the texts of some packets, and computes their tags.
///
/// A value is the promise that the processor can do it.
#[derive(Clone, Copy)]
pub struct Kernel {
    run: unsafe fn(&[Packets], usize, *mut Tags),
    /// Ring may do fewer packets than these faster.
    few: usize,
    /// Cycles for packets of these lengths, sorted.
    cost: fn(&[usize]) -> usize,
}

impl Kernel {
    /// The same, and ring gets nothing: for tests of the kernel itself.
    pub fn alone(self) -> Self {
        Self { cost: |_| 0, ..self }
    }

    /// Whether ring does packets of these lengths faster, one by one. That is a question for one call only.
    fn loses(self, lens: impl ExactSizeIterator<Item = usize>) -> bool {
        if lens.len() >= self.few {
            return false;
        }
        let mut lens: ArrayVec<_, FEW> = lens.collect();
        lens.sort_unstable();
        cost_of_ring(&lens) < (self.cost)(&lens)
    }
}

/// The kernel for AVX-512 with IFMA, if the processor has that.
pub fn avx512() -> Option<Kernel> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512ifma")
        && is_x86_feature_detected!("bmi2")
    {
        return Some(Kernel { run: avx512::run, few: FEW, cost: avx512::cost });
    }
    None
}

/// The kernel for AVX2, if the processor has that.
pub fn avx2() -> Option<Kernel> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
        return Some(Kernel { run: avx2::run, few: 4, cost: avx2::cost });
    }
    None
}

/// Seals every job.
pub fn seal(jobs: &mut [Seal<'_>], kernel: Kernel) {
    for jobs in jobs.chunks_mut(BATCH) {
        if kernel.loses(jobs.iter().map(|job| job.destination.len().saturating_sub(TAG_LEN))) {
            jobs.iter_mut().for_each(single::seal);
            continue;
        }
        let mut room = ROOM;
        let (packets, count) = packets(&mut room, jobs, |index, job| {
            let len = job.destination.len().checked_sub(TAG_LEN).expect("the destination has room for a tag");
            assert!(job.source.len() <= len, "the destination has no room for the source");
            let destination = job.destination.as_mut_ptr();
            Some(Packet {
                job: index,
                key: job.key.bytes(),
                nonce: job.counter,
                source: job.source.as_ptr(),
                source_len: job.source.len(),
                destination,
                len,
                ciphertext: destination,
            })
        });
        // SAFETY: pointers and lengths are those of slices that outlive the call.
        unsafe {
            run(packets, count, kernel, |packet, tag| {
                // The tag follows the text.
                packet.destination.add(packet.len).cast::<[u8; TAG_LEN]>().write(*tag);
            });
        }
    }
}

/// Opens every job and says in each whether it is authentic.
pub fn open(jobs: &mut [Open<'_>], kernel: Kernel) {
    for jobs in jobs.chunks_mut(BATCH) {
        if kernel.loses(jobs.iter().map(|job| job.destination.len())) {
            jobs.iter_mut().for_each(single::open);
            continue;
        }
        let mut wrong = 0;
        let mut room = ROOM;
        let (packets, count) = packets(&mut room, jobs, |index, job| {
            let Some((text, _)) = job.source.split_last_chunk::<TAG_LEN>() else {
                job.authentic = false;
                job.destination.fill(0);
                return None;
            };
            assert!(text.len() == job.destination.len(), "the destination is as long as the text");
            Some(Packet {
                job: index,
                key: job.key.bytes(),
                nonce: job.counter,
                source: text.as_ptr(),
                source_len: text.len(),
                destination: job.destination.as_mut_ptr(),
                len: text.len(),
                ciphertext: text.as_ptr(),
            })
        });
        // SAFETY: as above.
        unsafe {
            run(packets, count, kernel, |packet, tag| {
                let job = &mut jobs[packet.job];
                // The tag follows the text.
                let claimed = packet.source.add(packet.len).cast::<[u8; TAG_LEN]>().read();
                let different = u128::from_le_bytes(*tag) ^ u128::from_le_bytes(claimed);
                let different = different as u64 | (different >> 64) as u64;
                wrong |= different;
                // Not by `subtle`, which calls a function for each comparison.
                job.authentic = black_box(different) == 0;
            });
        }
        if wrong != 0 {
            jobs.iter_mut().for_each(wipe_forged);
        }
    }
}

/// Wipes what is not authentic, in the time that it takes to leave what is: which packets of a batch are forged
/// does not show.
fn wipe_forged(job: &mut Open<'_>) {
    let mask = black_box(0_u8.wrapping_sub(u8::from(job.authentic)));
    job.destination.iter_mut().for_each(|byte| *byte &= mask);
}

/// Makes packets of jobs, or of some of them, and sorts them: lanes end together when their packets are about as
/// long. The last one may stand there several times.
///
/// An `ArrayVec` would write its length with each of them; a processor writes two words in a cycle if they are
/// neighbours.
#[inline]
fn packets<'a, J>(
    room: &'a mut Room,
    jobs: &mut [J],
    mut packet: impl FnMut(usize, &mut J) -> Option<Packet>,
) -> (&'a [Packets], usize) {
    let (mut count, mut longest, mut sorted) = (0, 0, true);
    for (i, job) in jobs.iter_mut().enumerate() {
        let Some(packet) = packet(i, job) else { continue };
        sorted &= longest <= packet.len;
        longest = packet.len;
        room[count].write(packet);
        count += 1;
    }
    // SAFETY: so many have been written.
    let packets = unsafe { room[..count].assume_init_mut() };
    if !sorted {
        packets.sort_unstable_by_key(|packet| packet.len);
    }
    if let Some(&last) = packets.last() {
        room[count..count.next_multiple_of(TOGETHER)].fill(MaybeUninit::new(last));
    }
    // SAFETY: as above.
    let packets = unsafe { room[..count.next_multiple_of(TOGETHER)].assume_init_ref() };
    (packets.as_chunks().0, count)
}

/// Runs `count` packets through the kernel and hands out their tags.
///
/// # Safety
/// Sources can be read, destinations can be written.
#[inline]
unsafe fn run(
    packets: &[Packets],
    count: usize,
    kernel: Kernel,
    mut done: impl FnMut(&Packet, &[u8; TAG_LEN]),
) {
    const MOST: usize = GROUP / TOGETHER;
    let mut left = count;
    for group in packets.chunks(if packets.len() <= MOST { MOST } else { packets.len().div_ceil(2) }) {
        let count = left.min(group.len() * TOGETHER);
        left -= count;
        let mut tags = [const { MaybeUninit::<[u8; TAG_LEN]>::uninit() }; GROUP];
        // SAFETY: whoever made the kernel has looked at the processor; the rest is the caller's promise. It has
        // written the tags of that many packets.
        unsafe {
            (kernel.run)(group, count, tags.as_mut_ptr().cast());
            for (packet, tag) in group.as_flattened()[..count].iter().zip(tags[..count].assume_init_ref()) {
                done(packet, tag);
            }
        }
    }
}

/// What packets of these lengths cost in cycles, one by one (measured on Zen 4).
fn cost_of_ring(lens: &[usize]) -> usize {
    lens.iter().map(|len| 520 + len * 3 / 2).sum()
}

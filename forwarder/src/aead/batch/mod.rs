//! Whole batches at once, in vector lanes.
//!
//! A batch becomes a list of [`Packet`]s, sorted by length; a [`Kernel`] encrypts up to [`GROUP`] of
//! them and computes their tags. A single packet would leave most lanes empty, so ring takes it.
//!
//! Pointers, not slices: seal authenticates what it has just written, by lanes that belong to any packet.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx512;
mod plan;

use arrayvec::ArrayVec;
use subtle::ConstantTimeEq;

use super::{Open, Seal, TAG_LEN, single};
use plan::Packet;

/// Packets of a kernel's call: their texts fit into a first-level cache.
pub const GROUP: usize = 16;

/// Packets that are sorted together.
const BATCH: usize = 64;

/// Fewer packets go to ring.
const FEWEST: usize = 2;

/// Encrypts or decrypts the texts of up to [`GROUP`] packets, and computes their tags.
///
/// A value is the promise that the processor can do it.
#[derive(Clone, Copy)]
pub struct Kernel(unsafe fn(&[Packet], &mut [[u8; TAG_LEN]]));

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
        return Some(Kernel(avx512::run));
    }
    None
}

/// Seals every job.
pub fn seal(jobs: &mut [Seal<'_>], kernel: Kernel) {
    for jobs in jobs.chunks_mut(BATCH) {
        if jobs.len() < FEWEST {
            jobs.iter_mut().for_each(single::seal);
            continue;
        }
        let packets = jobs.iter_mut().enumerate().map(|(job, Seal { key, counter, source, destination })| {
            let len = destination.len() - TAG_LEN;
            assert!(source.len() <= len, "the destination has no room for the source");
            let destination = destination.as_mut_ptr();
            Packet {
                job,
                key: key.bytes(),
                nonce: *counter,
                source: source.as_ptr(),
                source_len: source.len(),
                destination,
                len,
                ciphertext: destination,
            }
        });
        // SAFETY: pointers and lengths are those of slices that outlive the call.
        unsafe {
            run(packets.collect(), kernel, |packet, tag| {
                // The tag follows the text.
                packet.destination.add(packet.len).cast::<[u8; TAG_LEN]>().write(*tag);
            });
        }
    }
}

/// Opens every job and says in each whether it is authentic.
pub fn open(jobs: &mut [Open<'_>], kernel: Kernel) {
    for jobs in jobs.chunks_mut(BATCH) {
        if jobs.len() < FEWEST {
            jobs.iter_mut().for_each(single::open);
            continue;
        }
        let mut packets = ArrayVec::new();
        for (index, job) in jobs.iter_mut().enumerate() {
            job.authentic = false;
            let Some((text, _)) = job.source.split_last_chunk::<TAG_LEN>() else {
                job.destination.fill(0);
                continue;
            };
            assert_eq!(text.len(), job.destination.len(), "the destination is as long as the text");
            packets.push(Packet {
                job: index,
                key: job.key.bytes(),
                nonce: job.counter,
                source: text.as_ptr(),
                source_len: text.len(),
                destination: job.destination.as_mut_ptr(),
                len: text.len(),
                ciphertext: text.as_ptr(),
            });
        }
        // SAFETY: as above.
        unsafe {
            run(packets, kernel, |packet, tag| {
                let job = &mut jobs[packet.job];
                let expected = u128::from_le_bytes(*tag);
                let claimed = job.source.last_chunk().map_or(0, |tag| u128::from_le_bytes(*tag));
                job.authentic = expected.ct_eq(&claimed).into();
                if !job.authentic {
                    job.destination.fill(0);
                }
            });
        }
    }
}

/// Runs the packets through the kernel and hands out their tags.
///
/// # Safety
/// Sources can be read, destinations can be written.
#[inline(always)]
unsafe fn run(
    mut packets: ArrayVec<Packet, BATCH>,
    Kernel(kernel): Kernel,
    mut done: impl FnMut(&Packet, &[u8; TAG_LEN]),
) {
    if packets.is_empty() {
        return;
    }
    // Lanes of a group end together when its packets are about as long.
    packets.sort_unstable_by_key(|packet| packet.len);
    let groups = packets.len().div_ceil(GROUP);
    for group in packets.chunks(packets.len().div_ceil(groups)) {
        let mut tags = [[0; TAG_LEN]; GROUP];
        let tags = &mut tags[..group.len()];
        // SAFETY: whoever made the kernel has looked at the processor; the rest is the caller's promise.
        unsafe { kernel(group, tags) };
        for (packet, tag) in group.iter().zip(tags) {
            done(packet, tag);
        }
    }
}

//! Buffers that end, or begin, where memory does: a byte too far faults, read or written.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect, munmap};

use super::*;

/// A multiple of any processor's pages, and longer than any frame.
const ROOM: usize = 1 << 16;

/// Memory between pages that nobody may touch.
struct Walled(NonNull<c_void>);

impl Walled {
    fn new() -> Self {
        let len = NonZeroUsize::new(3 * ROOM).unwrap();
        // SAFETY: new memory, which nobody else has; its middle is made accessible.
        unsafe {
            let start = mmap_anonymous(None, len, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE).unwrap();
            mprotect(start.byte_add(ROOM), ROOM, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE).unwrap();
            Self(start)
        }
    }

    /// The last bytes, or the first ones.
    fn get(&mut self, len: usize, last: bool) -> &mut [u8] {
        // SAFETY: the middle can be read and written, and is borrowed as long as the slice.
        let room = unsafe { std::slice::from_raw_parts_mut(self.0.byte_add(ROOM).as_ptr().cast(), ROOM) };
        if last { &mut room[ROOM - len..] } else { &mut room[..len] }
    }
}

impl Drop for Walled {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nothing borrows from it any more.
        unsafe { munmap(self.0, 3 * ROOM).unwrap() };
    }
}

/// Every length, with and without padding, in batches that share lanes.
#[test]
fn no_byte_beside_a_buffer_is_read_or_written() {
    const BATCH: usize = 17;
    let mut sources: Vec<_> = (0..BATCH).map(|_| Walled::new()).collect();
    let mut destinations: Vec<_> = (0..BATCH).map(|_| Walled::new()).collect();
    let key = Key::new(&[5; 32]);
    for engine in Engine::runnable() {
        for (first, last) in (0..1500).step_by(BATCH).flat_map(|first| [(first, true), (first, false)]) {
            let case = |len: usize| Case {
                padding: len * (len % 2) % 16,
                ..Case::new([5; 32], len as u64, vec![len as u8; len])
            };
            let cases: Vec<_> = (first..first + BATCH).map(case).collect();
            let messages: Vec<_> = cases.iter().map(Case::sealed).collect();

            let buffers = cases.iter().zip(sources.iter_mut().zip(&mut destinations));
            let jobs = buffers.map(|(case, (source, destination))| {
                let source = source.get(case.text.len(), last);
                source.copy_from_slice(&case.text);
                let destination = destination.get(case.text.len() + case.padding + TAG_LEN, last);
                Seal { key: &key, counter: case.counter, source, destination }
            });
            let mut jobs: Vec<_> = jobs.collect();
            engine.seal_alone(&mut jobs);
            for (job, message) in jobs.iter().zip(&messages) {
                assert!(*job.destination == **message, "{engine}: sealed {} bytes", message.len());
            }

            let buffers = cases.iter().zip(&messages).zip(sources.iter_mut().zip(&mut destinations));
            let jobs = buffers.map(|((case, message), (source, destination))| {
                let source = source.get(message.len(), last);
                source.copy_from_slice(message);
                let destination = destination.get(message.len() - TAG_LEN, last);
                Open { key: &key, counter: case.counter, source, destination, authentic: false }
            });
            let mut jobs: Vec<_> = jobs.collect();
            engine.open_alone(&mut jobs);
            for (job, case) in jobs.iter().zip(&cases) {
                assert!(job.authentic && *job.destination == *case.padded(), "{engine}: {}", case.text.len());
            }
        }
    }
}

//! The ring of provided buffers (`io_uring_register_buf_ring(3)`).
#![allow(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::IoUring;
use io_uring::types::BufRingEntry;

/// The ring of receive buffers that the kernel takes from.
pub(super) struct BufferRing {
    entries: &'static mut [Page],
    mask: u16,
    tail: u16,
    room: u32,
}

#[repr(C, align(4096))]
struct Page([u8; 4096]);

impl BufferRing {
    /// Registers an empty ring. Its memory is never freed, as the kernel may use it a little longer than
    /// the ring lives.
    pub(super) fn register(ring: &IoUring, group: u16, count: u16, room: usize) -> io::Result<Self> {
        let pages = (usize::from(count) * size_of::<BufRingEntry>()).div_ceil(4096);
        let entries: &'static mut [Page] = (0..pages).map(|_| Page([0; 4096])).collect::<Vec<_>>().leak();
        // SAFETY: page-aligned memory that lives for ever and holds `count` entries.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(entries.as_mut_ptr() as u64, count, group, 0)
        }?;
        Ok(Self { entries, mask: count - 1, tail: 0, room: room as u32 })
    }

    /// Bytes of one buffer.
    pub(super) fn room(&self) -> u32 {
        self.room
    }

    /// Gives a buffer to the kernel, which names it by `index` when it is filled.
    pub(super) fn push(&mut self, memory: *mut u8, len: usize, index: u16) {
        let base = self.entries.as_mut_ptr().cast::<BufRingEntry>();
        // SAFETY: the masked position lies in the ring; the kernel does not read the entry before the tail
        // has passed it. The tail is the first entry's last field, which the setters leave alone.
        unsafe {
            let entry = &mut *base.add(usize::from(self.tail & self.mask));
            entry.set_addr(memory as u64);
            entry.set_len(len as u32);
            entry.set_bid(index);
            self.tail = self.tail.wrapping_add(1);
            let tail = BufRingEntry::tail(base).cast::<AtomicU16>();
            (*tail).store(self.tail, Ordering::Release);
        }
    }
}

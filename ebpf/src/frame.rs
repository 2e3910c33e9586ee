//! The frame's bytes, readable only within its bounds.

use aya_ebpf::programs::XdpContext;

/// A received frame: addresses of its first byte and of the byte behind its last.
#[derive(Clone, Copy)]
pub struct Frame {
    start: usize,
    end: usize,
}

/// A header that may lie at any offset of a frame.
///
/// # Safety
///
/// Every bit pattern is a valid value, and the alignment is one.
pub unsafe trait Header {}

// SAFETY: bytes.
unsafe impl<const N: usize> Header for [u8; N] {}

impl Frame {
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Self { start: context.data(), end: context.data_end() }
    }

    /// The header at `offset`, or `None` when it does not lie wholly within the frame.
    #[inline(always)]
    pub fn header<T: Header>(&self, offset: usize) -> Option<&T> {
        let start = self.start + offset;
        if start + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: just checked to lie within the frame, which lives as long as the program runs;
        // `Header` takes any alignment and any bytes.
        Some(unsafe { &*(start as *const T) })
    }

    /// Bytes from `offset` to the end of the frame; `offset` lies within it.
    #[inline(always)]
    pub fn len_from(&self, offset: usize) -> usize {
        self.end - self.start - offset
    }
}

//! Frames: fixed pieces of memory that are taken at start and never given back to the system.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::{fmt, io, slice};

use super::dump;

/// One piece of an [`Arena`]. Whoever holds the value owns the bytes; it cannot be cloned.
///
/// A frame has no destructor: it must return to its port. Ports count what they handed out, and tests
/// assert that none leaks.
///
/// It is two words, which travel in registers: a larger one is moved through memory, and a processor that loads
/// what was just stored in parts waits for it.
///
/// # Invariant
/// `memory` came from a `&'static mut [u8]` of at least `place.room()` bytes, which nobody else has as long as the
/// frame lives; offset and length lie within it.
#[derive(Debug)]
pub struct Frame {
    memory: NonNull<u8>,
    place: Place,
}

// SAFETY: a frame is the one owner of plain bytes, as `&mut [u8]` is.
unsafe impl Send for Frame {}

/// Index, room, and the packet's offset and length, 16 bits each.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    fn new(index: u16, room: u16, start: u16, len: u16) -> Self {
        Self(u64::from(index) << 48 | u64::from(room) << 32 | u64::from(start) << 16 | u64::from(len))
    }

    fn index(self) -> u16 {
        (self.0 >> 48) as u16
    }

    fn room(self) -> u16 {
        (self.0 >> 32) as u16
    }

    fn start(self) -> u16 {
        (self.0 >> 16) as u16
    }

    fn len(self) -> u16 {
        self.0 as u16
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} at {} of {}", self.index(), self.len(), self.start(), self.room())
    }
}

impl Frame {
    /// Wraps memory that nobody else can reach, of which the first 64 KiB less a byte are used; `index` is the
    /// port's name for it.
    pub fn new(memory: &'static mut [u8], index: u16) -> Self {
        let room = memory.len().min(usize::from(u16::MAX)) as u16;
        Self { memory: NonNull::from_mut(memory).cast(), place: Place::new(index, room, 0, 0) }
    }

    /// The port's name for this frame.
    pub fn index(&self) -> u16 {
        self.place.index()
    }

    /// Bytes of room in the whole frame.
    pub fn room(&self) -> usize {
        usize::from(self.place.room())
    }

    /// Sets which bytes of the frame are the packet; a range outside the frame is cut to it.
    pub fn set_range(&mut self, start: usize, len: usize) {
        let start = start.min(self.room());
        let len = len.min(self.room() - start);
        self.place = Place::new(self.index(), self.place.room(), start as u16, len as u16);
    }

    /// Offset of the packet in the frame.
    pub fn start(&self) -> usize {
        usize::from(self.place.start())
    }

    /// Length of the packet in bytes.
    pub fn len(&self) -> usize {
        usize::from(self.place.len())
    }

    /// Whether the packet is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The packet.
    pub fn bytes(&self) -> &[u8] {
        &self.memory()[self.start()..][..self.len()]
    }

    /// The packet, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let (start, len) = (self.start(), self.len());
        &mut self.memory_mut()[start..][..len]
    }

    /// The whole frame, whatever the range.
    pub fn memory(&self) -> &[u8] {
        // SAFETY: the invariant, and the frame is borrowed as long as the slice.
        unsafe { slice::from_raw_parts(self.memory.as_ptr(), self.room()) }
    }

    /// The whole frame, to be changed, whatever the range.
    pub fn memory_mut(&mut self) -> &mut [u8] {
        // SAFETY: the invariant, and the frame is borrowed mutably as long as the slice.
        unsafe { slice::from_raw_parts_mut(self.memory.as_ptr(), self.room()) }
    }

    /// Where the frame's memory is, and its index, for the port that made it.
    pub fn into_parts(self) -> (usize, u16) {
        (self.memory.addr().get(), self.index())
    }
}

/// Ordinary memory cut into frames, for ports that need no UMEM. It is never freed: ports live as
/// long as the process.
#[derive(Debug)]
pub struct Arena {
    free: Vec<Frame>,
}

impl Arena {
    /// Takes `count` frames, at most 65,536, of `room` bytes each.
    ///
    /// # Errors
    /// There is no memory for them, or they are more.
    pub fn new(count: usize, room: usize) -> io::Result<Self> {
        if count > 1 << 16 {
            return Err(io::Error::other(format!("{count} frames, of which indices of 16 bits name 65536")));
        }
        let pages = dump::pages(count * room)?.chunks_exact_mut(room);
        Ok(Self { free: pages.zip(0..=u16::MAX).map(|(memory, index)| Frame::new(memory, index)).collect() })
    }

    /// A free frame with an empty range, the one that came back last (it is still in the cache).
    pub fn take(&mut self) -> Option<Frame> {
        self.free.pop()
    }

    /// Takes a frame back.
    pub fn give(&mut self, mut frame: Frame) {
        frame.set_range(0, 0);
        self.free.push(frame);
    }

    /// Frames that are free now.
    pub fn available(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two registers hold a frame, also where there may be none.
    #[test]
    fn a_frame_is_two_words() {
        assert_eq!([size_of::<Frame>(), size_of::<Option<Frame>>()], [2 * size_of::<usize>(); 2]);
    }

    #[test]
    fn an_arena_names_all_its_frames() {
        let mut arena = Arena::new(1 << 16, 1).unwrap();
        let indices: Vec<u16> = std::iter::from_fn(|| arena.take()).map(|frame| frame.index()).collect();
        assert_eq!(indices, (0..=u16::MAX).rev().collect::<Vec<_>>());
        assert!(Arena::new((1 << 16) + 1, 1).is_err());
    }

    #[test]
    fn memory_beyond_64_kib_is_not_used() {
        let frame = Frame::new(vec![0; 70_000].leak(), 7);
        assert_eq!((frame.index(), frame.room(), frame.memory().len()), (7, 65_535, 65_535));
    }

    proptest! {
        /// Any range is cut to the frame; reading and writing meet the same bytes.
        #[test]
        fn ranges_lie_in_the_frame(room in 0_usize..3000, start in 0_usize..4000, len in 0_usize..70_000) {
            let bytes: Vec<u8> = (0..room).map(|i| i as u8).collect();
            let from = start.min(room);
            let expected = bytes[from..(from + len).min(room)].to_vec();
            let mut frame = Frame::new(bytes.leak(), u16::MAX);
            frame.set_range(start, len);
            prop_assert_eq!((frame.index(), frame.room(), frame.start()), (u16::MAX, room, from));
            prop_assert_eq!((frame.bytes(), frame.len()), (&expected[..], expected.len()));
            frame.bytes_mut().fill(0xaa);
            prop_assert!(frame.memory()[from..][..expected.len()].iter().all(|byte| *byte == 0xaa));
            let untouched = frame.memory()[..from].iter().enumerate().all(|(i, byte)| *byte == i as u8);
            prop_assert!(untouched, "what lies before the range was written");
        }
    }
}

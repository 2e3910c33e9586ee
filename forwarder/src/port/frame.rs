//! Frames: fixed pieces of memory that are taken at start and never given back to the system.

use std::{fmt, io};

use super::dump;

/// One piece of an [`Arena`]. Whoever holds the value owns the bytes; it cannot be cloned.
///
/// A frame has no destructor: it must return to its port. Ports count what they handed out, and tests
/// assert that none leaks.
#[derive(Debug)]
pub struct Frame {
    memory: &'static mut [u8],
    place: Place,
}

/// Index (32 bits), offset and length of the packet (16 bits each) in one word: frames are moved right after they
/// were made, and a processor waits for the store of a part when the whole is loaded.
#[derive(Clone, Copy)]
struct Place(u64);

impl Place {
    fn new(index: u32, start: u16, len: u16) -> Self {
        Self(u64::from(index) << 32 | u64::from(start) << 16 | u64::from(len))
    }

    fn index(self) -> u32 {
        (self.0 >> 32) as u32
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
        write!(f, "{}: {} at {}", self.index(), self.len(), self.start())
    }
}

impl Frame {
    /// Wraps memory that nobody else can reach, of which the first 64 KiB less a byte can hold a packet; `index`
    /// is the port's name for it.
    pub fn new(memory: &'static mut [u8], index: u32) -> Self {
        Self { memory, place: Place::new(index, 0, 0) }
    }

    /// The port's name for this frame.
    pub fn index(&self) -> u32 {
        self.place.index()
    }

    /// Bytes of room in the whole frame.
    pub fn room(&self) -> usize {
        self.memory.len()
    }

    /// Sets which bytes of the frame are the packet; a range outside the frame is cut to it.
    pub fn set_range(&mut self, start: usize, len: usize) {
        let room = self.memory.len().min(usize::from(u16::MAX));
        let start = start.min(room);
        let len = len.min(room - start);
        self.place = Place::new(self.index(), start as u16, len as u16);
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
        &self.memory[self.start()..][..self.len()]
    }

    /// The packet, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let (start, len) = (self.start(), self.len());
        &mut self.memory[start..][..len]
    }

    /// The whole frame, whatever the range.
    pub fn memory(&self) -> &[u8] {
        self.memory
    }

    /// The whole frame, to be changed, whatever the range.
    pub fn memory_mut(&mut self) -> &mut [u8] {
        self.memory
    }

    /// Takes the frame apart into its memory and index, for the port that made it.
    pub fn into_parts(self) -> (&'static mut [u8], u32) {
        (self.memory, self.place.index())
    }
}

/// Ordinary memory cut into frames, for ports that need no UMEM. It is never freed: ports live as
/// long as the process.
#[derive(Debug)]
pub struct Arena {
    free: Vec<Frame>,
}

impl Arena {
    /// Takes `count` frames of `room` bytes each.
    ///
    /// # Errors
    /// There is no memory for them.
    pub fn new(count: usize, room: usize) -> io::Result<Self> {
        let pages = dump::pages(count * room)?.chunks_exact_mut(room);
        Ok(Self { free: pages.zip(0..).map(|(memory, index)| Frame::new(memory, index)).collect() })
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

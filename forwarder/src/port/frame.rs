//! Frames: fixed pieces of memory that are taken at start and never given back to the system.

use std::io;

use super::dump;

/// One piece of an [`Arena`]. Whoever holds the value owns the bytes; it cannot be cloned.
///
/// A frame has no destructor: it must return to its port. Ports count what they handed out, and tests
/// assert that none leaks.
#[derive(Debug)]
pub struct Frame {
    memory: &'static mut [u8],
    index: u32,
    start: u32,
    len: u32,
}

impl Frame {
    /// Wraps memory that nobody else can reach; `index` is the port's name for it.
    pub fn new(memory: &'static mut [u8], index: u32) -> Self {
        Self { memory, index, start: 0, len: 0 }
    }

    /// The port's name for this frame.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Bytes of room in the whole frame.
    pub fn room(&self) -> usize {
        self.memory.len()
    }

    /// Sets which bytes of the frame are the packet; a range outside the frame is cut to it.
    pub fn set_range(&mut self, start: usize, len: usize) {
        let start = start.min(self.memory.len());
        self.start = start as u32;
        self.len = len.min(self.memory.len() - start) as u32;
    }

    /// Offset of the packet in the frame.
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// Length of the packet in bytes.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether the packet is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The packet.
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start as usize..][..self.len as usize]
    }

    /// The packet, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start as usize..][..self.len as usize]
    }

    /// The whole frame, whatever the range.
    pub fn memory_mut(&mut self) -> &mut [u8] {
        self.memory
    }

    /// Takes the frame apart into its memory and index, for the port that made it.
    pub fn into_parts(self) -> (&'static mut [u8], u32) {
        (self.memory, self.index)
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
        let mut frame = self.free.pop()?;
        frame.set_range(0, 0);
        Some(frame)
    }

    /// Takes a frame back.
    pub fn give(&mut self, frame: Frame) {
        self.free.push(frame);
    }

    /// Frames that are free now.
    pub fn available(&self) -> usize {
        self.free.len()
    }
}

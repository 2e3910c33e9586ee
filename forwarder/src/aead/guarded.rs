//! Buffers beside which nobody may write, for tests and fuzzing.

/// Bytes before and after each buffer that nobody may touch, and what they are.
pub const CANARY: usize = 128;
pub const UNTOUCHED: u8 = 0xa5;

/// A buffer within canaries.
pub struct Guarded {
    memory: Vec<u8>,
    start: usize,
}

impl Guarded {
    /// With what nobody has touched in it, too. It begins `skew` bytes from an aligned address.
    pub fn new(len: usize, skew: usize) -> Self {
        Self::with(&vec![UNTOUCHED; len], skew)
    }

    pub fn with(content: &[u8], skew: usize) -> Self {
        let start = CANARY + skew;
        let mut memory = vec![UNTOUCHED; start + content.len() + CANARY];
        memory[start..][..content.len()].copy_from_slice(content);
        Self { memory, start }
    }

    pub fn get(&mut self) -> &mut [u8] {
        let end = self.memory.len() - CANARY;
        &mut self.memory[self.start..end]
    }

    /// The content, if nothing beside it was touched.
    pub fn content(&self) -> &[u8] {
        let (before, rest) = self.memory.split_at(self.start);
        let (content, after) = rest.split_at(rest.len() - CANARY);
        assert!(before.iter().chain(after).all(|byte| *byte == UNTOUCHED), "written beside a buffer");
        content
    }
}

//! An input as a list of choices.

/// Reads an input from its front; beyond its end everything is zero.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self(input)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    pub(crate) fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// Up to `n` bytes; fewer at the end.
    pub(crate) fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A position in something of that length; zero when it is empty.
    pub(crate) fn below(&mut self, len: usize) -> usize {
        usize::from(self.word()) % len.max(1)
    }

    /// Changes, lengthens or cuts a message, in a few places at most.
    pub(crate) fn bend(&mut self, message: &mut Vec<u8>) {
        for _ in 0..self.byte() % 4 {
            match self.byte() % 8 {
                0 => message.truncate(self.below(message.len() + 1)),
                1 => {
                    let len = usize::from(self.byte());
                    message.extend_from_slice(self.bytes(len));
                }
                _ => {
                    let (at, bits) = (self.below(message.len()), self.byte());
                    if let Some(byte) = message.get_mut(at) {
                        *byte ^= bits;
                    }
                }
            }
        }
    }
}

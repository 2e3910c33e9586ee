//! What kernels are given.

/// Bytes of a `ChaCha20` block.
pub const BLOCK: usize = 64;

/// Packets that some lanes look at together.
pub const TOGETHER: usize = 8;

/// Such packets.
pub type Packets = [Packet; TOGETHER];

/// One packet of a batch: words that are written one after the other.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub struct Packet {
    /// The packet's counter.
    pub nonce: u64,
    /// Its length in bytes, not less than the source's.
    pub len: usize,
    /// Which job of the batch it is.
    pub job: usize,
    /// The key.
    pub key: *const [u8; 32],
    /// The text to encrypt or decrypt.
    pub source: *const u8,
    /// Its length in bytes; beyond it the text is zero.
    pub source_len: usize,
    /// Where the result goes.
    pub destination: *mut u8,
    /// The ciphertext, source or destination.
    pub ciphertext: *const u8,
}

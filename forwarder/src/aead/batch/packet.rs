//! What kernels are given.

/// Bytes of a `ChaCha20` block.
pub const BLOCK: usize = 64;

/// One packet of a batch.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Which job of the batch it is.
    pub job: usize,
    /// The key.
    pub key: *const [u8; 32],
    /// The packet's counter.
    pub nonce: u64,
    /// The text to encrypt or decrypt.
    pub source: *const u8,
    /// Its length in bytes; beyond it the text is zero.
    pub source_len: usize,
    /// Where the result goes.
    pub destination: *mut u8,
    /// Its length in bytes, not less than the source's.
    pub len: usize,
    /// The ciphertext, source or destination.
    pub ciphertext: *const u8,
}

//! Bulk `ChaCha20-Poly1305` (RFC 8439) over batches of WireGuard data messages.
//!
//! One interface, `seal` and `open`, over jobs that may belong to different keys and have different
//! lengths. The nonce is 4 zero bytes and the 64-bit little-endian counter; there is no associated data
//! (WireGuard whitepaper, section 5.4.6).
//!
//! Several engines do the same work. The best that the processor can do is chosen once ([`engine()`]).

mod batch;
mod engine;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod guarded;
mod key;
mod portable;
mod single;
#[cfg(test)]
mod tests;

pub use engine::{Engine, Unusable, choose, engine};
pub use key::Key;

/// Bytes of an authentication tag.
pub const TAG_LEN: usize = 16;

/// One packet to seal.
#[derive(Debug)]
pub struct Seal<'a> {
    /// The session's sending key.
    pub key: &'a Key,
    /// The counter; used once with this key.
    pub counter: u64,
    /// The plaintext. It may be shorter than `destination` wants: the rest is padded with zeros.
    pub source: &'a [u8],
    /// Ciphertext and tag go here: padded plaintext length + [`TAG_LEN`] bytes.
    pub destination: &'a mut [u8],
}

/// One packet to open.
#[derive(Debug)]
pub struct Open<'a> {
    /// The session's receiving key.
    pub key: &'a Key,
    /// The counter from the message.
    pub counter: u64,
    /// Ciphertext and tag.
    pub source: &'a [u8],
    /// The plaintext goes here: `source.len() - TAG_LEN` bytes. All zero when `authentic` is false.
    pub destination: &'a mut [u8],
    /// Whether the tag was right; set by [`open`].
    pub authentic: bool,
}

/// Seals every job.
///
/// # Panics
/// When a destination is not at least `source.len() + TAG_LEN` bytes long: a bug in the caller, which
/// sizes both from one length.
pub fn seal(jobs: &mut [Seal<'_>]) {
    engine().seal(jobs);
}

/// Opens every job and says in each whether it is authentic.
///
/// # Panics
/// When a destination is not `source.len() - TAG_LEN` bytes long, although the source has a tag: as above.
pub fn open(jobs: &mut [Open<'_>]) {
    engine().open(jobs);
}

/// Seals one packet, for engines that know no batches: `encrypt` gets key, nonce, padded text and the tag's place.
fn seal_one(job: &mut Seal<'_>, encrypt: impl FnOnce(&Key, [u8; 12], &mut [u8], &mut [u8])) {
    let (text, tag) = job.destination.split_at_mut(job.destination.len() - TAG_LEN);
    let (data, padding) = text.split_at_mut(job.source.len());
    data.copy_from_slice(job.source);
    padding.fill(0);
    encrypt(job.key, nonce(job.counter), text, tag);
}

/// Opens one packet, the same way: `decrypt` says whether text and tag are authentic.
fn open_one(job: &mut Open<'_>, decrypt: impl FnOnce(&Key, [u8; 12], &mut [u8], [u8; TAG_LEN]) -> bool) {
    job.authentic = job.source.split_last_chunk().is_some_and(|(text, tag)| {
        job.destination.copy_from_slice(text);
        decrypt(job.key, nonce(job.counter), job.destination, *tag)
    });
    if !job.authentic {
        job.destination.fill(0);
    }
}

/// The 96-bit nonce.
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

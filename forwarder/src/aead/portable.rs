//! `RustCrypto`'s ChaCha20-Poly1305 under the batch interface, for processors that ring does not know.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};

use super::{Open, Seal, TAG_LEN, nonce};

pub(super) fn seal(job: &mut Seal<'_>) {
    let (text, tag) = job.destination.split_at_mut(job.destination.len() - TAG_LEN);
    let (data, padding) = text.split_at_mut(job.source.len());
    data.copy_from_slice(job.source);
    padding.fill(0);
    let sealed = ChaCha20Poly1305::new(job.key.bytes().into())
        .encrypt_in_place_detached(&nonce(job.counter).into(), b"", text)
        .expect("a packet is far shorter than ChaCha20's limit of 256 GiB");
    tag.copy_from_slice(&sealed);
}

pub(super) fn open(job: &mut Open<'_>) {
    job.authentic = decrypt(job).is_some();
    if !job.authentic {
        job.destination.fill(0);
    }
}

fn decrypt(job: &mut Open<'_>) -> Option<()> {
    let (text, tag) = job.source.split_last_chunk::<TAG_LEN>()?;
    job.destination.copy_from_slice(text);
    ChaCha20Poly1305::new(job.key.bytes().into())
        .decrypt_in_place_detached(&nonce(job.counter).into(), b"", job.destination, tag.into())
        .ok()
}

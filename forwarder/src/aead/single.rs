//! ring's single-packet ChaCha20-Poly1305 under the batch interface.

use ring::aead::{Aad, Nonce, Tag};

use super::{Open, Seal, TAG_LEN, nonce};

pub(super) fn seal(job: &mut Seal<'_>) {
    let (text, tag) = job.destination.split_at_mut(job.destination.len() - TAG_LEN);
    let (data, padding) = text.split_at_mut(job.source.len());
    data.copy_from_slice(job.source);
    padding.fill(0);
    let nonce = Nonce::assume_unique_for_key(nonce(job.counter));
    let sealed = job
        .key
        .ring()
        .seal_in_place_separate_tag(nonce, Aad::empty(), text)
        .expect("a packet is far shorter than ChaCha20's limit of 256 GiB");
    tag.copy_from_slice(sealed.as_ref());
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
    let nonce = Nonce::assume_unique_for_key(nonce(job.counter));
    job.key
        .ring()
        .open_in_place_separate_tag(nonce, Aad::empty(), Tag::from(*tag), job.destination, 0..)
        .ok()?;
    Some(())
}

//! ring's single-packet ChaCha20-Poly1305 under the batch interface.

use ring::aead::{Aad, Nonce, Tag};

use super::{Open, Seal, open_one, seal_one};

pub(super) fn seal(job: &mut Seal<'_>) {
    seal_one(job, |key, nonce, text, tag| {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let sealed = key.ring().seal_in_place_separate_tag(nonce, Aad::empty(), text);
        tag.copy_from_slice(
            sealed.expect("a packet is far shorter than ChaCha20's limit of 256 GiB").as_ref(),
        );
    });
}

pub(super) fn open(job: &mut Open<'_>) {
    open_one(job, |key, nonce, text, tag| {
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.ring().open_in_place_separate_tag(nonce, Aad::empty(), Tag::from(tag), text, 0..).is_ok()
    });
}

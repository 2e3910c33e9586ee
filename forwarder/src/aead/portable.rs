//! `RustCrypto`'s ChaCha20-Poly1305 under the batch interface: the second, independent implementation.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};

use super::{Open, Seal, open_one, seal_one};

pub(super) fn seal(job: &mut Seal<'_>) {
    seal_one(job, |key, nonce, text, tag| {
        let cipher = ChaCha20Poly1305::new(key.bytes().into());
        let sealed = cipher.encrypt_in_place_detached(&nonce.into(), b"", text);
        tag.copy_from_slice(&sealed.expect("a packet is far shorter than ChaCha20's limit of 256 GiB"));
    });
}

pub(super) fn open(job: &mut Open<'_>) {
    open_one(job, |key, nonce, text, tag| {
        let cipher = ChaCha20Poly1305::new(key.bytes().into());
        cipher.decrypt_in_place_detached(&nonce.into(), b"", text, &tag.into()).is_ok()
    });
}

//! ring's single-packet ChaCha20-Poly1305 under the batch interface.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, Tag, UnboundKey};
use zeroize::Zeroize;

use super::{Open, Seal, TAG_LEN};

/// A 256-bit key, expanded for the engine; wiped when dropped.
///
/// ring's own type does not wipe itself, hence the `MaybeUninit`, which can be overwritten. It is
/// initialised from `new` until the end of `drop`. The box keeps it in one place: moving a session
/// leaves no copy behind.
pub struct Key(Box<MaybeUninit<LessSafeKey>>);

impl Key {
    /// Takes the key bytes into the engine's form.
    pub fn new(bytes: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("32 bytes are a ChaCha20-Poly1305 key");
        Self(Box::new(MaybeUninit::new(LessSafeKey::new(key))))
    }

    fn get(&self) -> &LessSafeKey {
        // SAFETY: initialised by `new`; only `drop` overwrites it, and it owns the value exclusively.
        unsafe { self.0.assume_init_ref() }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        // ring's key owns no memory outside of itself, so nothing is lost by not dropping it.
        self.0.zeroize();
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

pub(super) fn seal(job: &mut Seal<'_>) {
    let (text, tag) = job.destination.split_at_mut(job.destination.len() - TAG_LEN);
    let (data, padding) = text.split_at_mut(job.source.len());
    data.copy_from_slice(job.source);
    padding.fill(0);
    let sealed = job
        .key
        .get()
        .seal_in_place_separate_tag(nonce(job.counter), Aad::empty(), text)
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
    let tag = Tag::from(*tag);
    job.key
        .get()
        .open_in_place_separate_tag(nonce(job.counter), Aad::empty(), tag, job.destination, 0..)
        .ok()?;
    Some(())
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::aead::AeadInPlace;
    use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
    use proptest::prelude::*;

    use super::super::{open, seal};
    use super::*;

    fn sealed(key: &[u8; 32], counter: u64, source: &[u8], padded: usize) -> Vec<u8> {
        let mut destination = vec![0xaa; padded + TAG_LEN];
        let key = Key::new(key);
        seal(&mut [Seal { key: &key, counter, source, destination: &mut destination }]);
        destination
    }

    fn opened(key: &[u8; 32], counter: u64, source: &[u8]) -> (bool, Vec<u8>) {
        let mut destination = vec![0xaa; source.len().saturating_sub(TAG_LEN)];
        let key = Key::new(key);
        let mut jobs = [Open { key: &key, counter, source, destination: &mut destination, authentic: true }];
        open(&mut jobs);
        (jobs[0].authentic, destination)
    }

    fn reference(key: &[u8; 32], counter: u64, text: &[u8]) -> Vec<u8> {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        let mut buffer = text.to_vec();
        let cipher = ChaCha20Poly1305::new(key.into());
        let tag = cipher.encrypt_in_place_detached(&nonce.into(), b"", &mut buffer).expect("short");
        buffer.extend_from_slice(&tag);
        buffer
    }

    /// RFC 8439, appendix A.5: key and nonce of the vector, whose first four nonce bytes are zero as
    /// WireGuard has them. The ciphertext does not depend on the associated data.
    #[test]
    fn rfc8439_appendix_a5() {
        let key: [u8; 32] = hex::decode("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0")
            .expect("hex")
            .try_into()
            .expect("32 bytes");
        let counter = u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8]);
        let text = b"Internet-Drafts are draft documents valid for a";
        let expected = "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb2\
                        4c6cfc18755d43eea09ee94e382d26";
        let sealed = sealed(&key, counter, text, text.len());
        assert_eq!(hex::encode(&sealed[..text.len()]), expected);
    }

    #[test]
    fn every_length_agrees_with_an_independent_implementation() {
        let key = [7; 32];
        for length in 0..=1500_usize {
            let counter = (length as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let text: Vec<u8> = (0..length).map(|i| (i * 31 + length) as u8).collect();
            let expected = reference(&key, counter, &text);
            assert_eq!(sealed(&key, counter, &text, length), expected, "length {length}");
            assert_eq!(opened(&key, counter, &expected), (true, text), "length {length}");
        }
    }

    #[test]
    fn padding_is_zero_and_authenticated() {
        let expected = reference(&[9; 32], 3, &[1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(sealed(&[9; 32], 3, &[1, 2, 3, 4, 5], 16), expected);
    }

    #[test]
    fn one_batch_may_mix_keys_and_lengths() {
        let keys = [Key::new(&[1; 32]), Key::new(&[2; 32])];
        let (mut a, mut b) = ([0; 32 + TAG_LEN], [0; TAG_LEN]);
        seal(&mut [
            Seal { key: &keys[0], counter: 5, source: &[3; 32], destination: &mut a },
            Seal { key: &keys[1], counter: 5, source: &[], destination: &mut b },
        ]);
        assert_eq!(a[..], reference(&[1; 32], 5, &[3; 32])[..]);
        assert_eq!(b[..], reference(&[2; 32], 5, &[])[..]);
    }

    #[test]
    fn shorter_than_a_tag_is_not_authentic() {
        for length in 0..TAG_LEN {
            assert!(!opened(&[1; 32], 0, &vec![0; length]).0);
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_fails_and_leaves_zeros(
            text in proptest::collection::vec(any::<u8>(), 0..300),
            counter: u64,
            flip: prop::sample::Index,
        ) {
            let mut message = sealed(&[5; 32], counter, &text, text.len());
            let bit = flip.index(message.len() * 8);
            message[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(opened(&[5; 32], counter, &message), (false, vec![0; text.len()]));
        }

        #[test]
        fn another_counter_or_key_fails(text in proptest::collection::vec(any::<u8>(), 1..100), counter: u64) {
            let message = sealed(&[5; 32], counter, &text, text.len());
            prop_assert!(!opened(&[5; 32], counter ^ 1, &message).0);
            prop_assert!(!opened(&[6; 32], counter, &message).0);
        }
    }
}

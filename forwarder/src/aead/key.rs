//! Session keys.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

use ring::aead::{CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use zeroize::Zeroize;

/// A 256-bit key in the forms that the engines want; wiped when dropped.
///
/// The box keeps it in one place: moving a session leaves no copy behind.
pub struct Key(Box<Forms>);

/// ring's own type does not wipe itself, hence the `MaybeUninit`, which can be overwritten. It is
/// initialised from `new` until the end of `drop`.
struct Forms {
    bytes: [u8; 32],
    ring: MaybeUninit<LessSafeKey>,
}

impl Key {
    /// Takes the key bytes into the engines' forms.
    pub fn new(bytes: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, bytes).expect("32 bytes are a ChaCha20-Poly1305 key");
        Self(Box::new(Forms { bytes: *bytes, ring: MaybeUninit::new(LessSafeKey::new(key)) }))
    }

    /// Puts another key in the place of this one, for tests that compare addresses.
    #[cfg(all(test, target_arch = "x86_64"))]
    pub(super) fn replace(&mut self, bytes: &[u8; 32]) {
        std::mem::swap(&mut *self.0, &mut *Self::new(bytes).0);
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0.bytes
    }

    pub(super) fn ring(&self) -> &LessSafeKey {
        // SAFETY: initialised by `new`; only `drop` overwrites it, and it owns the value exclusively.
        unsafe { self.0.ring.assume_init_ref() }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.bytes.zeroize();
        // ring's key owns no memory outside of itself, so nothing is lost by not dropping it.
        self.0.ring.zeroize();
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

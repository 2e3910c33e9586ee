//! The functions of section 5.4 (Hash, Mac, Hmac, Kdf) and the keys that they work on.

use std::ops::{Deref, DerefMut};

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, Mac as _};
use blake2::{Blake2s256, Blake2sMac, Digest};
use hmac::SimpleHmac;
use rand::CryptoRng;
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::message::MAC_LEN;

/// A secret of 32 bytes; wiped when dropped. The box keeps it in one place: moving it leaves no copy behind.
#[derive(Clone, Default)]
pub(super) struct Secret(Box<Zeroizing<[u8; 32]>>);

impl Secret {
    /// Takes the bytes in. What the caller leaves of them on the stack, [`on_wiped_stack`] wipes.
    pub(super) fn new(bytes: [u8; 32]) -> Self {
        Self(Box::new(Zeroizing::new(bytes)))
    }
}

impl Deref for Secret {
    type Target = [u8; 32];
    fn deref(&self) -> &[u8; 32] {
        &self.0
    }
}

impl DerefMut for Secret {
    fn deref_mut(&mut self) -> &mut [u8; 32] {
        &mut self.0
    }
}

/// A Curve25519 private key; wiped when dropped, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey(pub [u8; 32]);

impl PrivateKey {
    /// A new key, clamped as `wg genkey` does.
    pub fn generate<R: CryptoRng + ?Sized>(rng: &mut R) -> Self {
        let mut key = Self([0; 32]);
        rng.fill_bytes(&mut key.0);
        key.0[0] &= 0xf8;
        key.0[31] = key.0[31] & 0x7f | 0x40;
        key
    }

    /// The public key that belongs to it.
    pub fn public(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&self.secret()).to_bytes())
    }

    /// Whether it is none: all zero.
    pub fn is_zero(&self) -> bool {
        self.0 == [0; 32]
    }

    pub(super) fn secret(&self) -> StaticSecret {
        StaticSecret::from(self.0)
    }
}

/// A Curve25519 public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// Does `work`, then wipes the stack that it used: the libraries below leave intermediate values there, and so
/// does every move of one.
pub(super) fn on_wiped_stack<T>(work: impl FnOnce() -> T) -> T {
    /// More than a handshake uses.
    const USED: usize = 32 << 10;

    #[inline(never)]
    fn apart<T>(work: impl FnOnce() -> T) -> T {
        work()
    }

    #[inline(never)]
    #[allow(clippy::large_stack_arrays)] // That it lies on the stack is the point.
    fn wipe() {
        std::hint::black_box(&mut [0_u8; USED]).zeroize();
    }

    let result = apart(work);
    wipe();
    result
}

/// DH; `None` when the result is all zero (a public key of small order).
pub(super) fn dh(secret: &StaticSecret, public: &[u8; 32]) -> Option<Secret> {
    let shared = secret.diffie_hellman(&(*public).into());
    shared.was_contributory().then(|| Secret::new(shared.to_bytes()))
}

/// Hash: BLAKE2s over the parts.
pub(super) fn hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Blake2s256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}

/// Mac: keyed BLAKE2s with 16 bytes of output (not a truncated one). `key` is at most 32 bytes.
pub(super) fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    let mut mac = Blake2sMac::<U16>::new_from_slice(key).expect("keys here are 16 or 32 bytes");
    for part in parts {
        mac.update(part);
    }
    mac.finalize_fixed().into()
}

/// `Kdf_n`: HKDF with HMAC-BLAKE2s.
pub(super) fn kdf<const N: usize>(key: &[u8; 32], input: &[u8]) -> [Secret; N] {
    let extracted = hmac(key, &[input]);
    let mut previous = Secret::default();
    std::array::from_fn(|i| {
        let number = [i as u8 + 1];
        let parts: [&[u8]; 2] = [&previous[..], &number];
        let output = hmac(&extracted, if i == 0 { &parts[1..] } else { &parts });
        previous.clone_from(&output);
        output
    })
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> Secret {
    let mut hmac = SimpleHmac::<Blake2s256>::new_from_slice(key).expect("HMAC takes any key");
    for part in parts {
        hmac.update(part);
    }
    Secret::new(hmac.finalize_fixed().into())
}

//! The functions of section 5.4 (Hash, Mac, Hmac, Kdf) and the keys that they work on.

use std::ops::{Deref, DerefMut};

use blake2::digest::consts::U16;
use blake2::digest::{FixedOutput, Mac as _};
use blake2::{Blake2s256, Blake2sMac, Digest};
use curve25519_dalek::{EdwardsPoint, MontgomeryPoint};
use hmac::SimpleHmac;
use rand::CryptoRng;
use subtle::ConstantTimeEq as _;
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing, zeroize_stack};

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
        self.0.ct_eq(&[0; 32]).into()
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

    let result = apart(work);
    zeroize_stack::<USED>();
    result
}

/// A public key, ready for DH (`docs/decisions/0006-x25519-on-the-edwards-curve.md`).
#[derive(Clone)]
pub(super) struct Point {
    montgomery: x25519_dalek::PublicKey,
    /// The same point on the birationally equivalent Edwards curve; of the two with this u-coordinate,
    /// either will do. `None` when it lies on the twist, or when this CPU has no fast arithmetic there.
    edwards: Option<EdwardsPoint>,
}

impl Point {
    pub(super) fn new(public: &[u8; 32]) -> Self {
        let fast = edwards_is_fast();
        let edwards = fast.then(|| MontgomeryPoint(*public).to_edwards(0)).flatten();
        Self { montgomery: (*public).into(), edwards }
    }

    /// DH; `None` when the result is all zero (a public key of small order).
    pub(super) fn dh(&self, secret: &StaticSecret) -> Option<Secret> {
        let shared = Secret::new(match &self.edwards {
            Some(point) => point.mul_clamped(*secret.as_bytes()).to_montgomery().0,
            None => secret.diffie_hellman(&self.montgomery).to_bytes(),
        });
        let zero: bool = shared.ct_eq(&[0; 32]).into();
        (!zero).then_some(shared)
    }
}

/// Whether curve25519-dalek has vector code for this CPU. It has none for the Montgomery ladder.
fn edwards_is_fast() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx2")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
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

/// All points of small order on Curve25519 and its twist (RFC 7748, section 6.1; libsodium's list), whose DH is
/// all zero: 0, 1, the two of order 8, and p - 1, p and p + 1.
#[cfg(test)]
pub(super) const SMALL_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ladder(secret: [u8; 32], public: [u8; 32]) -> [u8; 32] {
        x25519_dalek::x25519(secret, public)
    }

    fn lifted(public: [u8; 32]) -> Option<Point> {
        let edwards = MontgomeryPoint(public).to_edwards(0)?;
        Some(Point { montgomery: public.into(), edwards: Some(edwards) })
    }

    fn dh(point: &Point, secret: [u8; 32]) -> [u8; 32] {
        point.dh(&secret.into()).map_or([0; 32], |shared| *shared)
    }

    proptest! {
        /// RFC 7748 section 5: half of all values are on the curve, half on its twist; the top bit is
        /// ignored.
        #[test]
        fn both_ways_agree(secret: [u8; 32], public: [u8; 32]) {
            let expected = ladder(secret, public);
            prop_assert_eq!(dh(&Point::new(&public), secret), expected);
            if let Some(point) = lifted(public) {
                prop_assert_eq!(dh(&point, secret), expected);
            }
        }
    }

    /// Half of all values: so the fast way is tested above, whatever this CPU has.
    #[test]
    fn what_is_on_the_curve_is_lifted() {
        let public = x25519_dalek::PublicKey::from(&StaticSecret::from([7; 32])).to_bytes();
        assert!(lifted(public).is_some());
        let count = (0..200).filter(|&byte| lifted([byte; 32]).is_some()).count();
        assert!((60..140).contains(&count), "{count} of 200");
    }

    /// RFC 7748 section 5.2, the first vector; and values at the modulus, not reduced.
    #[test]
    fn odd_encodings() {
        let secret = hex::decode("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4");
        let public = hex::decode("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c");
        let shared = hex::decode("c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552");
        let bytes = |text: Result<Vec<u8>, _>| <[u8; 32]>::try_from(text.expect("hex")).expect("32 bytes");
        let (secret, public) = (bytes(secret), bytes(public));
        assert_eq!(dh(&lifted(public).expect("on the curve"), secret), bytes(shared));
        for low in 0xe8..=0xff {
            let mut public = [0xff; 32];
            public[0] = low;
            assert_eq!(dh(&Point::new(&public), secret), ladder(secret, public));
            public[31] = 0x7f;
            assert_eq!(dh(&Point::new(&public), secret), ladder(secret, public));
        }
    }

    /// Section 5.4: a key of small order gives no secret, on either curve; the top bit is ignored.
    #[test]
    fn small_order_is_refused() {
        for (text, top) in SMALL_ORDER.into_iter().flat_map(|text| [(text, 0), (text, 0x80)]) {
            let mut public = [0; 32];
            hex::decode_to_slice(text, &mut public).expect("hex");
            public[31] |= top;
            let unlifted = Point { montgomery: public.into(), edwards: None };
            let lifted = lifted(public);
            assert_eq!(lifted.is_none(), text.starts_with("ec"), "{text}: p - 1 alone is on the twist");
            for point in [Some(Point::new(&public)), Some(unlifted), lifted].into_iter().flatten() {
                assert!(point.dh(&StaticSecret::from([9; 32])).is_none(), "{text}, {top:#x}");
            }
        }
    }
}

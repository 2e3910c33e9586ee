//! Keys as text (base64, as `wg` reads and writes them) and new keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::wireguard::{PrivateKey, PublicKey};

/// A text that is not a key. Never carries the text: it may be a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not 44 characters of base64.
    #[error("not a key: write the 44 characters that `forwarder genkey`, `pubkey` or `genpsk` printed")]
    Malformed,
    /// 32 zero bytes.
    #[error("the key is all zero: make one by `forwarder genkey`")]
    Zero,
}

/// Reads a key: 44 characters of base64, canonical as `wg` demands it.
///
/// # Errors
/// [`KeyError`].
pub fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let mut key = Zeroizing::new([0; 32]);
    // The decoder wants room for whole groups of three bytes.
    let mut room = Zeroizing::new([0; 33]);
    match STANDARD.decode_slice(text, &mut *room) {
        Ok(32) => key.copy_from_slice(&room[..32]),
        _ => return Err(KeyError::Malformed),
    }
    if key.iter().all(|&byte| byte == 0) { Err(KeyError::Zero) } else { Ok(key) }
}

/// Writes a key: 44 characters of base64.
pub fn encode(key: &[u8; 32]) -> Zeroizing<String> {
    Zeroizing::new(STANDARD.encode(key))
}

/// A new private key, clamped (RFC 7748 section 5) as `wg genkey` clamps it.
pub fn generate_private(rng: &mut dyn CryptoRng) -> PrivateKey {
    let mut key = generate_preshared(rng);
    key[0] &= 0b1111_1000;
    key[31] = key[31] & 0b0111_1111 | 0b0100_0000;
    PrivateKey(*key)
}

/// A new preshared key: 32 random bytes.
pub fn generate_preshared(rng: &mut dyn CryptoRng) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *key);
    key
}

/// The public key of a private key (RFC 7748 section 6.1).
pub fn public(private: &PrivateKey) -> PublicKey {
    let secret = x25519_dalek::StaticSecret::from(private.0);
    PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    // RFC 7748 section 6.1: Alice and Bob.
    const PAIRS: [(&str, &str); 2] = [
        (
            "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
        ),
        (
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
        ),
    ];

    fn bytes(hex: &str) -> [u8; 32] {
        hex::decode(hex).unwrap().try_into().unwrap()
    }

    #[test]
    fn public_keys_of_rfc_7748() {
        for (private, expected) in PAIRS {
            assert_eq!(public(&PrivateKey(bytes(private))).0, bytes(expected));
        }
    }

    #[test]
    fn text_round_trips_and_is_canonical() {
        let key = bytes(PAIRS[0].1);
        let text = encode(&key);
        assert_eq!(text.len(), 44);
        assert_eq!(*decode(&text).unwrap(), key);
        // The last character has two bits that no byte uses; `wg` refuses them set.
        let last = text.as_bytes()[42];
        let twin = format!("{}{}=", &text[..42], char::from(last + 1));
        for bad in ["", "AAAA", &text[..43], &twin, &format!("{}A", *text), "é"] {
            assert_eq!(decode(bad).unwrap_err(), KeyError::Malformed, "{bad}");
        }
        assert_eq!(decode(&encode(&[0; 32])).unwrap_err(), KeyError::Zero);
    }

    #[test]
    fn new_keys_are_clamped_and_differ() {
        let (a, b) = (generate_private(&mut rand::rng()), generate_private(&mut rand::rng()));
        assert_ne!(a.0, b.0);
        for key in [&a.0, &b.0] {
            assert_eq!((key[0] & 7, key[31] & 0xc0), (0, 0x40));
        }
    }

    /// Against `wg`, which we did not write: it reads our keys and derives the same public ones.
    #[test]
    fn agrees_with_wg() {
        let wg = Command::new("wg").arg("pubkey").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut wg) = wg else {
            eprintln!("SKIPPED agrees_with_wg: there is no `wg` program (package wireguard-tools)");
            return;
        };
        let private = generate_private(&mut rand::rng());
        wg.stdin.take().unwrap().write_all(encode(&private.0).as_bytes()).unwrap();
        let theirs = String::from_utf8(wg.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(theirs.trim(), *encode(&public(&private).0));

        let theirs = String::from_utf8(Command::new("wg").arg("genkey").output().unwrap().stdout).unwrap();
        let key = decode(theirs.trim()).unwrap();
        assert_eq!((key[0] & 7, key[31] & 0xc0), (0, 0x40), "wg clamps, so do we");
    }
}

//! Published vectors: those of RFC 8439 and of Project Wycheproof.
//!
//! WireGuard's nonces begin with four zero bytes, and its frames have no associated data. No published vector
//! of the whole AEAD is such a frame, so they prove in parts what the engines do:
//!
//! - Ciphertexts do not depend on associated data: those with such a nonce are compared byte by byte.
//! - RFC 8439 publishes one-time keys, which the tags of empty frames show.
//! - `RustCrypto` and ring, with which all tests compare, pass every vector whole.
//! - Key, text and what is wrong with the tag of every Wycheproof vector go into frames of our own.
//! - Poly1305 of the engines, under the vectors' own one-time keys: `batch/tests.rs`.
//!
//! Left out are what is for nonces of other lengths, or beginning with something else (2.8.2), and Poly1305
//! alone (A.3): Wycheproof has more of its edges.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, Tag, UnboundKey};

use super::*;

/// What ciphers give for a text.
struct Vector {
    key: [u8; 32],
    counter: u64,
    /// The first block of the key stream, from 1 on.
    block: usize,
    text: Vec<u8>,
    ciphertext: Vec<u8>,
}

/// RFC 8439, section 2.4.2, appendices A.1 (2 to 4), A.2 (2 and 3) and A.5, all whose nonces are WireGuard's and
/// which do not start from block 0.
fn rfc8439() -> Vec<Vector> {
    let vector = |key, counter, block, text: &[u8], ciphertext| Vector {
        key,
        counter,
        block,
        text: text.to_vec(),
        ciphertext: bytes(ciphertext),
    };
    vec![
        vector(
            std::array::from_fn(|i| i as u8),
            0x4a << 24,
            1,
            b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
              sunscreen would be it.",
            "6e2e359a2568f98041ba0728dd0d6981e97e7aec1d4360c20a27afccfd9fae0bf91b65c5524733ab8f593dabcd62b357\
             1639d624e65152ab8f530c359f0861d807ca0dbf500d6a6156a38e088a22b65e52bc514d16ccf806818ce91ab7793736\
             5af90bbf74a35be6b40b8eedf2785e42874d",
        ),
        vector(
            [0; 32],
            0,
            1,
            &[0; 64],
            "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed29b721769ce64e43d57133b074d839d5\
             31ed1f28510afb45ace10a1f4b794d6f",
        ),
        vector(
            last(1),
            0,
            1,
            &[0; 64],
            "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a8eca00bbb4a73bdad192b5c42f73f2fd\
             4e273644c8b36125a64addeb006c13a0",
        ),
        vector(
            std::array::from_fn(|i| if i == 1 { 0xff } else { 0 }),
            0,
            2,
            &[0; 64],
            "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca13b25aa26cb4a648cb9b9d1be65b2c09\
             24a66c54d545ec1b7374f4872e99f096",
        ),
        vector(
            last(1),
            TWO,
            1,
            b"Any submission to the IETF intended by the Contributor for publication as all or part of an IETF \
              Internet-Draft or RFC and any statement made within the context of an IETF activity is \
              considered an \"IETF Contribution\". Such statements include oral statements in IETF sessions, as \
              well as written and electronic communications made at any time or place, which are addressed to",
            "a3fbf07df3fa2fde4f376ca23e82737041605d9f4f4f57bd8cff2c1d4b7955ec2a97948bd3722915c8f3d337f7d37005\
             0e9e96d647b7c39f56e031ca5eb6250d4042e02785ececfa4b4bb5e8ead0440e20b6e8db09d881a7c6132f420e527950\
             42bdfa7773d8a9051447b3291ce1411c680465552aa6c405b7764d5e87bea85ad00f8449ed8f72d0d662ab052691ca66\
             424bc86d2df80ea41f43abf937d3259dc4b2d0dfb48a6c9139ddd7f76966e928e635553ba76c5c879d7b35d49eb2e62b\
             0871cdac638939e25e8a1e0ef9d5280fa8ca328b351c3c765989cbcf3daa8b6ccc3aaf9f3979c92b3720fc88dc95ed84\
             a1be059c6499b9fda236e7e818b04b0bc39c1e876b193bfe5569753f88128cc08aaa9b63d1a16f80ef2554d7189c411f\
             5869ca52c5b83fa36ff216b9c1d30062bebcfd2dc5bce0911934fda79a86f6e698ced759c3ff9b6477338f3da4f9cd85\
             14ea9982ccafb341b2384dd902f3d1ab7ac61dd29c6f21ba5b862f3730e37cfdc4fd806c22f221",
        ),
        vector(
            a5_key(),
            TWO,
            42,
            b"'Twas brillig, and the slithy toves\nDid gyre and gimble in the wabe:\nAll mimsy were the \
              borogoves,\nAnd the mome raths outgrabe.",
            "62e6347f95ed87a45ffae7426f27a1df5fb69110044c0d73118effa95b01e5cf166d3df2d721caf9b21e5fb14c616871\
             fd84c54f9d65b283196c7fe4f60553ebf39c6402c42234e32a356b3e764312a61a5532055716ead6962568f87d3f3f77\
             04c6a8d1bcd1bf4d50d6154b6da731b187b58dfd728afa36757a797ac188d1",
        ),
        vector(
            a5_key(),
            u64::from_le_bytes([1, 2, 3, 4, 5, 6, 7, 8]),
            1,
            "Internet-Drafts are draft documents valid for a maximum of six months and may be updated, replaced, \
             or obsoleted by other documents at any time. It is inappropriate to use Internet-Drafts as \
             reference material or to cite them other than as /\u{201c}work in progress./\u{201d}"
                .as_bytes(),
            "64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb24c6cfc18755d43eea09ee94e382d26b0\
             bdb7b73c321b0100d4f03b7f355894cf332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855\
             9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4b9166c767b804d46a59b5216cde7a4e9\
             9040c5a40433225ee282a1b0a06c523eaf4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a\
             0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a1049e617d91d361094fa68f0ff77987130\
             305beaba2eda04df997b714d6c6f2c29a6ad5cb4022b02709b",
        ),
    ]
}

/// The counter of nonces that end with a 2.
const TWO: u64 = 2 << 56;

/// A key that ends with that byte.
fn last(byte: u8) -> [u8; 32] {
    let mut key = [0; 32];
    key[31] = byte;
    key
}

fn a5_key() -> [u8; 32] {
    array(&bytes("1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0"))
}

fn bytes(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

pub fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().unwrap()
}

#[test]
fn rfc8439_texts() {
    let vectors = rfc8439();
    let skipped = |vector: &Vector| (vector.block - 1) * 64;
    let case = |vector: &Vector| {
        Case::new(vector.key, vector.counter, [&vec![0; skipped(vector)], &vector.text[..]].concat())
    };
    let cases: Vec<_> = vectors.iter().map(case).collect();
    for engine in Engine::runnable() {
        let sealed = seal_all(&cases, |jobs| engine.seal_alone(jobs));
        for (i, (vector, sealed)) in vectors.iter().zip(&sealed).enumerate() {
            let ciphertext = &sealed[skipped(vector)..][..vector.text.len()];
            assert!(ciphertext == vector.ciphertext, "{engine}: vector {i}");
        }
        check(engine, &cases);
    }
}

/// RFC 8439, appendices A.1 (1 and 5) and A.4.
#[test]
fn rfc8439_one_time_keys() {
    let vectors = [
        ([0; 32], 0, "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"),
        ([0; 32], TWO, "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c7"),
        (last(1), TWO, "ecfa254f845f647473d3cb140da9e87606cb33066c447b87bc2666dde3fbb739"),
        (a5_key(), TWO, "965e3bc6f9ec7ed9560808f4d229f94b137ff275ca9b3fcbdd59deaad23310ae"),
    ];
    let cases = vectors.map(|(key, counter, _)| Case::new(key, counter, Vec::new()));
    for engine in Engine::runnable() {
        let tags = seal_all(&cases, |jobs| engine.seal_alone(jobs));
        for ((_, _, key), tag) in vectors.iter().zip(tags) {
            let (r, s) = (u128_at(&bytes(key), 0), u128_at(&bytes(key), 16));
            let r = r & 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;
            // The lengths' block is 2^128, so the tag is 2^128 r + s; 2^130 is 5.
            assert_eq!(u128_at(&tag, 0), s.wrapping_add(5 * (r >> 2)), "{engine}: {key}");
        }
    }
}

fn u128_at(bytes: &[u8], at: usize) -> u128 {
    u128::from_le_bytes(array(&bytes[at..at + 16]))
}

/// Wycheproof's vectors with nonces of 12 bytes and tags of 16.
pub fn wycheproof() -> Vec<wycheproof::aead::Test> {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::ChaCha20Poly1305).unwrap();
    let groups = set.test_groups.into_iter();
    groups
        .filter(|group| (group.nonce_size, group.tag_size) == (96, 128))
        .flat_map(|group| group.tests)
        .collect()
}

/// Ciphertext and tag by `RustCrypto`, under any nonce and with associated data.
fn rust_crypto(vector: &wycheproof::aead::Test) -> (Vec<u8>, [u8; 16]) {
    let mut text = vector.pt.to_vec();
    let cipher = ChaCha20Poly1305::new(vector.key[..].into());
    let tag = cipher.encrypt_in_place_detached(vector.nonce[..].into(), &vector.aad, &mut text).unwrap();
    (text, tag.into())
}

#[test]
fn wycheproof_by_what_engines_are_compared_with() {
    let (mut valid, mut invalid) = (0, 0);
    for vector in wycheproof() {
        let cipher = ChaCha20Poly1305::new(vector.key[..].into());
        let ring = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &vector.key).unwrap());
        let nonce = || Nonce::assume_unique_for_key(array(&vector.nonce));
        let aad = || Aad::from(&vector.aad[..]);
        let id = vector.tc_id;

        let mut text = vector.pt.to_vec();
        let tag = ring.seal_in_place_separate_tag(nonce(), aad(), &mut text).unwrap();
        assert!(rust_crypto(&vector) == (text.clone(), array(tag.as_ref())), "vector {id}");
        let right = text == vector.ct[..] && *tag.as_ref() == vector.tag[..];
        assert_eq!(right, !vector.result.must_fail(), "vector {id}: sealed");

        let (mut a, mut b) = (vector.ct.to_vec(), vector.ct.to_vec());
        let tag: [u8; 16] = array(&vector.tag);
        let opened =
            cipher.decrypt_in_place_detached(vector.nonce[..].into(), &vector.aad, &mut a, &tag.into());
        let opened_by_ring = ring.open_in_place_separate_tag(nonce(), aad(), Tag::from(tag), &mut b, 0..);
        assert_eq!([opened.is_ok(), opened_by_ring.is_ok()], [right; 2], "vector {id}: opened");
        if right {
            assert!(a == vector.pt[..] && b == vector.pt[..], "vector {id}: opened");
        }
        *(if right { &mut valid } else { &mut invalid }) += 1;
    }
    assert!(valid >= 256 && invalid >= 60, "{valid} valid and {invalid} invalid vectors");
}

#[test]
fn wycheproof_by_every_engine() {
    let vectors = wycheproof();
    let case = |vector: &wycheproof::aead::Test| {
        let counter = u64::from_le_bytes(array(&vector.nonce[4..]));
        Case::new(array(&vector.key), counter, vector.pt.to_vec())
    };
    let cases: Vec<_> = vectors.iter().map(case).collect();
    for engine in Engine::runnable() {
        check(engine, &cases);
        let mut messages = seal_all(&cases, |jobs| engine.seal_alone(jobs));
        let (mut as_published, mut bent) = (0, 0);
        for (vector, message) in vectors.iter().zip(&mut messages) {
            let (text, tag) = message.split_at_mut(vector.pt.len());
            if vector.nonce.starts_with(&[0; 4]) {
                assert!(text == &vector.ct[..], "{engine}: vector {}", vector.tc_id);
                as_published += 1;
            }
            if vector.result.must_fail() {
                // The tag is wrong in the same way.
                let right = rust_crypto(vector).1;
                for (tag, (right, wrong)) in tag.iter_mut().zip(right.iter().zip(&vector.tag[..])) {
                    *tag ^= right ^ wrong;
                }
                bent += 1;
            }
        }
        let opened = open_all(&cases, &messages, |jobs| engine.open_alone(jobs));
        for (vector, (authentic, text)) in vectors.iter().zip(opened) {
            assert_eq!(authentic, !vector.result.must_fail(), "{engine}: vector {}", vector.tc_id);
            let expected = if authentic { vector.pt.to_vec() } else { vec![0; text.len()] };
            assert!(text == expected, "{engine}: vector {}", vector.tc_id);
        }
        assert!(as_published >= 10 && bent >= 60, "{as_published} ciphertexts, {bent} wrong tags");
    }
}

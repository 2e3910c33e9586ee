//! Poly1305 of the kernels alone, under one-time keys and over texts that are no frame's.

use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use poly1305::Poly1305;
use poly1305::universal_hash::KeyInit as _;

use super::super::tests::vectors::{array, wycheproof};
use super::*;

type TagsOf = unsafe fn(&[Packets], usize, &[[u64; 8]; GROUP], *mut Tags);

/// A one-time key and what it authenticates.
type Message = ([u8; 32], Vec<u8>);

/// Those that the processor can run.
fn kernels() -> impl Iterator<Item = (&'static str, TagsOf)> {
    let kernels: [(_, _, TagsOf); 2] =
        [("avx512", avx512(), avx512::tags_of), ("avx2", avx2(), avx2::poly::tags)];
    kernels.into_iter().filter_map(|(name, kernel, tags)| kernel.map(|_| (name, tags)))
}

/// The tags of up to [`GROUP`] messages: as frames have them, with a block of lengths at the end.
fn tags(kernel: TagsOf, messages: &[Message]) -> Vec<[u8; TAG_LEN]> {
    let mut keys = [[0; 8]; GROUP];
    for (words, (key, _)) in keys.iter_mut().zip(messages) {
        for (word, bytes) in words.iter_mut().zip(key.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
    }
    let packet = |(key, text): &Message| Packet {
        job: 0,
        key,
        nonce: 0,
        source: text.as_ptr(),
        source_len: text.len(),
        destination: std::ptr::null_mut(),
        len: text.len(),
        ciphertext: text.as_ptr(),
    };
    let mut packets: Vec<_> = messages.iter().map(packet).collect();
    packets.resize(messages.len().next_multiple_of(TOGETHER), packets[messages.len() - 1]);
    let mut tags = [[0; TAG_LEN]; GROUP];
    // SAFETY: the processor has the features; texts are read only.
    unsafe { kernel(packets.as_chunks().0, messages.len(), &keys, &raw mut tags) };
    tags[..messages.len()].to_vec()
}

/// Compares the tags of messages that share groups, and of each message in all lanes.
fn check(messages: &[Message], expected: &[[u8; TAG_LEN]]) {
    for (name, kernel) in kernels() {
        let found: Vec<_> = messages.chunks(GROUP).flat_map(|group| tags(kernel, group)).collect();
        for (i, message) in messages.iter().enumerate() {
            assert_eq!(found[i], expected[i], "{name}: message {i}");
            assert_eq!(
                tags(kernel, &vec![message.clone(); GROUP]),
                [expected[i]; GROUP],
                "{name}: message {i}"
            );
        }
    }
}

/// The vectors without associated data have the tags of frames.
#[test]
fn wycheproof_tags() {
    let vectors = wycheproof().into_iter().filter(|vector| vector.aad.is_empty());
    let (messages, expected): (Vec<Message>, Vec<[u8; TAG_LEN]>) =
        vectors.map(|vector| ((one_time_key(&vector), vector.ct.to_vec()), array(&vector.tag))).unzip();
    assert!(messages.len() >= 45, "{} vectors", messages.len());
    check(&messages, &expected);
}

/// All that Poly1305 authenticates of a vector, as the text of a frame: its accumulator goes through all that
/// the vector is made for, and one block further. So far `RustCrypto` must agree with the vector, too.
#[test]
fn wycheproof_accumulators() {
    let vectors = wycheproof().into_iter().filter(|vector| !vector.result.must_fail());
    let (messages, expected): (Vec<Message>, Vec<[u8; TAG_LEN]>) = vectors
        .map(|vector| {
            let key = one_time_key(&vector);
            let mut text = [padded(&vector.aad), padded(&vector.ct)].concat();
            text.extend(
                [vector.aad.len(), vector.ct.len()].map(|len| (len as u64).to_le_bytes()).as_flattened(),
            );
            let tag = |text: &[u8]| <[u8; TAG_LEN]>::from(Poly1305::new(&key.into()).compute_unpadded(text));
            assert_eq!(tag(&text)[..], vector.tag[..], "vector {}", vector.tc_id);
            let lengths = u128::from(text.len() as u64) << 64;
            let expected = tag(&[&text[..], &lengths.to_le_bytes()].concat());
            ((key, text), expected)
        })
        .unzip();
    assert!(messages.len() >= 256, "{} vectors", messages.len());
    check(&messages, &expected);
}

/// The first half of block 0 (RFC 8439, section 2.6).
fn one_time_key(vector: &wycheproof::aead::Test) -> [u8; 32] {
    let mut key = [0; 32];
    ChaCha20::new(vector.key[..].into(), vector.nonce[..].into()).apply_keystream(&mut key);
    key
}

fn padded(text: &[u8]) -> Vec<u8> {
    let mut text = text.to_vec();
    text.resize(text.len().next_multiple_of(16), 0);
    text
}

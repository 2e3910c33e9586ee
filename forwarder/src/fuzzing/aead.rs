//! Batches of frames through every engine, beside `RustCrypto` and ring themselves.

use std::sync::LazyLock;

use chacha20poly1305::aead::AeadInPlace as _;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit as _};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::reader::Reader;
use crate::aead::guarded::Guarded;
use crate::aead::{Engine, Key, Open, Seal, TAG_LEN};

/// Frames of a batch: more than engines sort together.
const MOST: usize = 70;
/// Bytes of a text.
const LONGEST: usize = 1500;

/// Asked for once: it tests them.
static ENGINES: LazyLock<Vec<Engine>> = LazyLock::new(|| Engine::runnable().collect());

/// Makes a batch of what `data` says. Every engine seals it as the others do, opens what arrives as it was
/// sealed, and of what does not leaves nothing.
pub fn aead(data: &[u8]) {
    let mut input = Reader::new(data);
    let keys: [[u8; 32]; 4] = std::array::from_fn(|_| [input.byte(); 32]);
    let mut frames = Vec::new();
    while !input.is_empty() && frames.len() < MOST {
        frames.push(Frame::read(&mut input, &keys));
    }
    let keys = keys.map(|key| Key::new(&key));
    for engine in &*ENGINES {
        // Ring must not hide what an engine's own code does.
        seal(&keys, &frames, |jobs| engine.seal_alone(jobs));
        seal(&keys, &frames, |jobs| engine.seal(jobs));
        open(&keys, &frames, |jobs| engine.open_alone(jobs));
        open(&keys, &frames, |jobs| engine.open(jobs));
    }
}

struct Frame {
    /// Which key.
    key: usize,
    counter: u64,
    text: Vec<u8>,
    /// The message as the libraries seal it.
    sealed: Vec<u8>,
    /// What arrives, which may be another.
    message: Vec<u8>,
    /// Distance of the buffers from an aligned address.
    skew: usize,
}

impl Frame {
    fn read(input: &mut Reader<'_>, keys: &[[u8; 32]; 4]) -> Self {
        let choice = usize::from(input.byte());
        let low = u64::from(input.byte());
        let counter = match choice >> 2 & 3 {
            0 => low,
            1 => u64::from(u32::MAX) - 8 + low,
            2 => u64::MAX - low,
            _ => u64::from(input.word()) << 48 | u64::from(input.word()) << 24 | low,
        };
        let len = input.below(LONGEST + 1);
        let pattern = input.bytes(choice >> 4);
        let text: Vec<_> =
            (0..len).map(|i| pattern.get(i % (choice >> 4).max(1)).map_or(i as u8, |byte| *byte)).collect();
        let padding = usize::from(input.byte() % 64);
        let mut padded = text.clone();
        padded.resize(len + padding, 0);
        let sealed = by_libraries(&keys[choice & 3], counter, &padded);
        let mut message = sealed.clone();
        input.bend(&mut message);
        Self { key: choice & 3, counter, text, sealed, message, skew: usize::from(input.byte() % 64) }
    }

    /// What the receiver must get.
    fn opened(&self) -> (bool, Vec<u8>) {
        let mut text = vec![0; self.message.len().saturating_sub(TAG_LEN)];
        let authentic = self.message == self.sealed;
        if authentic {
            text[..self.text.len()].copy_from_slice(&self.text);
        }
        (authentic, text)
    }
}

/// Ciphertext and tag, in which both libraries agree.
fn by_libraries(key: &[u8; 32], counter: u64, text: &[u8]) -> Vec<u8> {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    let mut sealed = text.to_vec();
    let tag = ChaCha20Poly1305::new(key.into()).encrypt_in_place_detached(&nonce.into(), b"", &mut sealed);
    sealed.extend_from_slice(&tag.unwrap());
    let mut other = text.to_vec();
    let ring = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap());
    let nonce = Nonce::assume_unique_for_key(nonce);
    ring.seal_in_place_append_tag(nonce, Aad::empty(), &mut other).unwrap();
    assert!(sealed == other, "RustCrypto and ring do not agree");
    sealed
}

fn seal(keys: &[Key; 4], frames: &[Frame], seal: impl FnOnce(&mut [Seal<'_>])) {
    let mut buffers: Vec<_> = frames
        .iter()
        .map(|frame| (Guarded::with(&frame.text, frame.skew), Guarded::new(frame.sealed.len(), frame.skew)))
        .collect();
    let jobs = frames.iter().zip(&mut buffers).map(|(frame, (source, destination))| Seal {
        key: &keys[frame.key],
        counter: frame.counter,
        source: source.get(),
        destination: destination.get(),
    });
    seal(&mut jobs.collect::<Vec<_>>());
    for (frame, (source, destination)) in frames.iter().zip(&buffers) {
        assert!(source.content() == frame.text, "written into a source");
        assert!(destination.content() == frame.sealed, "wrong bytes");
    }
}

fn open(keys: &[Key; 4], frames: &[Frame], open: impl FnOnce(&mut [Open<'_>])) {
    let expected: Vec<_> = frames.iter().map(Frame::opened).collect();
    let mut buffers: Vec<_> = frames
        .iter()
        .zip(&expected)
        .map(|(frame, (_, text))| {
            (Guarded::with(&frame.message, frame.skew), Guarded::new(text.len(), frame.skew))
        })
        .collect();
    let jobs = frames.iter().zip(&mut buffers).map(|(frame, (source, destination))| Open {
        key: &keys[frame.key],
        counter: frame.counter,
        source: source.get(),
        destination: destination.get(),
        // What was there before must not matter.
        authentic: frame.counter % 2 == 0,
    });
    let mut jobs: Vec<_> = jobs.collect();
    open(&mut jobs);
    for (job, (authentic, _)) in jobs.iter().zip(&expected) {
        assert_eq!(job.authentic, *authentic);
    }
    for ((frame, (_, text)), (source, destination)) in frames.iter().zip(&expected).zip(&buffers) {
        assert!(source.content() == frame.message, "written into a source");
        assert!(destination.content() == *text, "wrong bytes");
    }
}

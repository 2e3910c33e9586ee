//! Each target over its corpus and over mutations of it: no libFuzzer, no instrumentation, seconds.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

/// The inputs that were found for a target, in the order of their names.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/corpus").join(target);
    let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Runs the corpus and so many mutations of it, the same ones in every run.
fn smoke(target: &str, run: fn(&[u8]), mutations: usize) {
    let corpus = corpus(target);
    assert!(corpus.len() >= 20, "{target}: {} inputs are no corpus", corpus.len());
    for input in &corpus {
        check(target, run, input);
    }
    let mut rng = StdRng::seed_from_u64(7);
    for _ in 0..mutations {
        let input = mutated(&corpus, &mut rng);
        check(target, run, &input);
    }
}

/// A failing input is printed, so that it can be put into the corpus.
fn check(target: &str, run: fn(&[u8]), input: &[u8]) {
    let passed = catch_unwind(AssertUnwindSafe(|| run(input))).is_ok();
    assert!(passed, "{target} fails on {}", hex::encode(input));
}

/// The head of one input and the tail of another, with a few changes.
fn mutated(corpus: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let pick = |rng: &mut StdRng| &corpus[rng.random_range(0..corpus.len())];
    let mut input = pick(rng).clone();
    if rng.random_bool(0.3) {
        let other = pick(rng);
        input.truncate(rng.random_range(0..=input.len()));
        input.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
    }
    for _ in 0..rng.random_range(0..6) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..4) {
            0 => input.truncate(at),
            1 => input.insert(at, rng.next_u32() as u8),
            2 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
            _ if at < input.len() => input[at] = rng.next_u32() as u8,
            _ => {}
        }
    }
    input
}

#[test]
fn wire() {
    smoke("wire", super::wire, 50_000);
}

#[test]
fn config() {
    smoke("config", super::config, 5_000);
}

#[test]
fn handshake() {
    smoke("handshake", super::handshake, 2_000);
}

#[test]
fn uapi() {
    smoke("uapi", super::uapi, 5_000);
}

#[test]
fn pipeline() {
    smoke("pipeline", super::pipeline, 5_000);
}

#[test]
fn aead() {
    smoke("aead", super::aead, 5_000);
}

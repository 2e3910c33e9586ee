//! Every engine against independent implementations: `RustCrypto`'s, and for that one ring.

mod pages;
mod random;
#[cfg(target_arch = "x86_64")]
mod trace;
pub mod vectors;

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};

use super::guarded::{CANARY, Guarded, UNTOUCHED};
use super::*;

/// A packet with all that is needed to check what became of it.
struct Case {
    key: [u8; 32],
    counter: u64,
    text: Vec<u8>,
    /// Zeros that follow the text.
    padding: usize,
    /// Distance of the buffers from an aligned address.
    skew: [usize; 2],
}

impl Case {
    fn new(key: [u8; 32], counter: u64, text: Vec<u8>) -> Self {
        Self { key, counter, text, padding: 0, skew: [0; 2] }
    }

    fn padded(&self) -> Vec<u8> {
        let mut text = self.text.clone();
        text.resize(self.text.len() + self.padding, 0);
        text
    }

    /// Ciphertext and tag by `RustCrypto`.
    fn sealed(&self) -> Vec<u8> {
        let mut buffer = self.padded();
        let nonce = nonce(self.counter).into();
        let cipher = ChaCha20Poly1305::new(&self.key.into());
        let tag = cipher.encrypt_in_place_detached(&nonce, b"", &mut buffer).expect("short");
        buffer.extend_from_slice(&tag);
        buffer
    }
}

/// Seals the cases as one batch.
fn seal_all(cases: &[Case], seal: impl Fn(&mut [Seal<'_>])) -> Vec<Vec<u8>> {
    let keys: Vec<_> = cases.iter().map(|case| Key::new(&case.key)).collect();
    let mut sources: Vec<_> = cases.iter().map(|case| Guarded::with(&case.text, case.skew[0])).collect();
    let mut sealed: Vec<_> = cases
        .iter()
        .map(|case| Guarded::new(case.text.len() + case.padding + TAG_LEN, case.skew[1]))
        .collect();
    let jobs = cases.iter().zip(&keys).zip(sources.iter_mut().zip(&mut sealed));
    let mut jobs: Vec<_> = jobs
        .map(|((case, key), (source, destination))| Seal {
            key,
            counter: case.counter,
            source: source.get(),
            destination: destination.get(),
        })
        .collect();
    seal(&mut jobs);
    for (case, source) in cases.iter().zip(&sources) {
        assert!(source.content() == case.text, "written into a source");
    }
    sealed.iter().map(|sealed| sealed.content().to_vec()).collect()
}

/// Opens messages of the cases as one batch.
fn open_all(cases: &[Case], messages: &[Vec<u8>], open: impl Fn(&mut [Open<'_>])) -> Vec<(bool, Vec<u8>)> {
    let keys: Vec<_> = cases.iter().map(|case| Key::new(&case.key)).collect();
    let mut sources: Vec<_> =
        cases.iter().zip(messages).map(|(case, message)| Guarded::with(message, case.skew[0])).collect();
    let text_len = |message: &Vec<u8>| message.len().saturating_sub(TAG_LEN);
    let mut opened: Vec<_> = cases
        .iter()
        .zip(messages)
        .map(|(case, message)| Guarded::new(text_len(message), case.skew[1]))
        .collect();
    let jobs = cases.iter().zip(&keys).zip(sources.iter_mut().zip(&mut opened));
    let mut jobs: Vec<_> = jobs
        .map(|((case, key), (source, destination))| Open {
            key,
            counter: case.counter,
            source: source.get(),
            destination: destination.get(),
            authentic: false,
        })
        .collect();
    // What was there before must not matter.
    jobs.iter_mut().step_by(2).for_each(|job| job.authentic = true);
    open(&mut jobs);
    let authentic: Vec<_> = jobs.iter().map(|job| job.authentic).collect();
    for (message, source) in messages.iter().zip(&sources) {
        assert!(source.content() == message, "written into a source");
    }
    authentic
        .into_iter()
        .zip(&opened)
        .map(|(authentic, opened)| (authentic, opened.content().to_vec()))
        .collect()
}

/// Seals and opens the cases as one batch, and compares every byte.
fn check(engine: Engine, cases: &[Case]) {
    let expected: Vec<_> = cases.iter().map(Case::sealed).collect();
    check_against(engine, cases, &expected);
}

fn check_against(engine: Engine, cases: &[Case], expected: &[Vec<u8>]) {
    for (i, (sealed, expected)) in
        seal_all(cases, |jobs| engine.seal_alone(jobs)).iter().zip(expected).enumerate()
    {
        assert!(
            sealed == expected,
            "{engine}: sealed packet {i} of {}, {} bytes",
            cases.len(),
            cases[i].text.len()
        );
    }
    for (i, (authentic, text)) in
        open_all(cases, expected, |jobs| engine.open_alone(jobs)).into_iter().enumerate()
    {
        assert!(authentic, "{engine}: opened packet {i} of {}, {} bytes", cases.len(), cases[i].text.len());
        assert!(text == cases[i].padded(), "{engine}: opened packet {i} of {}", cases.len());
    }
}

fn random_case(rng: &mut SmallRng, keys: &[[u8; 32]], longest: usize) -> Case {
    let mut text = vec![0; rng.random_range(0..=longest)];
    rng.fill_bytes(&mut text);
    let key = keys[rng.random_range(0..keys.len())];
    let padding = if rng.random_bool(0.5) { rng.random_range(0..16) } else { 0 };
    let skew = [rng.random_range(0..64), rng.random_range(0..64)];
    // Now and then about to carry into the upper word.
    let counter =
        if rng.random_bool(0.2) { u64::from(u32::MAX) - 2 + rng.random_range(0..5) } else { rng.random() };
    Case { key, counter, text, padding, skew }
}

#[test]
fn every_engine_of_this_machine_passes_its_self_test() {
    for engine in Engine::ALL {
        assert_ne!(engine.test(), Err(Unusable::Wrong(engine)), "{:?}", engine.answer());
    }
    assert_eq!(engine(), Engine::runnable().next().expect("the portable one at least"));
}

#[test]
fn every_length() {
    for engine in Engine::runnable() {
        for start in (0..1500).step_by(30) {
            let case = |len: usize| {
                let text = (0..len).map(|i| (i * 31 + len) as u8).collect();
                Case::new([len as u8; 32], (len as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15), text)
            };
            check(engine, &(start..=start + 30).map(case).collect::<Vec<_>>());
        }
    }
}

/// A batch of one length too, for lanes that end together.
#[test]
fn every_length_alone() {
    for engine in Engine::runnable() {
        for len in 0..1500_usize {
            let case = |i: usize| Case::new([7; 32], i as u64, vec![len as u8; len]);
            check(engine, &[case(1), case(2)]);
        }
    }
}

#[test]
fn every_batch_size() {
    let mut rng = SmallRng::seed_from_u64(1);
    for engine in Engine::runnable() {
        for size in 0..=130 {
            let cases: Vec<_> =
                (0..size).map(|_| random_case(&mut rng, &[[1; 32], [2; 32], [3; 32]], 1500)).collect();
            check(engine, &cases);
        }
    }
}

#[test]
fn counters_carry_into_the_upper_word() {
    for engine in Engine::runnable() {
        let counters = [0, u64::from(u32::MAX) - 1, u64::from(u32::MAX), 1 << 32, u64::MAX - 1, u64::MAX];
        let case = |counter| Case::new([9; 32], counter, vec![3; 200]);
        check(engine, &counters.map(case));
    }
}

/// Whatever an engine leaves to ring must come out the same.
#[test]
fn every_batch_size_by_the_whole_engine() {
    let mut rng = SmallRng::seed_from_u64(4);
    for engine in Engine::runnable() {
        for size in 1..=64 {
            let cases: Vec<_> = (0..size).map(|_| random_case(&mut rng, &[[1; 32], [2; 32]], 1500)).collect();
            let mut messages: Vec<_> = cases.iter().map(Case::sealed).collect();
            assert!(seal_all(&cases, |jobs| engine.seal(jobs)) == messages, "{engine}: {size}");
            let bent = rng.random_range(0..size);
            messages[bent][0] ^= 1;
            let opened = open_all(&cases, &messages, |jobs| engine.open(jobs));
            for (i, (authentic, text)) in opened.into_iter().enumerate() {
                assert_eq!(authentic, i != bent, "{engine}: {size}");
                let expected = if authentic { cases[i].padded() } else { vec![0; text.len()] };
                assert!(text == expected, "{engine}: {size}");
            }
        }
    }
}

#[test]
fn an_empty_batch_is_nothing() {
    for engine in Engine::runnable() {
        engine.seal_alone(&mut []);
        engine.open_alone(&mut []);
        engine.seal(&mut []);
        engine.open(&mut []);
    }
}

/// Kernels write by pointers: lengths that do not fit are found before.
#[test]
fn destinations_that_do_not_fit_are_refused() {
    let (key, text) = (Key::new(&[1; 32]), [0; 40]);
    let seals = |engine: Engine, len: usize| {
        let mut destinations = vec![vec![0; len]; 4];
        let jobs = destinations.iter_mut();
        let mut jobs: Vec<_> =
            jobs.map(|destination| Seal { key: &key, counter: 0, source: &text, destination }).collect();
        refuses(|| engine.seal_alone(&mut jobs))
    };
    let opens = |engine: Engine, len: usize| {
        let mut destinations = vec![vec![0; len]; 4];
        let jobs = destinations.iter_mut();
        let mut jobs: Vec<_> = jobs
            .map(|destination| Open { key: &key, counter: 0, source: &text, destination, authentic: true })
            .collect();
        refuses(|| engine.open_alone(&mut jobs))
    };
    for engine in Engine::runnable() {
        for (len, refused) in [(0, true), (TAG_LEN - 1, true), (40, true), (55, true), (56, false)] {
            assert_eq!(seals(engine, len), refused, "{engine}: seals 40 bytes into {len}");
        }
        for (len, refused) in [(0, true), (23, true), (24, false), (25, true)] {
            assert_eq!(opens(engine, len), refused, "{engine}: opens 40 bytes into {len}");
        }
    }
}

fn refuses(work: impl FnOnce()) -> bool {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err()
}

#[test]
fn padding_is_zero_and_authenticated() {
    for engine in Engine::runnable() {
        let case = |padding| Case { padding, ..Case::new([9; 32], 3, vec![1, 2, 3, 4, 5]) };
        check(engine, &[case(11), case(0), case(11), case(59), case(60), case(1000)]);
    }
}

#[test]
fn shorter_than_a_tag_is_not_authentic() {
    for engine in Engine::runnable() {
        let case = |_| Case::new([1; 32], 0, Vec::new());
        let messages: Vec<_> = (0..TAG_LEN).map(|len| vec![0; len]).collect();
        let cases: Vec<_> = (0..TAG_LEN).map(case).collect();
        assert!(
            open_all(&cases, &messages, |jobs| engine.open_alone(jobs))
                .iter()
                .all(|(authentic, _)| !authentic),
            "{engine}"
        );
    }
}

/// Which packets of a batch fail must not matter for the others, nor what was wrong with them.
#[test]
fn failing_jobs_are_wiped_and_their_neighbours_intact() {
    let mut rng = SmallRng::seed_from_u64(3);
    for engine in Engine::runnable() {
        for size in [1, 2, 3, 8, 15, 16, 17, 33, 64] {
            let cases: Vec<_> = (0..size).map(|_| random_case(&mut rng, &[[1; 32], [2; 32]], 1500)).collect();
            let good: Vec<_> = cases.iter().map(Case::sealed).collect();
            let sets: [&dyn Fn(usize) -> bool; 5] =
                [&|i| i == 0, &|i| i == size / 2, &|i| i == size - 1, &|i| i % 3 == 1, &|_| true];
            for fails in sets {
                let mut messages = good.clone();
                for message in messages.iter_mut().enumerate().filter(|(i, _)| fails(*i)).map(|(_, m)| m) {
                    let bit = rng.random_range(0..message.len() * 8);
                    message[bit / 8] ^= 1 << (bit % 8);
                }
                for (i, (authentic, text)) in
                    open_all(&cases, &messages, |jobs| engine.open_alone(jobs)).into_iter().enumerate()
                {
                    assert_eq!(authentic, !fails(i), "{engine}: packet {i} of {size}");
                    let expected = if fails(i) { vec![0; text.len()] } else { cases[i].padded() };
                    assert!(text == expected, "{engine}: packet {i} of {size}");
                }
            }
        }
    }
}

/// Every bit of a message: blocks that fill sets of lanes, others, the last one, the tag.
#[test]
fn every_flipped_bit_is_rejected() {
    for (engine, len) in Engine::runnable().flat_map(|engine| [0, 83, 1100].map(|len: usize| (engine, len))) {
        let case = || Case::new([5; 32], 77, (0..len).map(|i| i as u8).collect());
        let good = case().sealed();
        for chunk in (0..good.len() * 8).collect::<Vec<_>>().chunks(24) {
            let cases: Vec<_> = chunk.iter().map(|_| case()).collect();
            let flip = |&bit: &usize| {
                let mut message = good.clone();
                message[bit / 8] ^= 1 << (bit % 8);
                message
            };
            let messages: Vec<_> = chunk.iter().map(flip).collect();
            let opened = open_all(&cases, &messages, |jobs| engine.open_alone(jobs));
            for (bit, (authentic, text)) in chunk.iter().zip(opened) {
                assert!(!authentic, "{engine}: bit {bit} of {len} bytes");
                assert!(text.iter().all(|byte| *byte == 0), "{engine}: bit {bit} of {len} bytes");
            }
        }
    }
}

#[test]
fn names_are_parsed_and_printed() {
    for engine in Engine::ALL {
        assert_eq!(engine.to_string().parse(), Ok(engine));
    }
    assert!("avx1024".parse::<Engine>().is_err_and(|error| error.contains("avx512")));
}

proptest! {
    #[test]
    fn another_counter_or_key_fails(text in proptest::collection::vec(any::<u8>(), 0..100), counter: u64) {
        for engine in Engine::runnable() {
            let case = |key, counter| Case::new([key; 32], counter, text.clone());
            let message = case(5, counter).sealed();
            let cases = [case(5, counter), case(5, counter ^ 1), case(6, counter), case(5, counter ^ 1 << 32)];
            let opened = open_all(&cases, &vec![message; 4], |jobs| engine.open_alone(jobs));
            let authentic: Vec<_> = opened.iter().map(|(authentic, _)| *authentic).collect();
            prop_assert_eq!(authentic, [true, false, false, false]);
        }
    }
}

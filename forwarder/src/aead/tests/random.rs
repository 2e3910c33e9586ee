//! A million random batches, small ones mostly.

use super::*;

/// Bytes of a frame, and frames.
const FRAME: usize = 2048;
const MOST: usize = 40;

type Frames = [[u8; FRAME]];

struct Job<'a> {
    key: &'a Key,
    counter: u64,
    text: &'a [u8],
    /// With zeros that follow.
    len: usize,
}

/// Sealed as ring does it, which is fast enough for that; opened as what was sealed, but for one of them that may
/// be bent.
#[test]
fn random_batches() {
    let mut rng = SmallRng::seed_from_u64(2);
    let keys = rng.random::<[[u8; 32]; 4]>().map(|key| Key::new(&key));
    let mut source = vec![0; 1 << 13];
    rng.fill_bytes(&mut source);
    let [mut sealed, mut expected, mut opened] = [(); 3].map(|()| vec![[0; FRAME]; MOST]);
    for engine in Engine::runnable().filter(|engine| *engine != Engine::Ring) {
        for batch in 0..1_000_000 {
            let (most, longest) = if batch % 64 == 0 { (MOST, 1500) } else { (9, 150) };
            let size = rng.random_range(1..=most);
            let jobs: Vec<_> = (0..size).map(|_| random_job(&mut rng, &keys, &source, longest)).collect();
            seal_frames(engine, &jobs, &mut sealed);
            seal_frames(Engine::Ring, &jobs, &mut expected);
            // What lies behind a message must not have changed either.
            assert!(sealed[..size] == expected[..size], "{engine}: batch {batch}: sealed");
            let bent = rng.random_range(0..4 * size);
            let bit = jobs.get(bent).map(|job| rng.random_range(0..(job.len + TAG_LEN) * 8));
            flip(&mut expected, bent, bit);
            let right = open_frames(engine, &jobs, &expected, &mut opened, bent);
            flip(&mut expected, bent, bit);
            assert!(right, "{engine}: batch {batch}: opened");
        }
    }
}

fn random_job<'a>(rng: &mut SmallRng, keys: &'a [Key], source: &'a [u8], longest: usize) -> Job<'a> {
    let len = rng.random_range(0..=longest);
    let at = rng.random_range(0..source.len() - len);
    let (key, text) = (&keys[rng.random_range(0..keys.len())], &source[at..][..len]);
    Job { key, counter: rng.random(), text, len: len + rng.random_range(0..16) }
}

/// Flips a bit, if there is one to flip.
fn flip(frames: &mut Frames, frame: usize, bit: Option<usize>) {
    if let Some(bit) = bit {
        frames[frame][bit / 8] ^= 1 << (bit % 8);
    }
}

fn seal_frames(engine: Engine, jobs: &[Job<'_>], frames: &mut Frames) {
    let mut seals = Vec::with_capacity(MOST);
    for (job, frame) in jobs.iter().zip(frames) {
        let Job { key, counter, text: source, len } = *job;
        seals.push(Seal { key, counter, source, destination: &mut frame[..len + TAG_LEN] });
    }
    engine.seal_alone(&mut seals);
}

/// Whether all but the one that is bent come back, and nothing of that one.
fn open_frames(engine: Engine, jobs: &[Job<'_>], sealed: &Frames, opened: &mut Frames, bent: usize) -> bool {
    let mut opens = Vec::with_capacity(MOST);
    let mut behind = Vec::with_capacity(MOST);
    for ((job, message), frame) in jobs.iter().zip(sealed).zip(opened) {
        let (destination, rest) = frame.split_at_mut(job.len);
        rest[..CANARY].fill(UNTOUCHED);
        behind.push(rest);
        let Job { key, counter, len, .. } = *job;
        opens.push(Open { key, counter, source: &message[..len + TAG_LEN], destination, authentic: false });
    }
    engine.open_alone(&mut opens);
    let clean = |memory: &[u8], byte: u8| memory.iter().all(|b| *b == byte);
    jobs.iter().zip(&opens).zip(&behind).enumerate().all(|(i, ((job, open), rest))| {
        let (text, padding) = open.destination.split_at(if i == bent { 0 } else { job.text.len() });
        open.authentic == (i != bent)
            && *text == job.text[..text.len()]
            && clean(padding, 0)
            && clean(&rest[..CANARY], UNTOUCHED)
    })
}

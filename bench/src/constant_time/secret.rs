//! Batches whose secrets are of one of two classes.

use forwarder::aead::{Engine, Key, Open, Seal, TAG_LEN};
use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use crate::aead::{Frames, nanoseconds};

/// What may not show in the time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Secret {
    /// The key: fixed or random.
    Key,
    /// The plaintexts: fixed or random.
    Text,
    /// Forged tags: the first byte is wrong or the last.
    Tag,
    /// One forged packet: the first of the batch or the last.
    Lane,
}

/// One experiment.
#[derive(Clone, Copy)]
pub struct Experiment {
    /// Whether the batch is opened; else it is sealed.
    pub opens: bool,
    /// What the classes differ in.
    pub secret: Secret,
}

impl Experiment {
    pub const ALL: [Self; 6] = [
        Self { opens: false, secret: Secret::Key },
        Self { opens: false, secret: Secret::Text },
        Self { opens: true, secret: Secret::Key },
        Self { opens: true, secret: Secret::Text },
        Self { opens: true, secret: Secret::Tag },
        Self { opens: true, secret: Secret::Lane },
    ];

    /// Its direction in the table.
    pub fn op(self) -> &'static str {
        if self.opens { "open" } else { "seal" }
    }
}

impl Secret {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Text => "plaintext",
            Self::Tag => "tag",
            Self::Lane => "lane",
        }
    }
}

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Engine(Engine),
    /// The planted leak: an engine, and then comparisons that end at the first difference.
    Leak(Engine),
}

impl Subject {
    /// Its name in the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Engine(engine) => engine.name(),
            Self::Leak(_) => "leak",
        }
    }

    fn engine(self) -> Engine {
        let (Self::Engine(engine) | Self::Leak(engine)) = self;
        engine
    }
}

/// Enough packets for all lanes of an engine, each of a whole block and a part of one.
const PACKETS: usize = 16;
const LEN: usize = 100;
/// The longest secret: the tags of all packets.
const LONGEST: usize = PACKETS * TAG_LEN;

/// A batch in always the same memory, whatever the class; each batch's memory lies elsewhere, and each has a fixed secret
/// of its own.
pub struct Batch {
    _gap: Vec<u8>,
    experiment: Experiment,
    subject: Subject,
    /// The texts of the fixed class, and in their first bytes its key.
    fixed: [[u8; LEN]; PACKETS],
    rng: SmallRng,
    key: Key,
    texts: Frames,
    sealed: Frames,
    opened: Frames,
    /// For a leak: how the secret differs from the fixed one, or the bits of the tags that are wrong.
    shown: [u8; LONGEST],
}

impl Batch {
    pub fn new(experiment: Experiment, subject: Subject) -> Self {
        let frames = || Frames::new(PACKETS, 0);
        Self {
            _gap: vec![0; rand::random_range(0..100_000)],
            experiment,
            subject,
            fixed: rand::random(),
            rng: SmallRng::from_rng(&mut rand::rng()),
            key: Key::new(&[0; 32]),
            texts: frames(),
            sealed: frames(),
            opened: frames(),
            shown: [0; LONGEST],
        }
    }

    /// Draws a class, prepares the batch and times it: the class, and nanoseconds.
    pub fn sample(&mut self) -> (usize, f64) {
        let class = self.rng.random_range(0..2);
        self.prepare(class);
        settle();
        let time = if self.experiment.opens { self.open() } else { self.seal(self.subject) };
        (class, time)
    }

    /// The same steps for both classes: no branch here may teach the processor which one it is.
    fn prepare(&mut self, class: usize) {
        self.shown = [0; LONGEST];
        match self.experiment.secret {
            Secret::Key => {
                let mut bytes = [0; 32];
                self.rng.fill_bytes(&mut bytes);
                choose(class, &mut bytes, &self.fixed[0], &mut self.shown);
                self.key = Key::new(&bytes);
            }
            Secret::Text => {
                for (text, fixed) in self.texts.iter_mut().zip(&self.fixed) {
                    self.rng.fill_bytes(&mut text[..LEN]);
                    choose(class, &mut text[..LEN], fixed, &mut self.shown);
                }
            }
            Secret::Tag | Secret::Lane => {}
        }
        if self.experiment.opens {
            self.seal(Subject::Engine(forwarder::aead::engine()));
            self.forge(class);
        }
    }

    fn forge(&mut self, class: usize) {
        let [first, last] = [[1, 0], [0, 1]][class];
        let tags = self.sealed.iter_mut().map(|message| &mut message[LEN..][..TAG_LEN]).enumerate();
        for ((i, tag), shown) in tags.zip(self.shown.chunks_exact_mut(TAG_LEN)) {
            let forged = match self.experiment.secret {
                Secret::Key | Secret::Text => continue,
                Secret::Tag => [first, last],
                Secret::Lane => [first * u8::from(i == 0) + last * u8::from(i == PACKETS - 1), 0],
            };
            tag[0] ^= forged[0];
            tag[TAG_LEN - 1] ^= forged[1];
            shown[0] = forged[0];
            shown[TAG_LEN - 1] = forged[1];
        }
    }

    fn seal(&mut self, subject: Subject) -> f64 {
        let jobs = self.texts.iter().zip(self.sealed.iter_mut()).enumerate();
        let mut jobs: Vec<_> = jobs
            .map(|(i, (source, destination))| Seal {
                key: &self.key,
                counter: i as u64,
                source: &source[..LEN],
                destination: &mut destination[..LEN + TAG_LEN],
            })
            .collect();
        nanoseconds(|| {
            subject.engine().seal(&mut jobs);
            leak(subject, self.experiment.secret, &self.shown);
        })
    }

    fn open(&mut self) -> f64 {
        let jobs = self.sealed.iter().zip(self.opened.iter_mut()).enumerate();
        let mut jobs: Vec<_> = jobs
            .map(|(i, (source, destination))| Open {
                key: &self.key,
                counter: i as u64,
                source: &source[..LEN + TAG_LEN],
                destination: &mut destination[..LEN],
                authentic: false,
            })
            .collect();
        nanoseconds(|| {
            self.subject.engine().open(&mut jobs);
            leak(self.subject, self.experiment.secret, &self.shown);
        })
    }
}

/// Keeps random bytes in class 1, takes fixed ones in class 0, and shows how they differ from these.
fn choose(class: usize, bytes: &mut [u8], fixed: &[u8], shown: &mut [u8]) {
    let random = 0_u8.wrapping_sub(class as u8);
    for ((byte, fixed), shown) in bytes.iter_mut().zip(fixed).zip(shown) {
        *shown = (*byte ^ fixed) & random;
        *byte = fixed ^ *shown;
    }
}

/// Other work, the same for both classes, so that the preparation is over when the clock is read. It handles secrets, too,
/// and what of it is still under way at that time made a difference of up to a cycle, now to one side, now to the other,
/// with where frames and stack happened to lie.
#[inline(never)]
#[allow(clippy::large_stack_arrays)] // there is room
fn settle() {
    std::hint::black_box(&mut [0_u8; 24 * 1024]);
}

/// What ends early tells where the first byte is that differs from a fixed one.
#[inline]
fn leak(subject: Subject, secret: Secret, shown: &[u8; LONGEST]) {
    if let Subject::Leak(_) = subject {
        let piece = if secret == Secret::Lane { LONGEST } else { TAG_LEN };
        for piece in shown.chunks(piece) {
            std::hint::black_box(piece.iter().position(|byte| *byte != 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which packets of a class are authentic.
    fn opened(secret: Secret, class: usize) -> Vec<bool> {
        let experiment = Experiment { opens: true, secret };
        let mut batch = Batch::new(experiment, Subject::Engine(Engine::Ring));
        batch.prepare(class);
        let jobs = batch.sealed.iter().zip(batch.opened.iter_mut()).enumerate();
        let mut jobs: Vec<_> = jobs
            .map(|(i, (source, destination))| Open {
                key: &batch.key,
                counter: i as u64,
                source: &source[..LEN + TAG_LEN],
                destination: &mut destination[..LEN],
                authentic: false,
            })
            .collect();
        Engine::Ring.open(&mut jobs);
        jobs.iter().map(|job| job.authentic).collect()
    }

    #[test]
    fn packets_fail_as_their_class_says() {
        for class in [0, 1] {
            assert_eq!(opened(Secret::Key, class), [true; PACKETS]);
            assert_eq!(opened(Secret::Text, class), [true; PACKETS]);
            assert_eq!(opened(Secret::Tag, class), [false; PACKETS]);
            let mut one = [true; PACKETS];
            one[[0, PACKETS - 1][class]] = false;
            assert_eq!(opened(Secret::Lane, class), one);
        }
    }

    #[test]
    fn classes_differ_in_the_secret() {
        for experiment in Experiment::ALL {
            let mut batch = Batch::new(experiment, Subject::Leak(Engine::Ring));
            let mut first_difference = |class| {
                batch.prepare(class);
                batch.shown.iter().position(|byte| *byte != 0)
            };
            assert_ne!(first_difference(0), first_difference(1), "{}", experiment.secret.name());
        }
    }
}

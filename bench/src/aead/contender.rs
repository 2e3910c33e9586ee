//! Who takes part.

#[cfg(feature = "aws-lc")]
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use forwarder::aead::{Engine, Open, Seal};

/// An implementation that seals and opens batches.
pub enum Contender {
    /// One of the forwarder's engines; ring and `RustCrypto` are among them.
    Engine(Engine),
    /// aws-lc-rs, packet by packet.
    #[cfg(feature = "aws-lc")]
    AwsLc(LessSafeKey),
}

impl Contender {
    /// All that can run here.
    pub fn all() -> Vec<Self> {
        let engines = Engine::ALL.into_iter().filter(|engine| engine.test().is_ok());
        #[cfg_attr(not(feature = "aws-lc"), allow(unused_mut))]
        let mut all: Vec<_> = engines.map(Self::Engine).collect();
        #[cfg(feature = "aws-lc")]
        all.push(Self::AwsLc(LessSafeKey::new(
            UnboundKey::new(&CHACHA20_POLY1305, &super::KEY).expect("32 bytes are a key"),
        )));
        all
    }

    /// The engines of our own that can run here, and ring.
    pub fn own_and_ring() -> Vec<Self> {
        let mut all = Self::all();
        all.retain(|contender| {
            matches!(contender, Self::Engine(Engine::Avx512 | Engine::Avx2 | Engine::Ring))
        });
        all
    }

    /// Its name in the table.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Engine(Engine::Portable) => "rustcrypto",
            Self::Engine(engine) => engine.name(),
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(_) => "aws-lc-rs",
        }
    }

    /// Seals the batch.
    pub fn seal(&self, jobs: &mut [Seal<'_>]) {
        match self {
            Self::Engine(engine) => engine.seal(jobs),
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => {
                for job in jobs {
                    let (text, tag) = job.destination.split_at_mut(job.source.len());
                    text.copy_from_slice(job.source);
                    let sealed = key.seal_in_place_separate_tag(nonce(job.counter), Aad::empty(), text);
                    tag.copy_from_slice(sealed.expect("a packet is short").as_ref());
                }
            }
        }
    }

    /// Opens the batch.
    pub fn open(&self, jobs: &mut [Open<'_>]) {
        match self {
            Self::Engine(engine) => engine.open(jobs),
            #[cfg(feature = "aws-lc")]
            Self::AwsLc(key) => {
                for job in jobs {
                    let (text, tag) = job.source.split_at(job.destination.len());
                    let opened = key.open_separate_gather(
                        nonce(job.counter),
                        Aad::empty(),
                        text,
                        tag,
                        job.destination,
                    );
                    job.authentic = opened.is_ok();
                }
            }
        }
    }
}

#[cfg(feature = "aws-lc")]
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

//! Which engine works.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use super::batch::Kernel;
use super::{Key, Open, Seal, TAG_LEN, batch, portable, single};

/// What the self-test's packets become: see [`Engine::answer`].
const ANSWER: u64 = 0x3c62_1a4f_a8a2_7129;

/// A way to do the work; all of them give the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Own code over whole batches, for AVX-512 with IFMA.
    Avx512,
    /// Own code over whole batches, for AVX2.
    Avx2,
    /// ring, packet by packet.
    Ring,
    /// `RustCrypto`, packet by packet.
    Portable,
}

/// Why an engine cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The processor lacks instructions.
    #[error("this processor cannot run the AEAD engine {0}; without --aead the best one is chosen")]
    Processor(Engine),
    /// The self-test failed.
    #[error(
        "the AEAD engine {0} computes wrong results on this machine: report it, with the processor's name"
    )]
    Wrong(Engine),
}

/// Fewer packets are faster one by one, and the question alone would cost something.
const FEWEST: usize = 3;

static CHOSEN: OnceLock<Engine> = OnceLock::new();

/// The engine of [`super::seal`] and [`super::open`].
pub fn engine() -> Engine {
    *CHOSEN.get_or_init(|| {
        Engine::ALL
            .into_iter()
            .find(|engine| engine.test().map_err(complain).is_ok())
            .unwrap_or(Engine::Portable)
    })
}

/// Fixes the engine: the forced one, or the best that passes its self-test.
///
/// # Errors
/// The forced one is not usable here.
pub fn choose(forced: Option<Engine>) -> Result<Engine, Unusable> {
    if let Some(forced) = forced {
        forced.test()?;
        // Nothing has been sealed yet.
        return Ok(*CHOSEN.get_or_init(|| forced));
    }
    Ok(engine())
}

/// An engine that should work and does not is worth a line.
fn complain(unusable: Unusable) {
    if let Unusable::Wrong(_) = unusable {
        tracing::error!("{unusable}; the next best is used");
    }
}

impl Engine {
    /// All engines, best first.
    pub const ALL: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Ring, Self::Portable];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx512 => "avx512",
            Self::Avx2 => "avx2",
            Self::Ring => "ring",
            Self::Portable => "portable",
        }
    }

    /// Whether the processor can do it, and does it right.
    ///
    /// # Errors
    /// Which of the two is not so.
    pub fn test(self) -> Result<(), Unusable> {
        let supported = matches!(self, Self::Ring | Self::Portable) || self.kernel().is_some();
        if !supported {
            return Err(Unusable::Processor(self));
        }
        if self.answer() == Some(ANSWER) { Ok(()) } else { Err(Unusable::Wrong(self)) }
    }

    /// Those that this machine can run.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn runnable() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|engine| !matches!(engine.test(), Err(Unusable::Processor(_))))
    }

    /// [`super::seal`] by this engine; by ring if the processor lacks the instructions.
    pub fn seal(self, jobs: &mut [Seal<'_>]) {
        if self == Self::Portable {
            return jobs.iter_mut().for_each(portable::seal);
        }
        // The processor is not asked in vain.
        let kernel = if jobs.len() < FEWEST { None } else { self.kernel() };
        match kernel {
            Some(kernel) => batch::seal(jobs, kernel),
            None => jobs.iter_mut().for_each(single::seal),
        }
    }

    /// [`super::open`] by this engine; by ring if the processor lacks the instructions.
    pub fn open(self, jobs: &mut [Open<'_>]) {
        if self == Self::Portable {
            return jobs.iter_mut().for_each(portable::open);
        }
        // The processor is not asked in vain.
        let kernel = if jobs.len() < FEWEST { None } else { self.kernel() };
        match kernel {
            Some(kernel) => batch::open(jobs, kernel),
            None => jobs.iter_mut().for_each(single::open),
        }
    }

    /// [`Self::seal`] by the engine's own code only: ring would hide what that does wrong.
    pub(crate) fn seal_alone(self, jobs: &mut [Seal<'_>]) {
        match self.kernel() {
            Some(kernel) => batch::seal(jobs, kernel.alone()),
            None => self.seal(jobs),
        }
    }

    /// [`Self::open`] by the engine's own code only.
    pub(crate) fn open_alone(self, jobs: &mut [Open<'_>]) {
        match self.kernel() {
            Some(kernel) => batch::open(jobs, kernel.alone()),
            None => self.open(jobs),
        }
    }

    /// What does whole batches, if the processor can.
    fn kernel(self) -> Option<Kernel> {
        match self {
            Self::Avx512 => batch::avx512(),
            Self::Avx2 => batch::avx2(),
            Self::Ring | Self::Portable => None,
        }
    }

    /// The self-test: packets of many lengths and two keys are sealed, and opened again, one of them with a
    /// wrong bit. `None` if they do not come back; otherwise a hash (FNV-1a) of everything sealed.
    pub(super) fn answer(self) -> Option<u64> {
        let keys = [Key::new(&[0x5a; 32]), Key::new(&std::array::from_fn(|i| i as u8))];
        let texts: Vec<Vec<u8>> =
            (0..PACKETS).map(|i| (0..i * 47).map(|j| (i * 101 + j * 7) as u8).collect()).collect();
        let job = |i: usize| (&keys[i % 2], (i as u64) << 31 | 0xffff_fff0);
        let mut sealed: Vec<Vec<u8>> = texts.iter().map(|text| vec![0; text.len() + TAG_LEN]).collect();
        let jobs = texts.iter().zip(&mut sealed).enumerate().map(|(i, (source, destination))| {
            let (key, counter) = job(i);
            Seal { key, counter, source, destination }
        });
        self.seal_alone(&mut jobs.collect::<Vec<_>>());
        let hash = sealed.iter().flatten().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        sealed[BENT][0] ^= 1;
        let mut opened: Vec<Vec<u8>> = texts.iter().map(|text| vec![0xaa; text.len()]).collect();
        let jobs = sealed.iter().zip(&mut opened).enumerate().map(|(i, (source, destination))| {
            let (key, counter) = job(i);
            Open { key, counter, source, destination, authentic: i == BENT }
        });
        let mut jobs: Vec<_> = jobs.collect();
        self.open_alone(&mut jobs);
        let right = jobs.iter().zip(&texts).enumerate().all(|(i, (job, text))| {
            let nothing = || job.destination.iter().all(|byte| *byte == 0);
            if i == BENT { !job.authentic && nothing() } else { job.authentic && *job.destination == **text }
        });
        right.then_some(hash)
    }
}

/// Packets of the self-test, and which one of them is bent.
const PACKETS: usize = 33;
const BENT: usize = 7;

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let engine = Self::ALL.into_iter().find(|engine| engine.name() == name);
        engine.ok_or_else(|| format!("{name} is none of {}", Self::ALL.map(Self::name).join(", ")))
    }
}

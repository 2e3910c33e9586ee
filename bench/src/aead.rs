//! ChaCha20-Poly1305 in nanoseconds per packet: the forwarder's engines and, for comparison, ring,
//! aws-lc-rs and `RustCrypto`.
//!
//! All contenders take turns on the same packets, so that a change of the clock or a neighbour hits all of
//! them; a round is one batch of each. Each of seven runs has many rounds and keeps the fastest, and the
//! median of the seven is reported. Frames lie as in the forwarder's memory: out of place, one apart from
//! the next.

mod contender;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use contender::Contender;
use forwarder::aead::{Engine, Key, Open, Seal, TAG_LEN, Unusable};

/// Options of `bench aead`.
#[derive(Args)]
pub struct Options {
    /// Write the figures to this file, as an array of JSON objects
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Packets of a batch; repeatable
    #[arg(long, default_values_t = [32])]
    batch: Vec<usize>,
    /// Bytes of a packet; repeatable [default: 64 to 1424, and IMIX]
    #[arg(long)]
    size: Vec<usize>,
}

/// One figure.
#[derive(Serialize)]
struct Row {
    engine: &'static str,
    op: &'static str,
    /// Bytes of a packet; `imix` is 7 of 64, 4 of 576, 1 of 1424.
    size: String,
    batch: usize,
    ns_per_packet: f64,
    ratio_to_ring: f64,
    /// Lowest and highest of the seven runs.
    spread: [f64; 2],
    runs: usize,
}

const SIZES: [usize; 6] = [64, 128, 256, 512, 1024, 1424];
const IMIX: [usize; 12] = [64, 576, 64, 64, 576, 64, 1424, 64, 576, 64, 576, 64];
const RUNS: usize = 7;

/// Distance of frames: not a power of two, which would fill few sets of the cache.
const STRIDE: usize = 1664;

/// Measures, prints a table, writes the file. An engine that the processor cannot run is said to be not run.
///
/// # Errors
/// An engine computes wrong results, or the file cannot be written.
pub fn run(options: &Options) -> anyhow::Result<()> {
    println!("{}", processor());
    for engine in Engine::ALL {
        match engine.test() {
            Ok(()) => {}
            Err(Unusable::Processor(_)) => println!("not run: {}: this processor cannot", engine.name()),
            Err(wrong) => return Err(wrong.into()),
        }
    }
    let mut rows = Vec::new();
    for &batch in &options.batch {
        anyhow::ensure!(batch > 0, "a batch has at least one packet");
        if options.size.is_empty() {
            for size in SIZES {
                rows.extend(measure(&size.to_string(), &vec![size; batch])?);
            }
            let imix: Vec<usize> = IMIX.into_iter().cycle().take(batch).collect();
            rows.extend(measure("imix", &imix)?);
        }
        for &size in &options.size {
            anyhow::ensure!(size + TAG_LEN <= STRIDE, "a packet has at most {} bytes", STRIDE - TAG_LEN);
            rows.extend(measure(&size.to_string(), &vec![size; batch])?);
        }
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// The processor's name.
fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("processor: {}", name.map_or("unknown", |(_, name)| name))
}

/// One size, both directions, all contenders.
fn measure(name: &str, sizes: &[usize]) -> anyhow::Result<Vec<Row>> {
    let mut bench = Bench::new(sizes);
    let mut runs = Vec::new();
    for _ in 0..RUNS {
        runs.push(bench.run());
    }
    bench.compare()?;
    let mut rows = Vec::new();
    for (direction, op) in ["seal", "open"].into_iter().enumerate() {
        let of = |contender: usize| {
            let mut times: Vec<f64> = runs.iter().map(|run| run[direction][contender]).collect();
            times.sort_by(f64::total_cmp);
            (times[RUNS / 2], [times[0], times[RUNS - 1]])
        };
        let ring = bench.contenders.iter().position(|contender| contender.name() == "ring");
        let ring = ring.map_or(f64::NAN, |ring| of(ring).0);
        for (i, contender) in bench.contenders.iter().enumerate() {
            let (ns_per_packet, spread) = of(i);
            let (engine, ratio_to_ring) = (contender.name(), ring / ns_per_packet);
            let batch = sizes.len();
            println!(
                "{op} {name:>5} x {batch:<3} {engine:<11} {ns_per_packet:8.1} ns ({:.1} to {:.1})  {:6.2} GB/s  {ratio_to_ring:5.2} x ring",
                spread[0],
                spread[1],
                sizes.iter().sum::<usize>() as f64 / batch as f64 / ns_per_packet,
            );
            rows.push(Row {
                engine,
                op,
                size: name.into(),
                batch,
                ns_per_packet,
                ratio_to_ring,
                spread,
                runs: RUNS,
            });
        }
    }
    Ok(rows)
}

/// The packets of a batch, and what each contender makes of them.
struct Bench {
    contenders: Vec<Contender>,
    sizes: Vec<usize>,
    key: Key,
    texts: Frames,
    sealed: Vec<Frames>,
    opened: Vec<Frames>,
}

impl Bench {
    fn new(sizes: &[usize]) -> Self {
        let contenders = Contender::all();
        let frames = |fill| Frames::new(sizes.len(), fill);
        Self {
            sizes: sizes.into(),
            key: Key::new(&KEY),
            texts: frames(0x42),
            sealed: contenders.iter().map(|_| frames(0)).collect(),
            opened: contenders.iter().map(|_| frames(0)).collect(),
            contenders,
        }
    }

    /// The fastest round of each direction and contender, in nanoseconds per packet.
    fn run(&mut self) -> [Vec<f64>; 2] {
        // About 30 ms for each contender.
        let rounds = (4_000_000 / self.sizes.iter().map(|size| 100 + size).sum::<usize>()).max(20);
        let mut best = [vec![f64::MAX; self.contenders.len()], vec![f64::MAX; self.contenders.len()]];
        for _ in 0..rounds {
            for (i, contender) in self.contenders.iter().enumerate() {
                let sources = self.texts.iter();
                let destinations = self.sealed[i].iter_mut();
                let jobs = sources.zip(destinations).zip(&self.sizes).enumerate();
                let mut jobs: Vec<_> = jobs
                    .map(|(i, ((source, destination), &size))| Seal {
                        key: &self.key,
                        counter: i as u64,
                        source: &source[..size],
                        destination: &mut destination[..size + TAG_LEN],
                    })
                    .collect();
                let time = nanoseconds(|| contender.seal(&mut jobs));
                best[0][i] = best[0][i].min(time / self.sizes.len() as f64);
            }
            for (i, contender) in self.contenders.iter().enumerate() {
                let sources = self.sealed[i].iter();
                let destinations = self.opened[i].iter_mut();
                let jobs = sources.zip(destinations).zip(&self.sizes).enumerate();
                let mut jobs: Vec<_> = jobs
                    .map(|(i, ((source, destination), &size))| Open {
                        key: &self.key,
                        counter: i as u64,
                        source: &source[..size + TAG_LEN],
                        destination: &mut destination[..size],
                        authentic: false,
                    })
                    .collect();
                let time = nanoseconds(|| contender.open(&mut jobs));
                best[1][i] = best[1][i].min(time / self.sizes.len() as f64);
            }
        }
        best
    }

    /// All must have made the same of it.
    fn compare(&self) -> anyhow::Result<()> {
        for (contender, (sealed, opened)) in self.contenders.iter().zip(self.sealed.iter().zip(&self.opened))
        {
            anyhow::ensure!(
                sealed.iter().eq(self.sealed[0].iter()),
                "{} sealed something else",
                contender.name()
            );
            let same =
                opened.iter().zip(self.texts.iter()).zip(&self.sizes).all(|((a, b), &n)| a[..n] == b[..n]);
            anyhow::ensure!(same, "{} opened something else", contender.name());
        }
        Ok(())
    }
}

const KEY: [u8; 32] = [0x17; 32];

/// The one place of this program that reads a clock for so short a time.
#[allow(clippy::disallowed_methods)]
pub fn nanoseconds(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_nanos() as f64
}

/// Frames of one port, each at the start of a cache line.
struct Frames {
    memory: Vec<u8>,
    start: usize,
    count: usize,
}

impl Frames {
    fn new(count: usize, fill: u8) -> Self {
        const LINE: usize = 64;
        let memory = vec![fill; count * STRIDE + LINE];
        let start = memory.as_ptr().align_offset(LINE);
        Self { memory, start, count }
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.memory[self.start..].chunks_exact(STRIDE).take(self.count)
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.memory[self.start..].chunks_exact_mut(STRIDE).take(self.count)
    }
}

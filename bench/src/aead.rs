//! ChaCha20-Poly1305 in nanoseconds per packet: the forwarder's engines and, for comparison, ring,
//! aws-lc-rs and `RustCrypto`.
//!
//! All contenders take turns on the same packets, so that a change of the clock or a neighbour hits all of
//! them; a round is one batch of each. Each of seven runs has many rounds and keeps the fastest, and the
//! median of the seven is reported. Frames lie as in the forwarder's memory: out of place, one apart from
//! the next.

mod contender;
mod grid;

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
    /// Look for batches that ring does faster, among all of 1 to 64 packets and many lengths and mixes
    #[arg(long, conflicts_with_all = ["batch", "size"])]
    grid: bool,
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
/// Bytes of a run, which takes about 30 ms for each contender.
const LONG: usize = 4_000_000;
/// Bytes that are worth a look at the clock: about a microsecond.
const CLOCKED: usize = 2000;

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
    let rows = if options.grid { grid::measure()? } else { chosen(options)? };
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if options.grid { grid::judge(&rows) } else { Ok(()) }
}

/// The batches and sizes that were asked for.
fn chosen(options: &Options) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut measure = |name: &str, sizes: &[usize]| {
        let measured = measure(name, sizes, Contender::all(), RUNS, LONG)?;
        let bytes = sizes.iter().sum::<usize>() as f64 / sizes.len() as f64;
        for row in &measured {
            row.print(bytes);
        }
        rows.extend(measured);
        anyhow::Ok(())
    };
    for &batch in &options.batch {
        anyhow::ensure!(batch > 0, "a batch has at least one packet");
        if options.size.is_empty() {
            for size in SIZES {
                measure(&size.to_string(), &vec![size; batch])?;
            }
            measure("imix", &IMIX.into_iter().cycle().take(batch).collect::<Vec<_>>())?;
        }
        for &size in &options.size {
            anyhow::ensure!(size + TAG_LEN <= STRIDE, "a packet has at most {} bytes", STRIDE - TAG_LEN);
            measure(&size.to_string(), &vec![size; batch])?;
        }
    }
    Ok(rows)
}

/// The processor's name.
pub fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("processor: {}", name.map_or("unknown", |(_, name)| name))
}

/// One batch, both directions, all contenders: the median of some runs.
fn measure(
    name: &str,
    sizes: &[usize],
    contenders: Vec<Contender>,
    runs: usize,
    bytes: usize,
) -> anyhow::Result<Vec<Row>> {
    let mut bench = Bench::new(sizes, contenders);
    let runs: Vec<_> = (0..runs).map(|_| bench.run(bytes)).collect();
    bench.compare()?;
    let mut rows = Vec::new();
    for (direction, op) in ["seal", "open"].into_iter().enumerate() {
        let of = |contender: usize| {
            let mut times: Vec<f64> = runs.iter().map(|run| run[direction][contender]).collect();
            times.sort_by(f64::total_cmp);
            (times[times.len() / 2], [times[0], times[times.len() - 1]])
        };
        let ring = bench.contenders.iter().position(|contender| contender.name() == "ring");
        let ring = ring.map_or(f64::NAN, |ring| of(ring).0);
        for (i, contender) in bench.contenders.iter().enumerate() {
            let (ns_per_packet, spread) = of(i);
            let (engine, ratio_to_ring) = (contender.name(), ring / ns_per_packet);
            let batch = sizes.len();
            let runs = runs.len();
            rows.push(Row {
                engine,
                op,
                size: name.into(),
                batch,
                ns_per_packet,
                ratio_to_ring,
                spread,
                runs,
            });
        }
    }
    Ok(rows)
}

impl Row {
    /// A line of the table; a packet has so many `bytes` on average.
    fn print(&self, bytes: f64) {
        let Self { engine, op, size, batch, ns_per_packet, ratio_to_ring, spread: [low, high], .. } = self;
        println!(
            "{op} {size:>5} x {batch:<3} {engine:<11} {ns_per_packet:8.1} ns ({low:.1} to {high:.1})  {:6.2} GB/s  {ratio_to_ring:5.2} x ring",
            bytes / ns_per_packet,
        );
    }
}

/// The packets of a batch, in the same memory for all contenders: how frames lie to each other matters.
struct Bench {
    contenders: Vec<Contender>,
    sizes: Vec<usize>,
    key: Key,
    texts: Frames,
    sealed: Frames,
    opened: Frames,
}

impl Bench {
    fn new(sizes: &[usize], contenders: Vec<Contender>) -> Self {
        let frames = |fill| Frames::new(sizes.len(), fill);
        let (texts, sealed, opened) = (frames(0x42), frames(0), frames(0));
        Self { contenders, sizes: sizes.into(), key: Key::new(&KEY), texts, sealed, opened }
    }

    /// The fastest round of each direction and contender, in nanoseconds per packet. So many `bytes` take all
    /// rounds together.
    fn run(&mut self, bytes: usize) -> [Vec<f64>; 2] {
        // A packet costs something, too.
        let batch = self.sizes.iter().map(|size| 100 + size).sum::<usize>();
        // Else the clock would be much of a small batch's time.
        let times = (CLOCKED / batch).max(1);
        let rounds = (bytes / batch / times).max(20);
        let mut best = [vec![f64::MAX; self.contenders.len()], vec![f64::MAX; self.contenders.len()]];
        for _ in 0..rounds {
            for (i, best) in best[0].iter_mut().enumerate() {
                *best = best.min(self.seal(i, times));
            }
            for (i, best) in best[1].iter_mut().enumerate() {
                *best = best.min(self.open(i, times));
            }
        }
        best
    }

    /// Seals the batch so many times; nanoseconds per packet.
    fn seal(&mut self, contender: usize, times: usize) -> f64 {
        let jobs = self.texts.iter().zip(self.sealed.iter_mut()).zip(&self.sizes).enumerate();
        let mut jobs: Vec<_> = jobs
            .map(|(i, ((source, destination), &size))| Seal {
                key: &self.key,
                counter: i as u64,
                source: &source[..size],
                destination: &mut destination[..size + TAG_LEN],
            })
            .collect();
        let contender = &self.contenders[contender];
        let time = nanoseconds(|| (0..times).for_each(|_| contender.seal(&mut jobs)));
        time / (times * jobs.len()) as f64
    }

    /// Opens what was sealed last, in the same way.
    fn open(&mut self, contender: usize, times: usize) -> f64 {
        let jobs = self.sealed.iter().zip(self.opened.iter_mut()).zip(&self.sizes).enumerate();
        let mut jobs: Vec<_> = jobs
            .map(|(i, ((source, destination), &size))| Open {
                key: &self.key,
                counter: i as u64,
                source: &source[..size + TAG_LEN],
                destination: &mut destination[..size],
                authentic: false,
            })
            .collect();
        let contender = &self.contenders[contender];
        let time = nanoseconds(|| (0..times).for_each(|_| contender.open(&mut jobs)));
        time / (times * jobs.len()) as f64
    }

    /// All make the same of it.
    fn compare(&mut self) -> anyhow::Result<()> {
        let mut first = None;
        for contender in 0..self.contenders.len() {
            self.sealed = Frames::new(self.sizes.len(), 0);
            self.opened = Frames::new(self.sizes.len(), 0);
            self.seal(contender, 1);
            self.open(contender, 1);
            let name = self.contenders[contender].name();
            let sealed: Vec<Vec<u8>> = self.sealed.iter().map(<[u8]>::to_vec).collect();
            anyhow::ensure!(*first.get_or_insert_with(|| sealed.clone()) == sealed, "{name} seals otherwise");
            let mut packets = self.opened.iter().zip(self.texts.iter()).zip(&self.sizes);
            anyhow::ensure!(packets.all(|((a, b), &n)| a[..n] == b[..n]), "{name} opens otherwise");
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
pub struct Frames {
    memory: Vec<u8>,
    start: usize,
    count: usize,
}

impl Frames {
    /// Frames full of one byte.
    pub fn new(count: usize, fill: u8) -> Self {
        const LINE: usize = 64;
        let memory = vec![fill; count * STRIDE + LINE];
        let start = memory.as_ptr().align_offset(LINE);
        Self { memory, start, count }
    }

    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.memory[self.start..].chunks_exact(STRIDE).take(self.count)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.memory[self.start..].chunks_exact_mut(STRIDE).take(self.count)
    }
}

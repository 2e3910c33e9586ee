//! Whether the time of the AEAD engines shows secrets: dudect's method (Reparaz, Balasch and Verbauwhede, "Dude,
//! is my code constant time?", 2017).
//!
//! Batches of two classes are timed in random order, which differ in a secret only: its value, or which packet is
//! forged. Welch's t-test says whether their times differ. A planted leak shows that it would say so: where that
//! is not found, nothing has been shown.

mod secret;
mod welch;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use crate::status::status;
use forwarder::aead::{Engine, Unusable};
use secret::{Batch, Experiment, Subject};
use welch::Test;

/// Options of `bench constant-time`.
#[derive(Args)]
pub struct Options {
    /// Timed batches of each experiment
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(100_000..))]
    samples: u64,
    /// Test this engine only; repeatable [default: all that the processor can run]
    #[arg(long)]
    engine: Vec<Engine>,
    /// Write the results to this file, as an array of JSON objects
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Below this |t| the classes are not told apart.
const LIMIT: f64 = 4.5;
/// Samples after which memory and stack lie elsewhere: how they lie makes a difference of up to a cycle between equal
/// work on different data, to one side or the other.
const LAYOUT: u64 = 10_000;
/// Places in memory, and depths of the stack, of which one is drawn each time.
const PLACES: usize = 64;
const STACKS: usize = 256;
/// Samples that set the percentiles.
const FIRST: usize = 20_000;
/// Enough for a leak, and for libraries, which are shown for information.
const FEW: u64 = 500_000;

/// One result.
#[derive(Serialize)]
struct Row {
    engine: &'static str,
    op: &'static str,
    secret: &'static str,
    samples: u64,
    /// The largest |t| of all crops.
    t: f64,
    /// `constant`, `leaks`, or for the planted leak `detected` and `missed`.
    result: &'static str,
}

/// Makes all experiments, prints a table, writes the file.
///
/// # Errors
/// An own engine leaks or computes wrong results, a planted leak was missed, or the file cannot be written.
pub fn run(options: &Options) -> anyhow::Result<()> {
    println!("{}", crate::aead::processor());
    let mut runs = Vec::new();
    for subject in subjects(&options.engine)? {
        runs.extend(Experiment::ALL.map(|experiment| Run::new(subject, experiment, options.samples)));
    }
    let seconds: f64 = runs.iter().map(|run| run.seconds).sum();
    println!("{} experiments, about {:.1} min", runs.len(), seconds / 60.0);
    let rows: Vec<_> = runs.into_iter().map(Run::finish).collect();
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let count = |result| rows.iter().filter(|row| row.result == result && !is_library(row.engine)).count();
    anyhow::ensure!(count("missed") == 0, "{} planted leaks were missed: more samples?", count("missed"));
    anyhow::ensure!(count("leaks") == 0, "the time shows secrets in {} experiments", count("leaks"));
    Ok(())
}

/// The planted leak first, then the engines. One that the processor cannot run is said to be not run.
fn subjects(chosen: &[Engine]) -> anyhow::Result<Vec<Subject>> {
    let mut subjects = vec![Subject::Leak(forwarder::aead::engine())];
    for engine in Engine::ALL.into_iter().filter(|engine| chosen.is_empty() || chosen.contains(engine)) {
        match engine.test() {
            Ok(()) => subjects.push(Subject::Engine(engine)),
            Err(Unusable::Processor(_)) => println!("not run: {}: this processor cannot", engine.name()),
            Err(wrong) => return Err(wrong.into()),
        }
    }
    Ok(subjects)
}

/// Libraries answer for themselves.
fn is_library(engine: &str) -> bool {
    [Engine::Ring, Engine::Portable].iter().any(|library| library.name() == engine)
}

/// An experiment whose percentiles are set.
struct Run {
    subject: Subject,
    experiment: Experiment,
    test: Test,
    samples: u64,
    /// How long it will take.
    seconds: f64,
}

impl Run {
    fn new(subject: Subject, experiment: Experiment, samples: u64) -> Self {
        let mut batch = Batch::new(experiment, subject);
        let samples = match subject {
            Subject::Engine(Engine::Avx512 | Engine::Avx2) => samples,
            _ => samples.min(FEW),
        };
        let mut first = Vec::with_capacity(FIRST);
        let time = crate::aead::nanoseconds(|| first.extend((0..FIRST).map(|_| batch.sample().1)));
        let seconds = time * 1e-9 / FIRST as f64 * samples as f64;
        Self { subject, experiment, test: Test::new(first), samples, seconds }
    }

    fn finish(mut self) -> Row {
        let Self { subject, experiment, samples, .. } = self;
        let title = format!("{:<9}{:<5}{:<10}", subject.name(), experiment.op(), experiment.secret.name());
        // Side by side, so that each has pages of its own.
        let mut batches: Vec<_> = (0..PLACES).map(|_| Batch::new(experiment, subject)).collect();
        let mut done = 0;
        while done < samples {
            status(&format!("{title}{:>3} %  |t| {:.2}", done * 100 / samples, self.test.t()));
            let count = LAYOUT.min(samples - done);
            let batch = &mut batches[rand::random_range(0..PLACES)];
            elsewhere(rand::random_range(0..STACKS), &mut || {
                for _ in 0..count {
                    let (class, time) = batch.sample();
                    self.test.push(class, time);
                }
            });
            done += count;
        }
        status("");
        let t = self.test.t();
        let result = match (subject, t < LIMIT) {
            (Subject::Engine(_), true) => "constant",
            (Subject::Engine(_), false) => "leaks",
            (Subject::Leak(_), false) => "detected",
            (Subject::Leak(_), true) => "missed",
        };
        println!("{title}{samples:>9} samples  |t| {t:>7.2}  {result}");
        let (op, secret) = (experiment.op(), experiment.secret.name());
        Row { engine: subject.name(), op, secret, samples, t, result }
    }
}

/// Does some work further down on the stack.
#[inline(never)]
fn elsewhere(depth: usize, work: &mut dyn FnMut()) {
    if depth == 0 {
        return work();
    }
    let mut room = [0_u8; 4176];
    std::hint::black_box(&mut room);
    elsewhere(depth - 1, work);
    std::hint::black_box(&mut room);
}

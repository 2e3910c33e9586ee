//! `cargo xtask test`: every check and test, in order, and what became of each.
//!
//! A test that this machine cannot run is reported as not run, with the reason, never as passed.

mod disassembly;
pub mod matrix;
mod not_run;
mod steps;
mod tally;

use std::process::ExitCode;
use std::rc::Rc;

use anyhow::Result;
use clap::Args;

pub use not_run::not_run;

use crate::progress::{Progress, Stopwatch};
use crate::{elevate, install, workspace};
use matrix::Matrix;
use steps::Step;
use tally::Tally;

/// Tells tests that they may take their time.
const LONG: &str = "FORWARDER_TESTS_LONG";

/// Whether a test may take its time: `cargo xtask test --long`.
pub fn is_long() -> bool {
    std::env::var_os(LONG).is_some()
}

/// Options of `cargo xtask test`.
#[derive(Args, Clone, Copy, Debug)]
pub struct Options {
    /// Let all interop tests run over two rekeys, as the kernel's always do (two minutes more)
    #[arg(long)]
    long: bool,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    /// It ran; some of its tests may have found that they cannot.
    Ran(Tally),
    /// It cannot run here.
    NotRun(String),
}

/// Runs all steps and prints a table, the interop matrix and the counts of tests; fails when a test did, or
/// when the matrix has a gap.
///
/// # Errors
/// Something is missing and cannot be installed.
pub fn run(options: Options) -> Result<ExitCode> {
    let progress = Progress::start();
    elevate::check()?;
    for needs in [install::BUILD, install::LINT, install::PLANTING, install::LAB] {
        install::install(progress, needs)?;
    }

    let matrix = Rc::new(Matrix::create(&workspace::target()?)?);
    let mut rows = Vec::new();
    for Step { name, run } in steps::all(progress, options, &matrix)? {
        progress.step(&name);
        let watch = Stopwatch::start();
        let outcome = run().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Outcome::Ran(Tally::FAILURE)
        });
        rows.push(Row { name, outcome, seconds: watch.seconds() });
    }
    print_table(&rows);
    let (table, missing) = matrix.table()?;
    println!("\ninterop matrix\n{table}");
    let total = rows.iter().map(|row| row.outcome.tally()).fold(Tally::default(), Tally::plus);
    println!("{total}");
    Ok(if total.failed == 0 && missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

struct Row {
    name: String,
    outcome: Outcome,
    seconds: f64,
}

impl Outcome {
    /// A step that cannot run counts as one skipped test.
    fn tally(&self) -> Tally {
        match self {
            Self::Ran(tally) => tally.clone(),
            Self::NotRun(_) => Tally { skipped: 1, ..Tally::default() },
        }
    }

    /// Its word in the table.
    fn result(&self) -> &'static str {
        match self {
            Self::Ran(tally) if tally.failed > 0 => "failed",
            Self::Ran(tally) if tally.passed == 0 && tally.skipped > 0 => "not run",
            Self::Ran(_) => "passed",
            Self::NotRun(_) => "not run",
        }
    }
}

fn print_table(rows: &[Row]) {
    println!("\n{:<44}{:<9}{:>9}", "step", "result", "seconds");
    for Row { name, outcome, seconds } in rows {
        println!("{name:<44}{:<9}{seconds:>9.1}", outcome.result());
        match outcome {
            Outcome::NotRun(reason) => println!("    not run: {reason}"),
            Outcome::Ran(tally) => tally.not_run.iter().for_each(|test| println!("    not run: {test}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(passed: u64, failed: u64, skipped: u64) -> &'static str {
        Outcome::Ran(Tally { passed, failed, skipped, not_run: Vec::new() }).result()
    }

    #[test]
    fn a_step_passes_by_a_test_that_passed() {
        assert_eq!(result(1, 0, 1), "passed");
        assert_eq!(result(1, 1, 1), "failed");
        assert_eq!(result(0, 0, 2), "not run");
        assert_eq!(Outcome::NotRun("no kernel".to_owned()).result(), "not run");
    }
}

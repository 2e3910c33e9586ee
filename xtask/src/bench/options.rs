//! What all benchmarks on the stand can be told.

use clap::Args;

use super::report::Output;
use super::stand::{self, Name};

/// Systems, and how thoroughly they are measured.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// What to measure; repeatable [default: all that this machine has]
    #[arg(long = "system", value_name = "SYSTEM")]
    pub systems: Vec<Name>,
    /// Times that each system is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Fewer sizes and systems, one round, short trials: all benchmarks in less than ten minutes
    #[arg(long)]
    pub quick: bool,
    #[command(flatten)]
    pub output: Output,
    /// Only the part that needs root: everything is installed and built
    #[arg(long, hide = true)]
    pub lab_only: bool,
}

impl Common {
    /// The systems to measure.
    pub fn names(&self) -> Vec<Name> {
        stand::names(&self.systems, self.quick)
    }
}

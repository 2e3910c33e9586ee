//! The project's one door: `cargo xtask --help` lists what is behind it.

use clap::Parser;

mod build_ebpf;

#[derive(Debug, Parser)]
enum Task {
    /// Build the XDP program (needs an eBPF toolchain; the built object is committed)
    BuildEbpf(build_ebpf::Options),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::BuildEbpf(options) => build_ebpf::run(&options),
    }
}

//! The project's one door: `cargo xtask`.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use xtask::progress::Progress;
use xtask::{bench, build_ebpf, demo, fuzz, lab_kernel, sim, test};

#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
enum Command {
    /// Show a site-to-site VPN over three tunnels at work, and what it carries
    Demo(demo::Options),
    /// Measure beside something else, and judge by ratios
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run every check and test that this machine can run, and say which it cannot
    Test(test::Options),
    /// Simulate networks for the WireGuard protocol, and look whether what must hold does
    Sim(sim::Options),
    /// Look for inputs that break what the parsers, the handshake, the pipeline and the AEAD promise
    Fuzz(fuzz::Options),
    /// Build the XDP program that is committed
    BuildEbpf(build_ebpf::Options),
    /// Build the User-mode Linux kernel of the bond test, unless it is there
    LabKernel,
    /// Remove all labs: what `demo --keep` has left up, what was killed, and what runs
    LabDown,
}

fn main() -> ExitCode {
    match run(Command::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo(options) => demo::run(&options)?,
        Command::Test(options) => return test::run(options),
        Command::Sim(options) => return sim::run(&options),
        Command::Bench(bench) => bench::run(&bench)?,
        Command::Fuzz(options) => fuzz::run(&options)?,
        Command::BuildEbpf(options) => build_ebpf::run(&options)?,
        Command::LabKernel => println!("{}", lab_kernel::run(Progress::start())?.display()),
        Command::LabDown => demo::take_down()?,
    }
    Ok(ExitCode::SUCCESS)
}

//! `forwarder`. Exit codes: 0 done, 1 failed, 2 wrong usage.

mod cli;

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use forwarder::config::RunOptions;
use forwarder::config::key;
use forwarder::control;
use forwarder::kernel::guard;
use forwarder::wireguard::PrivateKey;
use zeroize::Zeroizing;

use cli::{Cli, Command};

fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Several mistakes are several lines.
            for line in format!("{error:#}").lines() {
                eprintln!("forwarder: {line}");
            }
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        #[cfg(not(feature = "keylog"))]
        Command::Run { options, counters } => run(&RunOptions { counters, ..options.into() })?,
        #[cfg(feature = "keylog")]
        Command::Run { options, counters, keylog } => {
            run(&RunOptions { counters, keylog, ..options.into() })?;
        }
        Command::Check { options, json } => return check(&options.into(), json),
        Command::Down => down()?,
        Command::Genkey => print_key(&key::generate_private(&mut rand::rng()).0)?,
        Command::Genpsk => print_key(&key::generate_preshared(&mut rand::rng()))?,
        Command::Pubkey => print_key(&key::public(&read_key()?).0)?,
        Command::Janitor => _ = guard::janitor_main()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn run(options: &RunOptions) -> anyhow::Result<()> {
    log();
    control::run(options)
}

fn check(options: &RunOptions, json: bool) -> anyhow::Result<ExitCode> {
    let findings = control::check(options)?;
    let text = if json { serde_json::to_string(&findings)? + "\n" } else { findings.to_string() };
    write!(std::io::stdout(), "{text}").context("cannot write the report")?;
    Ok(if findings.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Logs go to standard error; `RUST_LOG` chooses more or less than `info`.
fn log() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_target(false).with_ansi(colours);
    // It would tell standard error that standard error cannot be written, and panic.
    logs.log_internal_errors(false).with_writer(std::io::stderr).init();
    // libbpf's warnings are about what we try on purpose (a feature that a driver may lack).
    let debug = |_, text: String| tracing::debug!("libbpf: {}", text.trim_end());
    libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Warn, debug)));
}

fn down() -> anyhow::Result<()> {
    let removed = guard::down()?;
    writeln!(std::io::stdout(), "{} routes and {} rules removed", removed.routes, removed.rules)?;
    Ok(())
}

fn print_key(key: &[u8; 32]) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{}", *key::encode(key)).context("cannot write the key")
}

fn read_key() -> anyhow::Result<PrivateKey> {
    /// A key, its line end, and room to see that there is more.
    const MOST: u64 = 64;
    let mut text = Zeroizing::new(String::with_capacity(MOST as usize));
    std::io::stdin().take(MOST).read_to_string(&mut text).context("cannot read standard input")?;
    Ok(PrivateKey(*key::decode(text.trim()).context("standard input")?))
}

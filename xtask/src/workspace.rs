//! Where things are in the workspace, and building them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::Run as _;

/// The repository's top directory.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("")
}

/// The directory that cargo builds into: the one this program was built into.
///
/// # Errors
/// The program was moved out of it.
pub fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists());
    Ok(target.context("this program no longer lies in cargo's target directory")?.to_owned())
}

/// The program `name` as built by `profile` ("debug" or "release").
///
/// # Errors
/// It was not built.
pub fn program(profile: &str, name: &str) -> Result<PathBuf> {
    let path = target()?.join(profile).join(name);
    let hint = if profile == "release" { " --release" } else { "" };
    std::fs::metadata(&path)
        .with_context(|| format!("{} is missing: cargo build{hint} -p {name}", path.display()))?;
    Ok(path)
}

/// The cargo that runs us, in the repository's top directory. What it told us of our own package, the next
/// one must not hear: build scripts would take it for a change, and compile their C again.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| name.to_string_lossy().starts_with(own)) {
            command.env_remove(name);
        }
    }
    command.current_dir(root());
    command
}

/// Builds packages of the workspace in the release profile.
///
/// # Errors
/// They do not compile.
pub fn build_release(packages: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--release", "--locked"]);
    for package in packages {
        command.args(["-p", package]);
    }
    command.visibly()
}

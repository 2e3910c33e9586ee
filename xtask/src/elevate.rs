//! Root, and how to get there: only the lab steps are elevated, builds run as the invoking user.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::exists;

/// Whether this process is root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Refuses early, before anything is built, when neither root nor sudo is at hand.
///
/// # Errors
/// There is no way to become root.
pub fn check() -> Result<()> {
    command("true").map(drop)
}

/// A command that runs `program` as root: by itself when we are root, else through sudo.
///
/// # Errors
/// There is no way to become root.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if !exists("sudo") {
        bail!("this needs root (packages and network namespaces): run it as root, or install sudo");
    }
    let mut sudo = Command::new("sudo");
    sudo.arg("--").arg(program);
    Ok(sudo)
}

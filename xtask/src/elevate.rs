//! Root, and how to get there: only the lab steps are elevated, builds run as the invoking user.

use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{Run as _, exists};

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

/// Does `work` as root: here, or in the same command again, which has `--lab-only` among its options then.
///
/// # Errors
/// Those of `work`; or there is no way to become root.
pub fn do_as_root(work: impl FnOnce() -> Result<()>) -> Result<()> {
    if is_root() {
        return work();
    }
    let mut arguments = std::env::args_os();
    let _ = arguments.next();
    command(std::env::current_exe()?)?.args(arguments).arg("--lab-only").visibly()
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

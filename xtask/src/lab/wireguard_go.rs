//! Where wireguard-go comes from: the system to compare with, and a peer to interoperate with.
//!
//! Debian 12's package is of 2022 and lacks the offloads that make it fast, so the one of Debian's next
//! release is fetched from the machine's own mirror and unpacked, not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::command::Run as _;
use crate::progress::Progress;
use crate::workspace;

/// Where Debian keeps the keys that its package lists are signed with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Fetches wireguard-go unless it was fetched before; returns the program.
///
/// # Errors
/// The machine is no Debian, or its mirror does not answer.
pub fn fetch(progress: Progress) -> Result<PathBuf> {
    let directory = workspace::target()?.join("wireguard-go");
    let program = directory.join("wireguard-go");
    if !program.exists() {
        progress.step("fetching wireguard-go from Debian unstable");
        let scratch = directory.join("download");
        download(&scratch).context("wireguard-go is fetched from the mirror of a Debian machine")?;
        fs::rename(scratch.join("usr/bin/wireguard-go"), &program)?;
        fs::remove_dir_all(scratch)?;
    }
    Ok(program)
}

fn download(scratch: &Path) -> Result<()> {
    for directory in ["lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(scratch.join(directory))?;
    }
    let sources = scratch.join("sources.list");
    fs::write(&sources, format!("deb [signed-by={KEYRING}] {} sid main\n", mirror()?))?;
    // The machine's own lists and sources stay as they are.
    let apt_get = || {
        let mut command = Command::new("apt-get");
        command.current_dir(scratch);
        for (option, path) in [
            ("Dir::Etc::SourceList", "sources.list"),
            ("Dir::State::Lists", "lists"),
            ("Dir::Cache", "cache"),
        ] {
            command.args(["-o", &format!("{option}={}", scratch.join(path).display())]);
        }
        command.args(["-o", "Dir::Etc::SourceParts=-", "-o", "Acquire::Languages=none"]);
        command.args(["-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false"]);
        // The sandbox user may not write into a build directory.
        if crate::elevate::is_root() {
            command.args(["-o", "APT::Sandbox::User=root"]);
        }
        command
    };
    apt_get().arg("update").quietly()?;
    apt_get().args(["download", "wireguard-go"]).quietly()?;
    let package = fs::read_dir(scratch)?.flatten().map(|entry| entry.path());
    let package = package.filter(|path| path.extension().is_some_and(|end| end == "deb")).max();
    Command::new("dpkg").arg("-x").arg(package.context("apt-get downloaded nothing")?).arg(scratch).quietly()
}

/// The mirror that this machine's apt uses for Debian itself.
fn mirror() -> Result<String> {
    let filters = ["Created-By: Packages", "Origin: Debian", "Component: main"];
    let sites = Command::new("apt-get").args(["indextargets", "--format", "$(SITE)"]).args(filters).text()?;
    let site = sites.lines().find(|site| !site.contains("security"));
    Ok(site.context("apt knows no Debian mirror: run `apt-get update`")?.to_owned())
}

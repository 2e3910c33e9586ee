//! `cargo xtask lab-kernel`: the User-mode Linux kernel that tests boot for real bonding, LACP and
//! kernel WireGuard. Built once from Debian's kernel source, cached by source version and configuration.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, ensure};

use crate::command::Run as _;
use crate::install::{self, LAB_KERNEL};
use crate::progress::Progress;
use crate::workspace;

const SOURCE: &str = "linux-source-6.12";
const CONFIG: &str = include_str!("../lab/uml-kernel.config");

/// Builds the kernel, unless the cache has it; returns the path of its executable.
///
/// # Errors
/// The machine is no Debian with that source package, or a step of the build failed.
pub fn run(progress: Progress) -> anyhow::Result<PathBuf> {
    install::install(progress, LAB_KERNEL)?;
    let version = source_version()?;
    let name = format!("{version}-{:016x}", config_hash());
    let directory = workspace::target()?.join("lab-kernel").join(name);
    let linux = directory.join("linux");
    if !linux.exists() {
        build(&directory, progress)
            .with_context(|| format!("building the lab kernel in {}", directory.display()))?;
    }
    Ok(linux)
}

fn source_version() -> anyhow::Result<String> {
    let show = Command::new("apt-cache").args(["show", "--no-all-versions", SOURCE]).text();
    let show = show.context("the lab kernel is built from the source package of Debian 12 or later")?;
    let version = show.lines().find_map(|line| line.strip_prefix("Version: "));
    Ok(version.context("apt-cache shows no version")?.replace(['~', ':'], "-"))
}

fn config_hash() -> u64 {
    let mut hasher = DefaultHasher::new();
    CONFIG.hash(&mut hasher);
    hasher.finish()
}

fn build(directory: &Path, progress: Progress) -> anyhow::Result<()> {
    let scratch = directory.join("build");
    let (source, object) = (scratch.join("source"), scratch.join("object"));
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&source)?;
    fs::create_dir_all(&object)?;
    let config = scratch.join("config");
    fs::write(&config, CONFIG)?;

    progress.step(format!("lab kernel: fetching {SOURCE} (150 MB)"));
    Command::new("apt-get").args(["download", SOURCE]).current_dir(&scratch).quietly()?;
    let package = file_with_extension(&scratch, "deb")?;
    Command::new("dpkg").arg("-x").arg(package).arg(&scratch).quietly()?;
    let archive = scratch.join(format!("usr/src/{SOURCE}.tar.xz"));
    Command::new("tar")
        .arg("-xf")
        .arg(archive)
        .arg("-C")
        .arg(&source)
        .arg("--strip-components=1")
        .quietly()?;

    progress.step("lab kernel: compiling (about 4 minutes)");
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let make = || {
        let mut make = Command::new("make");
        make.current_dir(&source).args(["--silent", "ARCH=um"]).arg(format!("O={}", object.display()));
        make
    };
    make().arg("allnoconfig").env("KCONFIG_ALLCONFIG", &config).quietly()?;
    check_configured(&object.join(".config"))?;
    make().arg(format!("-j{jobs}")).arg("linux").quietly()?;

    Command::new("strip").arg(object.join("linux")).quietly()?;
    fs::rename(object.join("linux"), directory.join("linux"))?;
    Ok(fs::remove_dir_all(&scratch)?)
}

/// Kconfig silently drops an option whose dependencies are missing: that is an error here.
fn check_configured(config: &Path) -> anyhow::Result<()> {
    let config = fs::read_to_string(config)?;
    let dropped: Vec<_> =
        CONFIG.lines().filter(|wanted| !config.lines().any(|line| line == *wanted)).collect();
    ensure!(dropped.is_empty(), "{SOURCE} does not take these options: {}", dropped.join(", "));
    Ok(())
}

fn file_with_extension(directory: &Path, extension: &str) -> anyhow::Result<PathBuf> {
    let mut paths = fs::read_dir(directory)?.filter_map(|entry| Some(entry.ok()?.path()));
    let found = paths.find(|path| path.extension().is_some_and(|found| found == extension));
    found.with_context(|| format!("no .{extension} file in {}", directory.display()))
}

//! `cargo xtask lab-kernel`: the User-mode Linux kernel that tests boot for real bonding, LACP and
//! kernel WireGuard. Built once from Debian's kernel source, cached by source version and configuration.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, bail, ensure};

const SOURCE: &str = "linux-source-6.12";
const CONFIG: &str = include_str!("../lab/uml-kernel.config");
/// What the build needs, and what the tests run inside the guest.
const PACKAGES: &[&str] = &[
    "bc",
    "bison",
    "busybox-static",
    "ethtool",
    "flex",
    "gcc",
    "iperf3",
    "iproute2",
    "iputils-ping",
    "libelf-dev",
    "libssl-dev",
    "make",
    "wireguard-tools",
    "xz-utils",
];

/// Builds the kernel, unless the cache has it; returns the path of its executable.
///
/// # Errors
/// The machine is no Debian with that source package, or a step of the build failed.
pub fn run() -> anyhow::Result<PathBuf> {
    let version = source_version()?;
    let directory = target_directory().join("lab-kernel").join(format!("{version}-{:016x}", config_hash()));
    let linux = directory.join("linux");
    if !linux.exists() {
        install(PACKAGES)?;
        build(&directory).with_context(|| format!("building the lab kernel in {}", directory.display()))?;
    }
    Ok(linux)
}

fn source_version() -> anyhow::Result<String> {
    let show = Command::new("apt-cache").args(["show", "--no-all-versions", SOURCE]).output();
    let show =
        show.context("the lab kernel is built from Debian's source package, and there is no apt here")?;
    let text = String::from_utf8_lossy(&show.stdout);
    let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
    let hint = "run `apt-get update`, or use Debian 12 or later";
    Ok(version
        .with_context(|| format!("package {SOURCE} is not available: {hint}"))?
        .replace(['~', ':'], "-"))
}

fn config_hash() -> u64 {
    let mut hasher = DefaultHasher::new();
    CONFIG.hash(&mut hasher);
    hasher.finish()
}

fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target"), PathBuf::from)
}

fn install(packages: &[&str]) -> anyhow::Result<()> {
    let mut query = Command::new("dpkg-query");
    let installed = query.arg("--show").args(packages).output().is_ok_and(|query| query.status.success());
    if installed {
        return Ok(());
    }
    let root = fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) == 0);
    let mut apt = if root { Command::new("apt-get") } else { Command::new("sudo") };
    if !root {
        apt.arg("apt-get");
    }
    finish(apt.args(["install", "-y", "--no-install-recommends"]).args(packages))
}

fn build(directory: &Path) -> anyhow::Result<()> {
    let scratch = directory.join("build");
    let (source, object) = (scratch.join("source"), scratch.join("object"));
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&source)?;
    fs::create_dir_all(&object)?;
    let config = scratch.join("config");
    fs::write(&config, CONFIG)?;

    eprintln!("lab kernel: fetching {SOURCE} (150 MB)");
    finish(Command::new("apt-get").args(["download", SOURCE]).current_dir(&scratch))?;
    let package = file_with_extension(&scratch, "deb")?;
    finish(Command::new("dpkg").arg("-x").arg(package).arg(&scratch))?;
    let archive = scratch.join(format!("usr/src/{SOURCE}.tar.xz"));
    finish(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&source).arg("--strip-components=1"))?;

    eprintln!("lab kernel: compiling (about 4 minutes)");
    let jobs = thread::available_parallelism().map_or(1, usize::from);
    let make = || {
        let mut make = Command::new("make");
        make.current_dir(&source).args(["--silent", "ARCH=um"]).arg(format!("O={}", object.display()));
        make
    };
    finish(make().arg("allnoconfig").env("KCONFIG_ALLCONFIG", &config))?;
    check_configured(&object.join(".config"))?;
    finish(make().arg(format!("-j{jobs}")).arg("linux"))?;

    finish(Command::new("strip").arg(object.join("linux")))?;
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

fn finish(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().to_owned();
    let output = command.output().with_context(|| format!("cannot run {}", program.display()))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

//! What the project needs from the machine, and installing what is missing of it.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::command::{Run, exists, line};
use crate::elevate;
use crate::progress::Progress;

/// Something the project needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its package on Debian and Ubuntu.
    pub package: &'static str,
    /// How it shows on other systems: a program, or a header (where not absolute, below /usr/include).
    pub shows: &'static str,
}

const fn need(package: &'static str, shows: &'static str) -> Need {
    Need { package, shows }
}

/// What it takes to build `forwarder`: libbpf, libxdp and ring compile C.
pub const BUILD: &[Need] = &[
    need("gcc", "gcc"),
    need("libc6-dev", "stdio.h"),
    need("linux-libc-dev", "linux/if_xdp.h"),
    need("make", "make"),
    need("pkg-config", "pkg-config"),
    need("m4", "m4"),
    need("clang", "clang"),
    need("libelf-dev", "libelf.h"),
    need("zlib1g-dev", "zlib.h"),
];

/// What it takes to look at the machine code.
pub const LINT: &[Need] = &[need("binutils", "objdump")];

/// What it takes to build C for another processor.
pub const CROSS: &[Need] = &[
    need("gcc-aarch64-linux-gnu", "aarch64-linux-gnu-gcc"),
    need("libc6-dev-arm64-cross", "/usr/aarch64-linux-gnu/include/stdio.h"),
];
/// That processor's name in Rust.
pub const CROSS_TARGET: &str = "aarch64-unknown-linux-gnu";

/// What it takes to plant bugs for the fuzz targets, and to test that they can be planted.
pub const PLANTING: &[Need] = &[need("git", "git")];

/// What it takes to run the labs.
pub const LAB: &[Need] = &[
    need("iproute2", "ip"),
    need("iputils-ping", "ping"),
    need("ethtool", "ethtool"),
    need("iperf3", "iperf3"),
    need("wireguard-tools", "wg"),
    need("tcpdump", "tcpdump"),
    need("nftables", "nft"),
    need("procps", "sysctl"),
    need("libfaketime", "faketime"),
    need("tshark", "tshark"),
];

/// What it takes to build the lab kernel, and what its guests run beside the lab's programs.
pub const LAB_KERNEL: &[Need] = &[
    need("bc", "bc"),
    need("bison", "bison"),
    need("busybox-static", "busybox"),
    need("ethtool", "ethtool"),
    need("flex", "flex"),
    need("gcc", "gcc"),
    need("iperf3", "iperf3"),
    need("iproute2", "ip"),
    need("iputils-ping", "ping"),
    need("libelf-dev", "libelf.h"),
    need("libssl-dev", "openssl/ssl.h"),
    need("make", "make"),
    need("procps", "sysctl"),
    need("wireguard-tools", "wg"),
    need("xz-utils", "xz"),
];

/// Debian's own way to a rustc that builds for BPF; the version of LLVM is that rustc's.
pub const EBPF: &[Need] =
    &[need("rustc-web", "rustc"), need("rust-web-src", "rustc"), need("llvm-22-dev", "llvm-config-22")];

/// Installs what is missing of `needs`: by apt-get on Debian and Ubuntu, as root or through sudo.
///
/// # Errors
/// Something is missing and cannot be installed here: the error lists it.
pub fn install(progress: Progress, needs: &[Need]) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    if !exists("apt-get") {
        let list: Vec<_> = missing.iter().map(|need| need.shows).collect();
        bail!("not a Debian or Ubuntu machine, please install what provides: {}", list.join(", "));
    }
    let packages: Vec<_> = missing.iter().map(|need| need.package).collect();
    progress.step(format!("installing {}", packages.join(" ")));
    // Package lists may be absent or too old to name files that the mirror still has.
    apt_get(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
    arguments.extend(packages);
    apt_get(&arguments)
}

/// Whether apt-get could install all of `needs`.
pub fn available(needs: &[Need]) -> bool {
    let packages: Vec<_> = needs.iter().map(|need| need.package).collect();
    exists("apt-get")
        && Command::new("apt-get").args(["install", "-s", "-qq"]).args(packages).quietly().is_ok()
}

/// Adds the standard library for [`CROSS_TARGET`] to the toolchain.
///
/// # Errors
/// The toolchain is not rustup's, or rustup cannot get it.
pub fn cross_target(progress: Progress) -> Result<()> {
    let query = ["--print", "target-libdir", "--target", CROSS_TARGET];
    if Path::new(Command::new("rustc").args(query).text()?.trim()).exists() {
        return Ok(());
    }
    ensure!(
        exists("rustup"),
        "the toolchain has no standard library for {CROSS_TARGET}, and is not rustup's"
    );
    progress.step(format!("adding the target {CROSS_TARGET}"));
    Command::new("rustup").args(["target", "add", CROSS_TARGET]).quietly()
}

/// Installs the linker of LLVM bitcode into BPF, for the packages in [`EBPF`], into cargo's own folder.
///
/// # Errors
/// It does not compile.
pub fn bpf_linker(progress: Progress) -> Result<()> {
    progress.step("installing bpf-linker (two minutes)");
    let arguments = ["install", "bpf-linker", "--version", "0.13.0", "--locked"];
    let llvm = ["--no-default-features", "--features", "llvm-22"];
    crate::workspace::cargo().args(arguments).args(llvm).env("LLVM_PREFIX", "/usr/lib/llvm-22").visibly()
}

/// Which of `needs` this machine lacks.
pub fn missing(needs: &[Need]) -> Vec<Need> {
    let lacks =
        |need: &&Need| if exists("dpkg-query") { !installed(need.package) } else { !shows(need.shows) };
    needs.iter().filter(lacks).copied().collect()
}

fn installed(package: &str) -> bool {
    let status = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}\n", package]).text();
    // A multi-arch package has one line an architecture.
    status.is_ok_and(|status| status.lines().any(|line| line == "installed"))
}

fn shows(what: &str) -> bool {
    let header = Path::new("/usr/include").join(what);
    if header.extension().is_some() { header.exists() } else { exists(what) }
}

fn apt_get(arguments: &[&str]) -> Result<()> {
    let mut command = elevate::command("env")?; // sudo does not pass the environment on
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-o", "DPkg::Lock::Timeout=120"])
        .args(arguments);
    if !elevate::is_root() {
        eprintln!("           (by `{}`)", line(&command));
    }
    command.stdout(std::io::stderr()).visibly()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_nowhere_is_missing() {
        let nowhere = need("no-such-package-anywhere", "no-such-program-anywhere");
        assert_eq!(missing(&[nowhere]), [nowhere]);
    }

    #[test]
    fn headers_and_programs_are_looked_for_where_they_live() {
        assert!(shows("sh"));
        assert!(!shows("no-such-header.h"));
    }
}

//! `cargo xtask build-ebpf`: builds the XDP program into `ebpf/steer.bpf.o`, bit for bit the same with
//! the same rustc and bpf-linker wherever it runs. `docs/decisions/0001-ebpf-object-is-committed.md`
//! says why the object is committed.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

const LINKER_VERSION: &str = "0.13.0";

/// What `build-ebpf` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rebuild and compare with the committed object instead of replacing it
    #[arg(long)]
    pub check: bool,
}

/// Builds the object; with `check` leaves it at `ebpf/target/steer.bpf.o`. Exits with code 2 and says
/// what to install when no toolchain can build it.
///
/// # Errors
/// The build fails, or the committed object does not come from these sources.
pub fn run(options: &Options) -> Result<()> {
    let Some(toolchain) = Toolchain::find() else {
        eprintln!("{}", install_hints());
        std::process::exit(2);
    };
    let ebpf = ebpf_folder()?;
    let rebuilt = ebpf.join("target/steer.bpf.o");
    toolchain.build(&ebpf, &rebuilt)?;
    let record = Record {
        rustc: toolchain.version.clone(),
        bpf_linker: toolchain.linker.clone(),
        sha256: sha256(&rebuilt)?,
    };
    if options.check { compare(&record, &ebpf, &rebuilt) } else { replace(&record, &ebpf, &rebuilt) }
}

/// Where an object comes from; `ebpf/steer.bpf.json`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// `rustc -V`
    rustc: String,
    /// `bpf-linker -V`
    bpf_linker: String,
    /// Of the object, in hexadecimal.
    sha256: String,
}

fn replace(record: &Record, ebpf: &Path, rebuilt: &Path) -> Result<()> {
    fs::copy(rebuilt, ebpf.join("steer.bpf.o")).context("ebpf/steer.bpf.o")?;
    let json = serde_json::to_string_pretty(record)? + "\n";
    fs::write(ebpf.join("steer.bpf.json"), json).context("ebpf/steer.bpf.json")?;
    println!("ebpf/steer.bpf.o: built by {} and {}", record.rustc, record.bpf_linker);
    println!("sha256 {}", record.sha256);
    Ok(())
}

fn compare(record: &Record, ebpf: &Path, rebuilt: &Path) -> Result<()> {
    let committed = fs::read(ebpf.join("steer.bpf.json")).context("ebpf/steer.bpf.json")?;
    let committed: Record = serde_json::from_slice(&committed).context("ebpf/steer.bpf.json")?;
    let found = sha256(&ebpf.join("steer.bpf.o"))?;
    ensure!(
        found == committed.sha256,
        "ebpf/steer.bpf.o (sha256 {found}) is not the object that ebpf/steer.bpf.json records: run \
         `cargo xtask build-ebpf`"
    );
    if (&record.rustc, &record.bpf_linker) != (&committed.rustc, &committed.bpf_linker) {
        println!(
            "ebpf/steer.bpf.o was built by {} and {}; this machine has {} and {}: not compared.",
            committed.rustc, committed.bpf_linker, record.rustc, record.bpf_linker
        );
        println!("To test the rebuilt object: STEER_OBJECT={}", rebuilt.display());
        return Ok(());
    }
    ensure!(
        record.sha256 == found,
        "ebpf/steer.bpf.o does not come from these sources: they give {} (sha256 {}). Run `cargo xtask \
         build-ebpf` and commit the result",
        rebuilt.display(),
        record.sha256
    );
    println!("ebpf/steer.bpf.o is what its sources give (sha256 {found})");
    Ok(())
}

/// A rustc that can build core for BPF, and what belongs to it.
#[derive(Debug)]
struct Toolchain {
    rustc: PathBuf,
    /// `rustc -V`
    version: String,
    sysroot: PathBuf,
    /// `bpf-linker -V`
    linker: String,
    /// An objcopy that knows the object's format.
    objcopy: PathBuf,
}

impl Toolchain {
    /// The first rustc that has core's sources and the tools beside it.
    fn find() -> Option<Self> {
        let linker = output(command("bpf-linker").arg("-V")).ok()?;
        rustc_candidates().into_iter().find_map(|rustc| {
            let sysroot = PathBuf::from(output(command(&rustc).args(["--print", "sysroot"])).ok()?);
            sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").exists().then_some(())?;
            let verbose = output(command(&rustc).arg("-vV")).ok()?;
            let objcopy = objcopy(&sysroot, &verbose)?;
            let version = verbose.lines().next()?.to_owned();
            Some(Self { rustc, version, sysroot, linker: linker.clone(), objcopy })
        })
    }

    /// Builds the package in `ebpf` into the object file `into`.
    fn build(&self, ebpf: &Path, into: &Path) -> Result<()> {
        println!("building the XDP program with {}", self.version);
        let target = ebpf.join("target");
        let cargo = || {
            let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            cargo.current_dir(ebpf);
            cargo
        };
        // First, so that the folders of all registries exist when the flags name them.
        run_visibly(cargo().args(["fetch", "--locked"]))?;
        run_visibly(
            cargo()
                .args(["build", "--release", "--locked", "-Zbuild-std=core", "--target=bpfel-unknown-none"])
                .arg("--target-dir")
                .arg(&target)
                .env("RUSTC", &self.rustc)
                // build-std is unstable; the pinned sources work with the rustc that they came with.
                .env("RUSTC_BOOTSTRAP", "1")
                .env("CARGO_ENCODED_RUSTFLAGS", self.rustc_flags(ebpf)?),
        )?;
        // The linker needs debug information to make the BTF; it is of no use after that.
        let linked = target.join("bpfel-unknown-none/release/steer");
        run_visibly(command(&self.objcopy).arg("--strip-debug").arg(linked).arg(into))
    }

    /// No path of this machine, nor the name of its registry, may reach the object.
    fn rustc_flags(&self, ebpf: &Path) -> Result<OsString> {
        let sources = self.sysroot.join("lib/rustlib/src/rust");
        let mut remapped =
            vec![(ebpf.to_owned(), "/ebpf"), (sources.canonicalize()?, "/rustc"), (sources, "/rustc")];
        for registry in fs::read_dir(cargo_home()?.join("registry/src"))? {
            remapped.push((registry?.path(), "/registry"));
        }
        let mut flags = OsString::from("-Cdebuginfo=2\x1f-Clink-arg=--btf");
        for (from, to) in remapped {
            flags.push("\x1f--remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        }
        Ok(flags)
    }
}

/// $`EBPF_RUSTC`, rustup's nightly, stable, then a distribution's.
fn rustc_candidates() -> Vec<PathBuf> {
    let rustup = |toolchain: &str| {
        output(command("rustup").args(["which", "--toolchain", toolchain, "rustc"])).ok().map(PathBuf::from)
    };
    let chosen = env::var_os("EBPF_RUSTC").map(PathBuf::from);
    let all = [chosen, rustup("nightly"), rustup("stable"), Some("/usr/bin/rustc".into())];
    all.into_iter().flatten().collect()
}

/// rustup's own objcopy, or LLVM's: binutils' does not know BPF.
fn objcopy(sysroot: &Path, verbose_version: &str) -> Option<PathBuf> {
    let host = field(verbose_version, "host")?;
    let llvm = llvm_major(verbose_version)?;
    let candidates = [
        sysroot.join(format!("lib/rustlib/{host}/bin/rust-objcopy")),
        format!("/usr/lib/llvm-{llvm}/bin/llvm-objcopy").into(),
        "llvm-objcopy".into(),
    ];
    candidates.into_iter().find(|tool| output(command(tool).arg("--version")).is_ok())
}

fn install_hints() -> String {
    let newest = rustc_candidates().into_iter().find_map(|rustc| {
        let verbose = output(command(rustc).arg("-vV")).ok()?;
        llvm_major(&verbose).map(str::to_owned)
    });
    let linker = |llvm: &str| {
        format!(
            "apt-get install llvm-{llvm}-dev\n  LLVM_PREFIX=/usr/lib/llvm-{llvm} cargo install bpf-linker \
             --version {LINKER_VERSION} --locked --no-default-features --features llvm-{llvm}"
        )
    };
    format!(
        "No toolchain here can build the XDP program: it takes a rustc with the sources of core, \
         bpf-linker, and an LLVM objcopy.\nWith rustup:\n  rustup toolchain install nightly --component \
         rust-src\n  {}\nOr with Debian's packages:\n  apt-get install --no-install-recommends gcc \
         libc6-dev rustc-web rust-web-src\n  {}\nOr name a rustc in $EBPF_RUSTC.",
        linker(newest.as_deref().unwrap_or("22")),
        linker("22"),
    )
}

fn llvm_major(verbose_version: &str) -> Option<&str> {
    field(verbose_version, "LLVM version")?.split('.').next()
}

fn field<'a>(verbose_version: &'a str, name: &str) -> Option<&'a str> {
    verbose_version.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn ebpf_folder() -> Result<PathBuf> {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.join("../ebpf").canonicalize().context("the ebpf folder")
}

fn cargo_home() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
    let folder = env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home);
    folder.context("neither CARGO_HOME nor HOME is set")
}

fn sha256(file: &Path) -> Result<String> {
    let line = output(command("sha256sum").arg(file))?;
    line.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
}

/// A command that finds what `cargo install` installs, and nothing of the user's Rust settings.
fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    let path = env::var_os("PATH").unwrap_or_default();
    let own = cargo_home().ok().map(|home| home.join("bin"));
    if let Ok(path) = env::join_paths(own.into_iter().chain(env::split_paths(&path))) {
        command.env("PATH", path);
    }
    for variable in ["RUSTUP_TOOLCHAIN", "RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET"] {
        command.env_remove(variable);
    }
    // Empty rather than unset: so they override wrappers in cargo's configuration.
    command.env("RUSTC_WRAPPER", "").env("RUSTC_WORKSPACE_WRAPPER", "");
    command
}

fn run_visibly(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{}", command.get_program().display()))?;
    ensure!(status.success(), "{} failed ({status})", command.get_program().display());
    Ok(())
}

/// What a command prints, without the last newline.
fn output(command: &mut Command) -> Result<String> {
    let name = command.get_program().display().to_string();
    let output = command.output().context(name.clone())?;
    if !output.status.success() {
        bail!("{name} failed ({})", output.status);
    }
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}

//! The steps of `cargo xtask test`.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::thread;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use super::matrix::{KERNEL, Matrix};
use super::not_run::Listener;
use super::{LONG, Options, Outcome, Tally, disassembly};
use crate::command::{Run as _, exists};
use crate::install::{self, CROSS, EBPF};
use crate::lab::peer::Implementation;
use crate::progress::Progress;
use crate::{elevate, lab_kernel, uml, workspace};

/// `build-ebpf` ends with this when no toolchain here can build for BPF.
const NO_EBPF_TOOLCHAIN: i32 = 2;

const NO_CLIPPY: &str = "clippy is missing: rustup component add clippy";

/// The tests that meet other implementations.
const INTEROP: [&str; 2] = ["interop", "lab"];
/// A feature that packages leave out, and the test of it.
const KEYLOG: &str = "keylog";

/// A test in a guest of this kernel.
type UmlTest = fn(&Path) -> Result<uml::Outcome>;

/// One line of the table.
pub struct Step {
    pub name: String,
    pub run: Box<dyn FnOnce() -> Result<Outcome>>,
}

/// All steps, cheap ones first.
///
/// # Errors
/// cargo cannot describe the workspace.
pub fn all(progress: Progress, options: Options, matrix: &Rc<Matrix>) -> Result<Vec<Step>> {
    let mut steps = vec![
        step("formatting", formatting),
        step("clippy", clippy),
        step("clippy for aarch64", move || other_processor(progress)),
        step("unit and integration tests", workspace_tests),
        step("every order of threads (loom)", thread_models),
        step("documentation", documentation),
        step("machine code of the AEAD engines", machine_code),
        step("XDP object is what its sources give", move || ebpf_object(progress)),
    ];
    for target in kernel_test_targets()? {
        let name = format!("kernel tests: {target}");
        let matrix = Rc::clone(matrix);
        let run = move || kernel_tests(&target, progress, options, &matrix);
        steps.push(step(&name, run));
    }
    for (name, test) in [
        ("bond lab: the kernel recipe at both ends", uml::recipe_test as UmlTest),
        ("bond: forwarder and the kernel recipe", |linux| uml::bond_test(linux, &forwarder()?)),
        ("wg: on forwarder as on the kernel", |linux| uml::uapi_test(linux, &forwarder()?)),
        ("bond: LAN and underlay on its VLANs", |linux| uml::hairpin_test(linux, &forwarder()?)),
    ] {
        steps.push(step(name, move || in_uml(test, progress)));
    }
    let matrix = Rc::clone(matrix);
    steps.push(step("interop: kernel WireGuard", move || kernel_wireguard(&matrix, progress)));
    Ok(steps)
}

fn step(name: &str, run: impl FnOnce() -> Result<Outcome> + 'static) -> Step {
    Step { name: name.to_owned(), run: Box::new(run) }
}

fn formatting() -> Result<Outcome> {
    if workspace::cargo().args(["fmt", "--version"]).quietly().is_err() {
        return Ok(Outcome::NotRun("rustfmt is missing: rustup component add rustfmt".to_owned()));
    }
    check(workspace::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<Outcome> {
    if !has_clippy() {
        return Ok(Outcome::NotRun(NO_CLIPPY.to_owned()));
    }
    let lint = |what: &[&str]| {
        let options = ["--all-targets", "--locked", "--quiet", "--", "-D", "warnings"];
        check(workspace::cargo().arg("clippy").args(what).args(options))
    };
    match lint(&["--workspace"])? {
        Outcome::Ran(tally) if tally.failed == 0 => lint(&["-p", "forwarder", "--features", KEYLOG]),
        failed => Ok(failed),
    }
}

fn has_clippy() -> bool {
    workspace::cargo().args(["clippy", "--version"]).quietly().is_ok()
}

/// A processor for which there are no vector engines. It cannot be run here, but what is built is checked.
fn other_processor(progress: Progress) -> Result<Outcome> {
    let not_run = |reason: &str| Ok(Outcome::NotRun(reason.to_owned()));
    if !has_clippy() {
        return not_run(NO_CLIPPY);
    }
    if !install::missing(CROSS).is_empty() {
        if !install::available(CROSS) {
            return not_run(
                "no C compiler for aarch64: apt-get has no gcc-aarch64-linux-gnu, or no libc6-dev-arm64-cross",
            );
        }
        install::install(progress, CROSS)?;
    }
    if let Err(error) = install::cross_target(progress) {
        return not_run(&format!("{error:#}"));
    }
    let what = ["-p", "forwarder", "--target", install::CROSS_TARGET];
    let mut command = workspace::cargo();
    command.arg("clippy").args(what).args(["--locked", "--quiet", "--", "-D", "warnings"]);
    // libxdp's BPF programs are compiled by clang, which does not know where a cross compiler's headers are.
    check(command.env("C_INCLUDE_PATH", "/usr/aarch64-linux-gnu/include"))
}

/// All that needs no kernel feature and no privilege.
fn workspace_tests() -> Result<Outcome> {
    let mut command = workspace::cargo();
    if exists("cargo-nextest") {
        command.args(["nextest", "run", "--no-fail-fast", "--status-level", "fail"]);
    } else {
        command.args(["test", "--lib", "--bins", "--tests", "--no-fail-fast"]);
    }
    Ok(match tests(command.args(["--workspace", "--exclude", "tests", "--locked"]))? {
        Outcome::Ran(tally) => Outcome::Ran(tally.plus(engines_not_run())),
        not_run @ Outcome::NotRun(_) => not_run,
    })
}

/// The AEAD engines that their tests leave out, as this processor lacks their instructions.
fn engines_not_run() -> Tally {
    // Of each the instructions that came last to processors.
    let engines =
        [("avx512", is_x86_feature_detected!("avx512ifma")), ("avx2", is_x86_feature_detected!("avx2"))];
    lacking(engines.into_iter().filter_map(|(engine, there)| (!there).then_some(engine)))
}

fn lacking<'a>(engines: impl Iterator<Item = &'a str>) -> Tally {
    let reason = |engine| format!("the AEAD engine {engine}: this processor cannot run it");
    let not_run: Vec<_> = engines.map(reason).collect();
    Tally { skipped: not_run.len() as u64, not_run, ..Tally::default() }
}

/// The models need loom's types in place of std's, which other tests cannot run with.
fn thread_models() -> Result<Outcome> {
    let test = ["test", "--locked", "-p", "forwarder", "--lib", "--features", "model", "model_"];
    tests(workspace::cargo().args(test))
}

/// Every link leads somewhere. There are no examples: what is public is so for the packages here.
fn documentation() -> Result<Outcome> {
    let mut command = workspace::cargo();
    command
        .args(["doc", "--workspace", "--no-deps", "--document-private-items", "--locked", "--quiet"])
        .env("RUSTDOCFLAGS", "-D warnings");
    check(&mut command)
}

/// The engines as they are shipped.
fn machine_code() -> Result<Outcome> {
    workspace::build_release(&["forwarder"])?;
    let mut objdump = Command::new("objdump");
    objdump.args(["--disassemble", "--demangle", "--no-show-raw-insn"]);
    let findings = disassembly::findings(&objdump.arg(workspace::program("release", "forwarder")?).text()?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    Ok(Outcome::Ran(if findings.is_empty() { Tally::SUCCESS } else { Tally::FAILURE }))
}

/// Rebuilds the XDP program and compares, with the toolchain of this machine or one that it can install.
fn ebpf_object(progress: Progress) -> Result<Outcome> {
    let rebuild = || {
        let mut command = Command::new(std::env::current_exe()?);
        anyhow::Ok(echo(command.args(["build-ebpf", "--check"]))?.0)
    };
    let mut status = rebuild()?;
    if status.code() == Some(NO_EBPF_TOOLCHAIN) && install::available(EBPF) {
        install::install(progress, EBPF)?;
        install::bpf_linker(progress)?;
        status = rebuild()?;
    }
    if status.code() == Some(NO_EBPF_TOOLCHAIN) {
        return Ok(Outcome::NotRun(
            "no toolchain for BPF: `cargo xtask build-ebpf` says what it takes".to_owned(),
        ));
    }
    Ok(Outcome::Ran(if status.success() { Tally::SUCCESS } else { Tally::FAILURE }))
}

/// The test programs of the `tests` package: they need root and the kernel.
fn kernel_test_targets() -> Result<Vec<String>> {
    #[derive(Deserialize)]
    struct Metadata {
        packages: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        targets: Vec<Target>,
    }
    let json = workspace::cargo().args(["metadata", "--no-deps", "--format-version=1", "--locked"]).text()?;
    let packages = serde_json::from_str::<Metadata>(&json)?.packages.into_iter();
    let targets = packages.filter(|package| package.name == "tests").flat_map(|package| package.targets);
    Ok(targets.filter(Target::is_test).map(|target| target.name).collect())
}

/// A target of a package, as cargo describes it.
#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

impl Target {
    fn is_test(&self) -> bool {
        self.kind == ["test"]
    }
}

/// Builds one of them, and what it runs, as the invoking user; runs it as root.
fn kernel_tests(target: &str, progress: Progress, options: Options, matrix: &Matrix) -> Result<Outcome> {
    if target == KEYLOG {
        build_with_keylog()?;
    }
    let packages = ["-p", "forwarder", "-p", "bench", "-p", "tests"];
    workspace::cargo().args(["build", "--locked"]).args(packages).visibly()?;
    if INTEROP.contains(&target) {
        for implementation in Implementation::ALL {
            if let Err(error) = implementation.install(progress) {
                // Tests that need it find out themselves, and say that they cannot run.
                progress.step(format!("{error:#}"));
            }
        }
    }
    let program = build_test(target)?;
    let listener = Listener::new(&workspace::target()?)?;
    let mut command = elevate::command("env")?; // sudo does not pass the environment on
    command.arg(listener.setting()).arg(matrix.setting());
    if options.long {
        command.arg(format!("{LONG}=yes"));
    }
    command.arg(program).arg("--test-threads=1").current_dir(workspace::root());
    let outcome = tests(&mut command)?;
    let not_run = listener.heard()?;
    Ok(match outcome {
        Outcome::Ran(tally) => Outcome::Ran(tally.without(not_run)),
        Outcome::NotRun(_) => outcome,
    })
}

/// `forwarder` with the feature, under another name.
fn build_with_keylog() -> Result<()> {
    workspace::cargo().args(["build", "--locked", "-p", "forwarder", "--features", KEYLOG]).visibly()?;
    let program = workspace::program("debug", "forwarder")?;
    fs::copy(&program, program.with_file_name("forwarder-keylog"))?;
    Ok(())
}

fn build_test(target: &str) -> Result<PathBuf> {
    let mut command = workspace::cargo();
    command.args(["test", "--no-run", "--locked", "-p", "tests", "--test", target]);
    command.arg("--message-format=json-render-diagnostics").stderr(Stdio::inherit());
    let output = command.output()?;
    ensure!(output.status.success(), "the tests in {target} do not compile");
    program_of(target, &output.stdout)
        .with_context(|| format!("cargo names no program of the tests in {target}"))
}

/// The program of the tests in `target`. cargo names those that they run, too, and in no order.
fn program_of(target: &str, messages: &[u8]) -> Option<PathBuf> {
    #[derive(Deserialize)]
    struct Artifact {
        target: Target,
        executable: Option<PathBuf>,
    }
    let lines = messages.split(|&byte| byte == b'\n');
    let mut artifacts = lines.filter_map(|line| serde_json::from_slice::<Artifact>(line).ok());
    artifacts.find(|artifact| artifact.target.is_test() && artifact.target.name == target)?.executable
}

fn forwarder() -> Result<PathBuf> {
    workspace::cargo().args(["build", "--locked", "-p", "forwarder"]).visibly()?;
    workspace::program("debug", "forwarder")
}

/// A test under User-mode Linux, whose kernel has what this machine's may lack.
fn in_uml(test: UmlTest, progress: Progress) -> Result<Outcome> {
    let linux = match lab_kernel::run(progress) {
        Ok(linux) => linux,
        Err(error) => return Ok(Outcome::NotRun(format!("no User-mode Linux kernel: {error:#}"))),
    };
    let uml::Outcome { status, output } = test(&linux)?;
    println!("{output}");
    Ok(Outcome::Ran(if status == 0 { Tally::SUCCESS } else { Tally::FAILURE }))
}

/// The kernel's own WireGuard as the peer, under User-mode Linux.
fn kernel_wireguard(matrix: &Matrix, progress: Progress) -> Result<Outcome> {
    let linux = match lab_kernel::run(progress) {
        Ok(linux) => linux,
        Err(error) => {
            let reason = format!("no User-mode Linux kernel: {error:#}");
            matrix.not_run(KERNEL, &reason)?;
            return Ok(Outcome::NotRun(reason));
        }
    };
    workspace::cargo().args(["build", "--locked", "-p", "tests", "--bin", "handshake-flood"]).visibly()?;
    let flood = workspace::program("debug", "handshake-flood")?;
    let uml::Outcome { status, output } = uml::interop_test(&linux, &forwarder()?, &flood)?;
    println!("{output}");
    matrix.take(&output)?;
    Ok(Outcome::Ran(if status == 0 { Tally::SUCCESS } else { Tally::FAILURE }))
}

/// One check: passed or failed.
fn check(command: &mut Command) -> Result<Outcome> {
    Ok(Outcome::Ran(if echo(command)?.0.success() { Tally::SUCCESS } else { Tally::FAILURE }))
}

/// A test runner, whose own counts are taken.
fn tests(command: &mut Command) -> Result<Outcome> {
    let (status, output) = echo(command)?;
    let mut tally = Tally::read(&output);
    // It may have ended before it could count: then something did not compile, or it crashed. And where nothing was
    // counted, nothing has passed.
    if tally == Tally::default() || (!status.success() && tally.failed == 0) {
        tally.failed = 1;
    }
    Ok(Outcome::Ran(tally))
}

/// Runs a command with its output both shown and returned.
fn echo(command: &mut Command) -> Result<(ExitStatus, String)> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = child.stdout.take().zip(child.stderr.take()).context("no pipes")?;
    let errors = thread::spawn(move || show(stderr));
    let mut output = show(stdout);
    output += &errors.join().unwrap_or_default();
    Ok((child.wait()?, output))
}

fn show(stream: impl Read) -> String {
    let mut text = String::new();
    for line in BufReader::new(stream).lines().map_while(Result::ok) {
        println!("{line}");
        text += &line;
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_the_processor_lacks_is_not_run() {
        assert_eq!(lacking([].into_iter()), Tally::default());
        let tally = Tally::SUCCESS.plus(lacking(["avx512"].into_iter()));
        assert_eq!(tally.to_string(), "1 passed, 0 failed, 1 skipped");
        assert!(tally.not_run[0].contains("avx512"), "{tally:?}");
    }

    #[test]
    fn the_program_of_a_test_is_told_from_those_that_it_runs() {
        let message = |kind: &str, name: &str| {
            let program = format!("/{kind}/{name}");
            let target = serde_json::json!({ "kind": [kind], "name": name });
            serde_json::json!({ "reason": "compiler-artifact", "target": target, "executable": program })
                .to_string()
        };
        let messages = [message("bin", "lab"), message("test", "lab"), message("bin", "guarded")].join("\n");
        assert_eq!(program_of("lab", messages.as_bytes()), Some("/test/lab".into()));
        assert_eq!(program_of("clear", messages.as_bytes()), None);
    }
}

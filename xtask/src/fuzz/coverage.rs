//! How many lines of the sources that a target is for its corpus reaches, as `llvm-cov` counts them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::cargo_fuzz;
use crate::command::Run as _;
use crate::workspace;

/// What `llvm-cov export` says.
#[derive(Deserialize)]
struct Export {
    data: Vec<Data>,
}

#[derive(Deserialize)]
struct Data {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    filename: PathBuf,
    summary: Summary,
}

#[derive(Deserialize)]
struct Summary {
    lines: Lines,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
struct Lines {
    count: u64,
    covered: u64,
}

/// Where the sources lie that a target is for: beginnings of paths below `forwarder/src`.
fn sources(target: &str) -> &'static [&'static str] {
    match target {
        "wire" => &["pipeline/parse.rs", "pipeline/flow.rs", "wireguard/message.rs"],
        "config" => &["config/wg_quick.rs", "config/forwarder_toml.rs", "config/key.rs", "config/error.rs"],
        "uapi" => &["uapi/parser.rs", "uapi/request.rs", "uapi/apply.rs", "uapi/describe.rs"],
        "handshake" => &["wireguard/"],
        "pipeline" => &["pipeline/"],
        _ => &["aead/"],
    }
}

/// Runs the corpus once, and prints a table in Markdown.
///
/// # Errors
/// The tools are missing, or the target does not compile.
pub fn report(target: &str) -> Result<()> {
    let rustc =
        |arguments: &[&str]| Command::new("rustc").args(arguments).current_dir(workspace::root()).text();
    Command::new("rustup")
        .args(["component", "add", "llvm-tools"])
        .current_dir(workspace::root())
        .visibly()?;
    let folder = workspace::root().join("tests/fuzz");
    // Versions of cargo-fuzz build in places of their own unless they are told where.
    let build = folder.join("target/coverage");
    cargo_fuzz("coverage", target).arg("--target-dir").arg(&build).visibly()?;

    let host = rustc(&["--print", "host-tuple"])?.trim().to_owned();
    let tools = Path::new(rustc(&["--print", "sysroot"])?.trim()).join("lib/rustlib").join(&host).join("bin");
    let export = Command::new(tools.join("llvm-cov"))
        .args(["export", "--summary-only", "--instr-profile"])
        .arg(folder.join("coverage").join(target).join("coverage.profdata"))
        .arg(build.join(&host).join("release").join(target))
        .text()?;
    let export: Export = serde_json::from_str(&export).context("llvm-cov has written something else")?;
    print!("{}", table(target, export));
    Ok(())
}

fn table(target: &str, export: Export) -> String {
    let mut text = format!("| {target} | lines | reached |\n|---|---|---|\n");
    let mut all = Lines { count: 0, covered: 0 };
    for file in export.data.into_iter().flat_map(|data| data.files) {
        let Some(name) = of(target, &file.filename) else { continue };
        let lines = file.summary.lines;
        text += &row(&name, lines);
        all = Lines { count: all.count + lines.count, covered: all.covered + lines.covered };
    }
    text + &row("all", all) + "\n"
}

/// The path below `forwarder/src`, if the target is for it.
fn of(target: &str, path: &Path) -> Option<String> {
    let path = path.strip_prefix(workspace::root().join("forwarder/src")).ok()?.to_str()?;
    sources(target).iter().any(|source| path.starts_with(source)).then(|| path.to_owned())
}

fn row(name: &str, Lines { count, covered }: Lines) -> String {
    format!("| {name} | {count} | {:.1} % |\n", 100.0 * covered as f64 / count.max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A source that was renamed would be left out without a word.
    #[test]
    fn sources_are_there() {
        for source in super::super::TARGETS.into_iter().flat_map(sources) {
            assert!(workspace::root().join("forwarder/src").join(source).exists(), "{source}");
        }
    }

    #[test]
    fn other_sources_do_not_count() {
        let file = |name: &str, count, covered| File {
            filename: workspace::root().join("forwarder/src").join(name),
            summary: Summary { lines: Lines { count, covered } },
        };
        let files =
            vec![file("uapi/parser.rs", 10, 5), file("uapi/apply.rs", 30, 30), file("clock.rs", 9, 0)];
        let table = table("uapi", Export { data: vec![Data { files }] });
        assert!(table.contains("| uapi/parser.rs | 10 | 50.0 % |"), "{table}");
        assert!(table.contains("| all | 40 | 87.5 % |") && !table.contains("clock"), "{table}");
    }
}

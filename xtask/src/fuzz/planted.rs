//! Whether the targets would find a bug: each has one in `tests/fuzz/planted`, as a patch.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::cargo_fuzz;
use crate::command::Run as _;
use crate::workspace;

/// The bug must be found within so many seconds.
const SECONDS: u32 = 600;

/// Plants the target's bug in a copy of the sources as they stand in git's index, and fuzzes that.
pub fn find(target: &str) -> Result<()> {
    let directory = workspace::target()?.join("fuzz-planted");
    // Only the sources are copied anew: what was built is used again.
    let tree = directory.join("tree");
    copy_sources(&workspace::root(), &tree)?;
    let inside = tree.strip_prefix(workspace::root());
    let inside = inside.context("cargo's target directory lies outside of the repository")?;
    git_apply(target).arg(format!("--directory={}", inside.display())).visibly()?;
    let fuzz = |action| {
        let mut command = cargo_fuzz(action, target);
        command.current_dir(&tree).env("CARGO_TARGET_DIR", directory.join("build"));
        command
    };
    fuzz("build").visibly()?;
    // What is found on the way belongs to another program; what an earlier run found, to that run.
    let found = directory.join("found").join(target);
    remove(&found)?;
    let (inputs, artifacts) = (found.join("corpus"), found.join("artifacts"));
    fs::create_dir_all(&inputs)?;
    fs::create_dir_all(&artifacts)?;
    let corpus = workspace::root().join("tests/fuzz/corpus").join(target);
    let time = format!("-max_total_time={SECONDS}");
    let prefix = format!("-artifact_prefix={}/", artifacts.display());
    let ended = fuzz("run").arg(inputs).arg(corpus).args(["--", &time, &prefix]).visibly();
    if !has_crash(&artifacts)? {
        ended.with_context(|| format!("{target}: no input has crashed it"))?;
        bail!("{target}: the planted bug was not found in {SECONDS} s");
    }
    println!("{target}: the planted bug was found");
    Ok(())
}

/// Copies what git's index has, and leaves nothing in the copy that it has no more.
fn copy_sources(repository: &Path, tree: &Path) -> Result<()> {
    remove(tree)?;
    let prefix = format!("--prefix={}/", tree.display());
    git(repository).args(["checkout-index", "--all", &prefix]).visibly()
}

fn remove(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    Ok(())
}

/// Whether libFuzzer has kept an input that ends the target: other failures prove nothing.
fn has_crash(artifacts: &Path) -> Result<bool> {
    let mut files = fs::read_dir(artifacts)?.flatten();
    Ok(files.any(|file| file.file_name().to_string_lossy().starts_with("crash-")))
}

/// Puts the bug of a target into sources in the repository's top directory, if no other is said.
fn git_apply(target: &str) -> Command {
    let mut command = git(&workspace::root());
    command.arg("apply").arg(format!("tests/fuzz/planted/{target}.patch"));
    command
}

/// In this folder's repository, even where git has started us for another.
fn git(folder: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(folder).env_remove("GIT_DIR").env_remove("GIT_INDEX_FILE");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sources move on; a bug that cannot be planted any more proves nothing.
    #[test]
    fn every_bug_can_be_planted() {
        for target in super::super::TARGETS {
            git_apply(target).arg("--check").visibly().expect(target);
        }
    }

    /// A module that became a folder would be there twice.
    #[test]
    fn what_left_the_sources_leaves_their_copy() {
        let folder = std::env::temp_dir().join(format!("xtask-sources-{}", std::process::id()));
        let (repository, tree) = (folder.join("repository"), folder.join("tree"));
        fs::create_dir_all(repository.join("module")).expect("a folder");
        fs::write(repository.join("module.rs"), "").expect("a file");
        let git = |arguments: &[&str]| git(&repository).args(arguments).visibly().expect("git does it");
        git(&["init", "--quiet"]);
        git(&["add", "module.rs"]);
        copy_sources(&repository, &tree).expect("a copy");
        assert!(tree.join("module.rs").exists());
        git(&["mv", "module.rs", "module/mod.rs"]);
        copy_sources(&repository, &tree).expect("a copy");
        assert!(tree.join("module/mod.rs").exists() && !tree.join("module.rs").exists());
        fs::remove_dir_all(folder).expect("the folder is there");
    }

    #[test]
    fn only_a_crash_counts() {
        let folder = std::env::temp_dir().join(format!("xtask-artifacts-{}", std::process::id()));
        fs::create_dir(&folder).expect("a folder");
        for (name, found) in [("oom-1", false), ("a-crash-1", false), ("crash-1", true)] {
            fs::write(folder.join(name), "").expect("a file");
            assert_eq!(has_crash(&folder).expect("the folder is there"), found, "{name}");
        }
        fs::remove_dir_all(folder).expect("the folder is there");
    }
}

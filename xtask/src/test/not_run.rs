//! How a test says that the machine cannot run it.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Result;

/// Names the file in which tests say so.
const VARIABLE: &str = "FORWARDER_TESTS_NOT_RUN";

/// Says that the machine cannot run `test`, which must return after this.
///
/// # Panics
/// `cargo xtask test` did not start the test: nobody would hear, and it would count as passed.
pub fn not_run(test: &str, reason: &str) {
    let path = std::env::var_os(VARIABLE);
    let path = path.unwrap_or_else(|| panic!("{test} cannot run here: {reason}"));
    let written = append(path.as_ref(), &format!("{test}: {reason}"));
    written.unwrap_or_else(|error| panic!("{test} cannot run here: {reason} ({error})"));
}

/// Collects what tests say.
#[derive(Debug)]
pub struct Listener {
    path: PathBuf,
}

impl Listener {
    /// Listens by a file in `directory`.
    pub fn new(directory: &Path) -> Result<Self> {
        let path = directory.join(format!("not-run-{}", std::process::id()));
        File::create(&path)?;
        Ok(Self { path })
    }

    /// The setting that the tests' environment needs, as `NAME=value`.
    pub fn setting(&self) -> String {
        format!("{VARIABLE}={}", self.path.display())
    }

    /// What they said: one line each.
    pub fn heard(self) -> Result<Vec<String>> {
        let text = fs::read_to_string(&self.path)?;
        fs::remove_file(&self.path)?;
        Ok(text.lines().map(str::to_owned).collect())
    }
}

/// Writes a line in one go: tests run side by side, and parts of lines would mix.
pub(super) fn append(path: &Path, line: &str) -> io::Result<()> {
    File::options().append(true).open(path)?.write_all(format!("{line}\n").as_bytes())
}

//! Figures in files, for programs.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde::Serialize;

/// Whether a file can be written, before anything is measured for it. Leaves what is in it.
///
/// # Errors
/// It cannot.
pub fn writable(path: &Path) -> Result<()> {
    let file = fs::OpenOptions::new().append(true).create(true).open(path);
    file.map(drop)
        .with_context(|| format!("cannot write {}: make its folder, or choose another file", path.display()))
}

/// Writes `figures` to the file.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, figures: &impl Serialize) -> Result<()> {
    let text = serde_json::to_string_pretty(figures)? + "\n";
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_said_before_and_what_is_there_stays() -> Result<()> {
        let folder = std::env::temp_dir();
        let file = folder.join(format!("forwarder-json-{}", std::process::id()));
        write(&file, &7)?;
        writable(&file)?;
        assert_eq!(fs::read_to_string(&file)?, "7\n");
        fs::remove_file(&file)?;
        let refused = format!("{:#}", writable(&file.join("report.json")).expect_err("no folder"));
        assert!(refused.contains("/report.json") && refused.contains("make its folder"), "{refused}");
        Ok(())
    }
}

//! `forwarder run --keylog FILE`, cargo feature `keylog`: the keys of all handshakes, for Wireshark
//! (`wg.keylog_file`). For tests and for debugging only; packages leave the feature out.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use crate::clock::Boottime;
use crate::wireguard::HandshakeSecrets;

/// How often the log says that there is such a file.
const WARNING_INTERVAL: Duration = Duration::from_mins(1);

/// The file, from which nothing is read.
#[derive(Debug)]
pub struct Keylog {
    file: File,
    path: PathBuf,
    warned: Option<Boottime>,
}

impl Keylog {
    /// Makes the file, which only its owner may read.
    ///
    /// # Errors
    /// It is there already, or cannot be made.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file =
            file.with_context(|| format!("--keylog {}: the file must be a new one", path.display()))?;
        Ok(Self { file, path: path.to_owned(), warned: None })
    }

    /// Adds the keys of a handshake.
    pub fn write(&mut self, secrets: &HandshakeSecrets) {
        if let Err(error) = write!(self.file, "{secrets}") {
            tracing::warn!("{}: a handshake's keys are lost: {error}", self.path.display());
        }
    }

    /// Warns, once a minute, that nothing is secret.
    pub fn warn(&mut self, now: Boottime) {
        if self.warned.is_some_and(|at| now.since(at) < WARNING_INTERVAL) {
            return;
        }
        self.warned = Some(now);
        tracing::warn!("--keylog: whoever reads {} can read all traffic of the tunnels", self.path.display());
    }
}

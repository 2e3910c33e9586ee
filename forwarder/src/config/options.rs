//! What the command line asks of `run` and `check`.

use std::path::PathBuf;

use crate::aead::Engine;

/// Options of `forwarder run` and `forwarder check`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// `--iface`: bonds, plain devices or VLANs, at least one.
    pub interfaces: Vec<String>,
    /// `--config`: wg-quick files or folders of them; empty = [`super::DEFAULT_FOLDER`].
    pub configs: Vec<PathBuf>,
    /// `--workers`: at most so many, 0 = without AF_XDP; wins over the settings.
    pub workers: Option<usize>,
    /// `--settings`: forwarder.toml; `None` = the default file if it exists.
    pub settings: Option<PathBuf>,
    /// `--aead`: this engine and no other; `None` = the best that works.
    pub aead: Option<Engine>,
    /// `--counters`: where `run` writes its counters as JSON, on SIGUSR1 and at exit.
    pub counters: Option<PathBuf>,
    /// `--keylog`: a new file for the keys of all handshakes.
    #[cfg(feature = "keylog")]
    pub keylog: Option<PathBuf>,
}

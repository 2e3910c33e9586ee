//! What can be wrong with configuration, one line each: `file:line: what is wrong: fix`.

use std::path::{Path, PathBuf};

use super::key::KeyError;

/// A mistake and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {problem}", file.display(), line.map_or(String::new(), |l| format!(":{l}")))]
pub struct ConfigError {
    /// The file (or folder).
    pub file: PathBuf,
    /// Line, from 1; `None` when the whole file is meant.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: Problem,
}

impl ConfigError {
    /// A mistake in a line.
    pub fn at(file: &Path, line: usize, problem: Problem) -> Self {
        Self { file: file.to_owned(), line: Some(line), problem }
    }

    /// A mistake that no single line has.
    pub fn whole(file: &Path, problem: Problem) -> Self {
        Self { file: file.to_owned(), line: None, problem }
    }
}

/// What is wrong. Values of keys that hold secrets, and lines that may be one, are never carried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file or folder cannot be opened.
    #[error("cannot be read ({0}): check the path and its permissions")]
    Unreadable(String),
    /// A folder without configuration.
    #[error("no *.conf file in this folder: put wg-quick files there, or name them by --config")]
    NoFiles,
    /// The file's name is not a tunnel's.
    #[error("'{0}' cannot name a tunnel: call the file NAME.conf, NAME of 1 to 15 letters, digits or _=+.-")]
    Name(String),
    /// Two files of one name.
    #[error("tunnel '{name}' is already read from {}: rename one of the files", other.display())]
    SameName {
        /// The name.
        name: String,
        /// The file that was read first.
        other: PathBuf,
    },
    /// Two tunnels on one UDP port.
    #[error("ListenPort {port} is also that of {}: give every tunnel its own port", other.display())]
    SamePort {
        /// The port.
        port: u16,
        /// The file that was read first.
        other: PathBuf,
    },
    /// Bytes that are not text.
    #[error("not UTF-8 text: save the file as UTF-8")]
    NotUtf8,
    /// A section that wg-quick does not have.
    #[error("unknown section [{0}]: only [Interface] and [Peer] exist")]
    UnknownSection(String),
    /// A key above the first section.
    #[error("'{0}' stands before any section: put [Interface] or [Peer] above it")]
    NoSection(String),
    /// Neither a section nor a pair.
    #[error("neither a [Section] nor `Key = value`: correct or delete the line")]
    NotAPair,
    /// A key that wg-quick does not have.
    #[error("unknown key '{0}': correct or delete the line")]
    UnknownKey(String),
    /// A key of the other section.
    #[error("'{key}' belongs to [{section}]: move the line there")]
    Misplaced {
        /// The key.
        key: String,
        /// Where it belongs.
        section: &'static str,
    },
    /// A second value for a key that has one.
    #[error("'{key}' is given twice, first on line {first}: keep one of the lines")]
    Twice {
        /// The key.
        key: String,
        /// Line of the first.
        first: usize,
    },
    /// A value that cannot be read.
    #[error("{key} = {value} cannot be read: write {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The text.
        value: String,
        /// What is expected instead.
        expected: &'static str,
    },
    /// A key (secret or public) that cannot be read.
    #[error("{key}: {error}")]
    Key {
        /// The key's key.
        key: &'static str,
        /// Why.
        error: KeyError,
    },
    /// A section lacks what it must have.
    #[error("[{section}] has no {key}: add the line `{key} = ...`")]
    Missing {
        /// The section.
        section: &'static str,
        /// The key.
        key: &'static str,
    },
    /// No `[Interface]`.
    #[error("there is no [Interface] section: add one with a PrivateKey")]
    NoInterface,
    /// A peer with our own key.
    #[error("PublicKey is this tunnel's own: write the public key of the other site")]
    OwnKey,
    /// Two sections for one peer.
    #[error("this peer already has the [Peer] section of line {0}: merge the two")]
    SamePeer(usize),
    /// forwarder.toml cannot be read; the TOML reader's words.
    #[error("{0}: see the settings' documentation in `forwarder run --help`")]
    Settings(String),
}

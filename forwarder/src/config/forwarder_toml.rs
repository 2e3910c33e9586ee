//! forwarder.toml: what wg-quick's format cannot say. Everything in it is optional.
//!
//! ```toml
//! workers = 4             # at most so many workers; default: one per allowed core and NIC queue
//! guard = "keep"          # default "off"
//! transit = true          # default false
//!
//! [[group]]               # peers of different public keys that carry the same prefixes in parallel
//! name = "site-b"
//! peers = ["wg0", "wg1/berlin"]   # TUNNEL, or TUNNEL/PEER with the peer's friendly name or public key
//!
//! [tunnel.wg0]
//! roaming = false         # peers stay at their `Endpoint`; default true
//! copy_dscp = true        # DSCP inner <-> outer (RFC 2983, uniform model); default false
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::error::{ConfigError, Problem};
use super::shown::may_hold_key;

/// Where the settings are looked for when `--settings` is not given.
pub const DEFAULT_FILE: &str = "/etc/forwarder/forwarder.toml";

/// The settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// At most so many workers; 0 = without AF_XDP. Default: as many as cores and NIC queues allow.
    pub workers: Option<usize>,
    /// What protects the remote prefixes after an exit. Default: off.
    pub guard: Guard,
    /// Whether a packet out of one tunnel may go into another. Default: false, such packets drop.
    pub transit: bool,
    /// Groups of peers with different public keys. Default: none.
    #[serde(rename = "group")]
    pub groups: Vec<NamedGroup>,
    /// What a tunnel's own file cannot say, by the tunnel's name. Default: none.
    #[serde(rename = "tunnel")]
    pub tunnels: BTreeMap<String, TunnelSettings>,
}

/// How a tunnel's peers are treated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct TunnelSettings {
    /// Whether an endpoint moves to where authentic messages come from (whitepaper, section 2.1). Without
    /// it peers stay at their `Endpoint`; one that has none roams all the same. Default: true.
    pub roaming: bool,
    /// Whether DSCP is copied from inner to outer headers and back (RFC 2983, uniform model). Default: false,
    /// the outer DSCP is 0 and the inner one stays as it is (pipe model).
    pub copy_dscp: bool,
}

impl Default for TunnelSettings {
    fn default() -> Self {
        Self { roaming: true, copy_dscp: false }
    }
}

/// What stays behind after any exit, kill -9 included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guard {
    /// Nothing: the machine is left as it was found.
    #[default]
    Off,
    /// `unreachable` routes for the remote prefixes, until `forwarder down`.
    Keep,
}

/// Peers that may share prefixes although their public keys differ.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedGroup {
    /// For logs and messages.
    pub name: String,
    /// `TUNNEL`, the tunnel's only peer, or `TUNNEL/PEER` with a friendly name or a public key.
    pub peers: Vec<String>,
}

impl Settings {
    /// Reads `file`; without one, [`DEFAULT_FILE`] if it exists, else the defaults.
    ///
    /// # Errors
    /// The file cannot be read, or what is wrong in it.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let default = Path::new(DEFAULT_FILE);
        if file.is_none() && !default.exists() {
            return Ok(Self::default());
        }
        let file = file.unwrap_or(default);
        let text = std::fs::read_to_string(file)
            .map_err(|e| ConfigError::whole(file, Problem::Unreadable(e.to_string())))?;
        Self::parse(file, &text)
    }

    /// Reads the `text` of `file`.
    ///
    /// # Errors
    /// The first mistake.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|e| {
            let line = e.span().map(|s| 1 + text.bytes().take(s.start).filter(|&b| b == b'\n').count());
            // One line that a terminal can show, whatever the reader's message quotes.
            let words = e.message().split_whitespace();
            let words = words.map(|word| if may_hold_key(word) { "(a key)" } else { word });
            let message = words.collect::<Vec<_>>().join(" ");
            let message = message.replace(char::is_control, "\u{fffd}");
            ConfigError { file: file.to_owned(), line, problem: Problem::Settings(message) }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Settings, String> {
        Settings::parse(Path::new("forwarder.toml"), text).map_err(|e| e.to_string())
    }

    #[test]
    fn a_key_that_went_astray_is_not_shown() {
        let key = "6AgToMKAU6mHoSgHQnIUKXvMhZ5vwcNuSj1T3KHfZ1Q=";
        for text in [format!("guard = \"{key}\""), format!("workers = \"{key}\"")] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains("(a key)") && !error.contains(&key[..8]), "{error}");
        }
    }

    #[test]
    fn everything_is_optional() {
        assert_eq!(parse("").unwrap(), Settings::default());
        let settings = parse(concat!(
            "workers = 2\nguard = \"keep\"\ntransit = true\n",
            "[[group]]\nname = \"b\"\npeers = [\"wg0\", \"wg1/x\"]\n",
            "[tunnel.wg0]\nroaming = false\n[tunnel.wg1]\ncopy_dscp = true\n"
        ))
        .unwrap();
        let group = NamedGroup { name: "b".into(), peers: vec!["wg0".into(), "wg1/x".into()] };
        let expected = Settings {
            workers: Some(2),
            guard: Guard::Keep,
            transit: true,
            groups: vec![group],
            tunnels: [
                ("wg0".to_owned(), TunnelSettings { roaming: false, copy_dscp: false }),
                ("wg1".to_owned(), TunnelSettings { roaming: true, copy_dscp: true }),
            ]
            .into(),
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn mistakes_name_their_line() {
        for (text, line) in [
            ("workers = -1", 1),
            ("\nguard = \"kep\"", 2),
            ("transit = true\nwrokers = 1", 2),
            ("transit = maybe", 1),
            ("[[group]]\nname = \"x\"\npeers = 3", 3),
            ("[tunnel.wg0]\nroming = false", 2),
            ("\"\\u001b[2J\" = 1", 1),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.starts_with(&format!("forwarder.toml:{line}: ")), "{text:?}: {error}");
            assert!(error.lines().count() == 1 && !error.contains(char::is_control), "{error:?}");
        }
    }
}

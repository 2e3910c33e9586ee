//! wg-quick's format (wg(8) "CONFIGURATION FILE FORMAT" and wg-quick(8)).
//!
//! Names of sections and keys are case-insensitive, `#` starts a comment, `AllowedIPs` and `Address` may
//! be repeated and hold comma lists. All mistakes of a file are reported, not just the first. A scalar
//! that is given twice is a mistake here (wg silently takes the last).

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::error::{ConfigError, Problem};
use super::shown::{may_hold_key, shown, shown_unless_key};
use super::{PeerSection, Table, TunnelConfig, key};
use crate::wireguard::{PrivateKey, PublicKey};

/// Reads the tunnel `name` from the `bytes` of `file`.
///
/// # Errors
/// All mistakes, in order of their lines.
pub fn parse(name: &str, file: &Path, bytes: &[u8]) -> Result<TunnelConfig, Vec<ConfigError>> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let line = 1 + bytes[..e.valid_up_to()].iter().filter(|&&b| b == b'\n').count();
        vec![ConfigError::at(file, line, Problem::NotUtf8)]
    })?;
    let mut parser = Parser::new(name, file);
    for (line, text) in (1..).zip(text.lines()) {
        parser.line = line;
        if let Err(problem) = parser.statement(text) {
            parser.fail(line, problem);
        }
    }
    parser.finish()
}

/// The section that lines belong to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    /// Above the first section.
    None,
    Interface,
    Peer,
    /// Reported once; its lines are skipped.
    Unknown,
}

/// A peer whose lines are being read.
struct Draft {
    peer: PeerSection,
    public_key: Option<PublicKey>,
    public_key_line: usize,
}

struct Parser<'a> {
    file: &'a Path,
    line: usize,
    section: Section,
    /// Line of `[Interface]`.
    interface: Option<usize>,
    /// Scalar keys of the section so far (lower case) and their lines.
    scalars: Vec<(&'static str, usize)>,
    private_key: Option<PrivateKey>,
    /// The line that should have had it was reported already.
    private_key_reported: bool,
    config: TunnelConfig,
    peers: Vec<Draft>,
    errors: Vec<ConfigError>,
}

impl<'a> Parser<'a> {
    fn new(name: &str, file: &'a Path) -> Self {
        let config = TunnelConfig {
            name: name.to_owned(),
            file: file.to_owned(),
            private_key: PrivateKey([0; 32]),
            listen_port: 0,
            listen_port_line: 0,
            fwmark: 0,
            addresses: Vec::new(),
            mtu: None,
            table: Table::Auto,
            peers: Vec::new(),
            ignored: Vec::new(),
        };
        Self {
            file,
            line: 0,
            section: Section::None,
            interface: None,
            scalars: Vec::new(),
            private_key: None,
            private_key_reported: false,
            config,
            peers: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn fail(&mut self, line: usize, problem: Problem) {
        self.errors.push(ConfigError::at(self.file, line, problem));
    }

    fn statement(&mut self, text: &str) -> Result<(), Problem> {
        let (statement, comment) = text.split_once('#').unwrap_or((text, ""));
        let statement = statement.trim();
        if self.section == Section::Peer
            && let Some(name) = friendly_name(comment)
        {
            self.draft().peer.friendly_name = Some(name);
        }
        if statement.is_empty() {
            return Ok(());
        }
        if let Some(name) = statement.strip_prefix('[').and_then(|s| s.strip_suffix(']')) {
            return self.open_section(name.trim());
        }
        if self.section == Section::Unknown {
            return Ok(());
        }
        let (key, value) = statement.split_once('=').ok_or(Problem::NotAPair)?;
        let (key, value) = (key.trim(), value.trim());
        // A bare base64 key ends in `=`, too: only what looks like a key's name may be shown.
        if key.len() > 24 || !key.bytes().all(|b| b.is_ascii_alphabetic()) {
            return Err(Problem::NotAPair);
        }
        match self.section {
            Section::Interface => self.interface_key(key, value),
            Section::Peer => self.peer_key(key, value),
            Section::None | Section::Unknown => Err(Problem::NoSection(shown(key))),
        }
    }

    fn open_section(&mut self, name: &str) -> Result<(), Problem> {
        self.section = Section::Unknown;
        if name.eq_ignore_ascii_case("interface") {
            if let Some(first) = self.interface {
                return Err(Problem::Twice { key: "[Interface]".to_owned(), first });
            }
            self.interface = Some(self.line);
            self.section = Section::Interface;
        } else if name.eq_ignore_ascii_case("peer") {
            let peer = PeerSection {
                line: self.line,
                friendly_name: None,
                public_key: PublicKey([0; 32]),
                preshared_key: Zeroizing::new([0; 32]),
                allowed_ips: Vec::new(),
                endpoint: None,
                endpoint_name: None,
                persistent_keepalive: None,
            };
            self.peers.push(Draft { peer, public_key: None, public_key_line: 0 });
            self.section = Section::Peer;
        } else {
            return Err(Problem::UnknownSection(shown_unless_key(name)));
        }
        self.scalars.clear();
        Ok(())
    }

    fn interface_key(&mut self, key: &str, value: &str) -> Result<(), Problem> {
        match key.to_ascii_lowercase().as_str() {
            "privatekey" => {
                self.private_key_reported = true;
                self.once("PrivateKey")?;
                self.private_key = Some(PrivateKey(*secret("PrivateKey", value)?));
            }
            "listenport" => {
                self.once("ListenPort")?;
                self.config.listen_port_line = self.line;
                self.config.listen_port = number("ListenPort", value, PORT)?;
            }
            "fwmark" => {
                self.once("FwMark")?;
                self.config.fwmark = mark(value)?;
            }
            "address" => self.config.addresses.extend(list("Address", value)?),
            "mtu" => {
                self.once("MTU")?;
                self.config.mtu = Some(mtu(value)?);
            }
            "table" => {
                self.once("Table")?;
                self.config.table = table(value)?;
            }
            "dns" | "preup" | "postup" | "predown" | "postdown" | "saveconfig" => {
                self.config.ignored.push((self.line, key.to_owned()));
            }
            "publickey" | "presharedkey" | "allowedips" | "endpoint" | "persistentkeepalive" => {
                return Err(Problem::Misplaced { key: shown(key), section: "Peer" });
            }
            _ => return Err(Problem::UnknownKey(shown(key))),
        }
        Ok(())
    }

    fn peer_key(&mut self, key: &str, value: &str) -> Result<(), Problem> {
        match key.to_ascii_lowercase().as_str() {
            "publickey" => {
                self.draft().public_key_line = self.line;
                self.once("PublicKey")?;
                self.draft().public_key = Some(PublicKey(*secret("PublicKey", value)?));
            }
            "presharedkey" => {
                self.once("PresharedKey")?;
                self.draft().peer.preshared_key = secret("PresharedKey", value)?;
            }
            "allowedips" => {
                let prefixes = list("AllowedIPs", value)?;
                self.draft().peer.allowed_ips.extend(prefixes.iter().map(IpNet::trunc));
            }
            "endpoint" => {
                self.once("Endpoint")?;
                match endpoint(value)? {
                    (host, port, None) => self.draft().peer.endpoint_name = Some((host, port)),
                    (_, port, Some(ip)) => self.draft().peer.endpoint = Some(SocketAddr::new(ip, port)),
                }
            }
            "persistentkeepalive" => {
                self.once("PersistentKeepalive")?;
                self.draft().peer.persistent_keepalive = keepalive(value)?;
            }
            "privatekey" | "listenport" | "fwmark" | "address" | "mtu" | "table" | "dns" | "preup"
            | "postup" | "predown" | "postdown" | "saveconfig" => {
                return Err(Problem::Misplaced { key: shown(key), section: "Interface" });
            }
            _ => return Err(Problem::UnknownKey(shown(key))),
        }
        Ok(())
    }

    /// The peer whose section is open.
    fn draft(&mut self) -> &mut Draft {
        let last = self.peers.len() - 1;
        &mut self.peers[last]
    }

    /// Refuses a second value for a key within a section.
    fn once(&mut self, key: &'static str) -> Result<(), Problem> {
        if let Some(&(_, first)) = self.scalars.iter().find(|(k, _)| *k == key) {
            return Err(Problem::Twice { key: key.to_owned(), first });
        }
        self.scalars.push((key, self.line));
        Ok(())
    }

    fn finish(mut self) -> Result<TunnelConfig, Vec<ConfigError>> {
        self.take_private_key();
        let own = self.private_key.as_ref().map(key::public);
        for draft in std::mem::take(&mut self.peers) {
            self.take_peer(draft, own);
        }
        if let Some(key) = self.private_key.take() {
            self.config.private_key = key;
        }
        self.errors.sort_by_key(|e| e.line);
        if self.errors.is_empty() { Ok(self.config) } else { Err(self.errors) }
    }

    fn take_private_key(&mut self) {
        match self.interface {
            None => self.errors.push(ConfigError::whole(self.file, Problem::NoInterface)),
            Some(line) if !self.private_key_reported => {
                self.fail(line, Problem::Missing { section: "Interface", key: "PrivateKey" });
            }
            Some(_) => {}
        }
    }

    fn take_peer(&mut self, Draft { mut peer, public_key, public_key_line }: Draft, own: Option<PublicKey>) {
        let Some(public_key) = public_key else {
            if public_key_line == 0 {
                self.fail(peer.line, Problem::Missing { section: "Peer", key: "PublicKey" });
            }
            return;
        };
        let twin = self.config.peers.iter().find(|p| p.public_key == public_key).map(|p| p.line);
        if Some(public_key) == own {
            self.fail(public_key_line, Problem::OwnKey);
        } else if let Some(first) = twin {
            self.fail(public_key_line, Problem::SamePeer(first));
        }
        peer.public_key = public_key;
        self.config.peers.push(peer);
    }
}

const PORT: &str = "a number from 0 to 65535";
const ADDRESSES: &str = "addresses like 10.0.0.0/16, fd00::/64, separated by commas";

/// `friendly_name = X`, the convention of wireguard exporters.
fn friendly_name(comment: &str) -> Option<String> {
    let (key, value) = comment.split_once('=')?;
    let matches = key.trim().eq_ignore_ascii_case("friendly_name") && !value.trim().is_empty();
    matches.then(|| shown_unless_key(value.trim()))
}

fn unreadable(key: &'static str, value: &str, expected: &'static str) -> Problem {
    let value = if value.is_empty() { "(nothing)".to_owned() } else { shown_unless_key(value) };
    Problem::Value { key, value, expected }
}

fn secret(key: &'static str, value: &str) -> Result<Zeroizing<[u8; 32]>, Problem> {
    key::decode(value).map_err(|error| Problem::Key { key, error })
}

fn number(key: &'static str, value: &str, expected: &'static str) -> Result<u16, Problem> {
    value.parse().map_err(|_| unreadable(key, value, expected))
}

fn hex_or_decimal(value: &str) -> Option<u32> {
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) if !hex.starts_with('+') => u32::from_str_radix(hex, 16).ok(),
        Some(_) => None,
        None => value.parse().ok(),
    }
}

fn mark(value: &str) -> Result<u32, Problem> {
    if value.eq_ignore_ascii_case("off") {
        return Ok(0);
    }
    hex_or_decimal(value)
        .ok_or_else(|| unreadable("FwMark", value, "a 32-bit number like 51820 or 0xca6c, or `off`"))
}

/// At least what every IPv4 host must take (RFC 791), at most what an outer IPv6 packet can hold.
fn mtu(value: &str) -> Result<u16, Problem> {
    const EXPECTED: &str = "a number of bytes from 576 to 65455, or leave the line out";
    let mtu = number("MTU", value, EXPECTED)?;
    if (576..=65455).contains(&mtu) { Ok(mtu) } else { Err(unreadable("MTU", value, EXPECTED)) }
}

fn table(value: &str) -> Result<Table, Problem> {
    match value.to_ascii_lowercase().as_str() {
        "auto" => Ok(Table::Auto),
        "off" => Ok(Table::Off),
        "main" => Ok(Table::Number(254)),
        number => hex_or_decimal(number)
            .filter(|&n| n > 0)
            .map(Table::Number)
            .ok_or_else(|| unreadable("Table", value, "`auto`, `off`, `main` or a table's number")),
    }
}

/// A comma list of addresses with an optional prefix length; nothing at all is an empty list.
fn list(key: &'static str, value: &str) -> Result<Vec<IpNet>, Problem> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let item = |text: &str| {
        let text = text.trim();
        let net = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        net.map_err(|_| unreadable(key, text, ADDRESSES))
    };
    value.split(',').map(item).collect()
}

fn keepalive(value: &str) -> Result<Option<Duration>, Problem> {
    if value.eq_ignore_ascii_case("off") {
        return Ok(None);
    }
    let seconds = number("PersistentKeepalive", value, "seconds from 0 to 65535, or `off`")?;
    Ok((seconds != 0).then(|| Duration::from_secs(u64::from(seconds))))
}

/// Host and port, and the address if the host is one. Names are not looked up here.
fn endpoint(value: &str) -> Result<(String, u16, Option<IpAddr>), Problem> {
    const EXPECTED: &str = "HOST:PORT, ADDRESS:PORT or [IPV6]:PORT, with a port from 1 to 65535";
    let wrong = || unreadable("Endpoint", value, EXPECTED);
    let (host, port) = value.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().ok().filter(|&p| p != 0).ok_or_else(wrong)?;
    let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if bracketed.is_none() && host.contains([':', '[', ']']) {
        return Err(wrong());
    }
    let host = bracketed.unwrap_or(host);
    if host.is_empty() || host.contains(char::is_whitespace) || host.contains('\0') {
        return Err(wrong());
    }
    // No host is called so, and names are logged and asked for.
    if host.contains(['=', '+', '/']) || (!host.contains('.') && may_hold_key(host)) {
        return Err(wrong());
    }
    Ok((host.to_owned(), port, host.parse().ok()))
}

#[cfg(test)]
#[path = "wg_quick_tests.rs"]
mod tests;

//! Requests from bytes, in whatever pieces they come.
//!
//! A request is an operation, `key=value` lines and an empty line. A mistake does not end it: the rest is
//! read over, so that a caller that is still writing gets an answer instead of a broken pipe.

use std::time::Duration;

use ipnet::IpNet;
use nix::errno::Errno;
use zeroize::Zeroizing;

use super::request::{PeerChange, PrefixChange, Request, Set};
use crate::wireguard::{PrivateKey, PublicKey};

/// Longest line in bytes, without its end; the longest that means something is a third of it.
pub const MAX_LINE: usize = 256;
/// Largest request in bytes: some 20,000 peers.
pub const MAX_REQUEST: usize = 4 << 20;

/// Reads one request after the other.
#[derive(Default)]
pub struct Parser {
    line: Line,
    state: State,
    /// Bytes of the request so far.
    size: usize,
}

/// Where in a request we are.
#[derive(Default)]
enum State {
    /// Before its first line.
    #[default]
    Start,
    Get,
    Set(Box<Set>),
    /// A mistake was made.
    Wrong(Errno),
}

impl Parser {
    /// Reads on in `input`, which loses what was read, until a request is complete. `None`: all was read,
    /// and more is needed.
    ///
    /// # Errors
    /// The request is complete and wrong: [`Errno::EINVAL`], or [`Errno::EPFNOSUPPORT`] for a version that
    /// we do not have. Or it is larger than [`MAX_REQUEST`], [`Errno::EMSGSIZE`]: then nothing that comes
    /// after it can be understood.
    pub fn read(&mut self, input: &mut &[u8]) -> Option<Result<Request, Errno>> {
        while let [byte, rest @ ..] = *input {
            *input = rest;
            self.size += 1;
            if self.size > MAX_REQUEST {
                return Some(Err(Errno::EMSGSIZE));
            }
            if *byte != b'\n' {
                self.line.push(*byte);
            } else if let Some(request) = self.end_line() {
                return Some(request);
            }
        }
        None
    }

    fn end_line(&mut self) -> Option<Result<Request, Errno>> {
        let line = std::mem::take(&mut self.line);
        let state = std::mem::take(&mut self.state);
        if line.length == 0 {
            self.size = 0;
            return Some(match state {
                State::Start => Err(Errno::EINVAL),
                State::Get => Ok(Request::Get),
                State::Set(set) => Ok(Request::Set(set)),
                State::Wrong(errno) => Err(errno),
            });
        }
        self.state = line.text().and_then(|text| state.next(text)).unwrap_or_else(State::Wrong);
        None
    }
}

impl State {
    fn next(self, line: &str) -> Result<Self, Errno> {
        let (key, value) = line.split_once('=').ok_or(Errno::EINVAL)?;
        match (self, key) {
            (Self::Start, "get") => version(value, Errno::EINVAL).map(|()| Self::Get),
            (Self::Start, "set") => version(value, Errno::EINVAL).map(|()| Self::Set(Box::default())),
            (Self::Set(mut set), _) => {
                match set.peers.last_mut() {
                    _ if key == "public_key" => {
                        set.peers.push(PeerChange::new(PublicKey(*self::key(value)?)));
                    }
                    Some(peer) => peer_line(peer, key, value)?,
                    None => tunnel_line(&mut set, key, value)?,
                }
                Ok(Self::Set(set))
            }
            (Self::Wrong(errno), _) => Err(errno),
            (Self::Start | Self::Get, _) => Err(Errno::EINVAL),
        }
    }
}

/// A line above the first peer.
fn tunnel_line(set: &mut Set, key: &str, value: &str) -> Result<(), Errno> {
    match key {
        "private_key" => set.private_key = Some(PrivateKey(*self::key(value)?)),
        "listen_port" => set.listen_port = Some(number(value)?),
        "fwmark" => set.fwmark = Some(number(value)?),
        "replace_peers" => set.replace_peers = truth(value)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

fn peer_line(peer: &mut PeerChange, key: &str, value: &str) -> Result<(), Errno> {
    match key {
        "remove" => peer.remove = truth(value)?,
        "update_only" => peer.update_only = truth(value)?,
        "preshared_key" => peer.preshared_key = Some(Box::new(self::key(value)?)),
        "endpoint" => peer.endpoint = Some(value.parse().map_err(|_| Errno::EINVAL)?),
        "persistent_keepalive_interval" => {
            peer.persistent_keepalive = Some(Duration::from_secs(u64::from(number::<u16>(value)?)));
        }
        "replace_allowed_ips" => peer.replace_allowed_ips = truth(value)?,
        "allowed_ip" => peer.allowed_ips.push(match value.strip_prefix('-') {
            Some(value) => PrefixChange::Remove(prefix(value)?),
            None => PrefixChange::Add(prefix(value)?),
        }),
        "protocol_version" => version(value, Errno::EPFNOSUPPORT)?,
        _ => return Err(Errno::EINVAL),
    }
    Ok(())
}

/// 64 hexadecimal digits.
fn key(value: &str) -> Result<Zeroizing<[u8; 32]>, Errno> {
    let mut key = Zeroizing::new([0; 32]);
    hex::decode_to_slice(value, &mut *key).map_err(|_| Errno::EINVAL)?;
    Ok(key)
}

/// Decimal digits and nothing else.
fn number<N: std::str::FromStr>(value: &str) -> Result<N, Errno> {
    let digits = value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| digits).ok_or(Errno::EINVAL)
}

/// The protocol knows only one value for its switches.
fn truth(value: &str) -> Result<bool, Errno> {
    if value == "true" { Ok(true) } else { Err(Errno::EINVAL) }
}

fn version(value: &str, otherwise: Errno) -> Result<(), Errno> {
    if value == "1" { Ok(()) } else { Err(otherwise) }
}

fn prefix(value: &str) -> Result<IpNet, Errno> {
    value.parse::<IpNet>().map(|prefix| prefix.trunc()).map_err(|_| Errno::EINVAL)
}

/// A line that is being read; it may hold a key.
struct Line {
    bytes: Zeroizing<[u8; MAX_LINE]>,
    /// Its length, which may be more than there is room for.
    length: usize,
}

impl Default for Line {
    fn default() -> Self {
        Self { bytes: Zeroizing::new([0; MAX_LINE]), length: 0 }
    }
}

impl Line {
    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
        }
        self.length += 1;
    }

    fn text(&self) -> Result<&str, Errno> {
        let bytes = self.bytes.get(..self.length).ok_or(Errno::EINVAL)?;
        std::str::from_utf8(bytes).map_err(|_| Errno::EINVAL)
    }
}

#[cfg(test)]
#[path = "parser_tests.rs"]
mod tests;

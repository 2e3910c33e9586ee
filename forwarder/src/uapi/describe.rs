//! What `get=1` answers.

use std::fmt::{self, Display, Write as _};

use zeroize::Zeroizing;

use crate::config::{PeerSection, TunnelConfig};
use crate::wireguard::{PeerStatus, PrivateKey};

/// A tunnel as it runs.
pub struct Device<'a> {
    /// Its configuration.
    pub config: &'a TunnelConfig,
    /// The port that it listens on now; 0 = none.
    pub listen_port: u16,
    /// The mark of its outer packets; 0 = none.
    pub fwmark: u32,
    /// Its peers' status, in the order of the configuration's peers.
    pub peers: Vec<Option<PeerStatus>>,
}

/// The answer's lines, without the last one, `errno`.
pub fn describe(device: &Device<'_>) -> Zeroizing<String> {
    let mut text = Text::default();
    let private_key = &device.config.private_key;
    if !private_key.is_zero() {
        text.key("private_key", &clamped(private_key));
    }
    text.line("listen_port", device.listen_port);
    text.line("fwmark", device.fwmark);
    for (peer, status) in device.config.peers.iter().zip(&device.peers) {
        describe_peer(&mut text, peer, status.as_ref());
    }
    text.0
}

fn describe_peer(text: &mut Text, peer: &PeerSection, status: Option<&PeerStatus>) {
    text.key("public_key", &peer.public_key.0);
    text.key("preshared_key", &peer.preshared_key);
    text.line("protocol_version", 1);
    if let Some(endpoint) = status.map_or(peer.endpoint, |status| status.endpoint) {
        text.line("endpoint", endpoint);
    }
    let handshake = status.and_then(|status| status.last_handshake).map(|(_, wall)| wall.0);
    let handshake = handshake.unwrap_or_default();
    text.line("last_handshake_time_sec", handshake.as_secs());
    text.line("last_handshake_time_nsec", handshake.subsec_nanos());
    text.line("tx_bytes", status.map_or(0, |status| status.tx_bytes));
    text.line("rx_bytes", status.map_or(0, |status| status.rx_bytes));
    text.line("persistent_keepalive_interval", peer.persistent_keepalive.unwrap_or_default().as_secs());
    for prefix in &peer.allowed_ips {
        text.line("allowed_ip", prefix);
    }
}

/// As the kernel keeps it and shows it (RFC 7748 section 5).
fn clamped(key: &PrivateKey) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new(key.0);
    key[0] &= 0b1111_1000;
    key[31] = key[31] & 0b0111_1111 | 0b0100_0000;
    key
}

/// Text that leaves no copy of itself behind when it grows.
#[derive(Default)]
struct Text(Zeroizing<String>);

impl Text {
    fn line(&mut self, key: &str, value: impl Display) {
        // Writing to memory does not fail.
        let _ = writeln!(self, "{key}={value}");
    }

    fn key(&mut self, key: &str, value: &[u8; 32]) {
        let mut digits = Zeroizing::new([0; 64]);
        // 32 bytes are 64 digits, and digits are text.
        let _ = hex::encode_to_slice(value, &mut *digits);
        self.line(key, std::str::from_utf8(&*digits).unwrap_or_default());
    }
}

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let length = self.0.len() + text.len();
        if length > self.0.capacity() {
            let larger = String::with_capacity((2 * length).max(4096));
            let former = std::mem::replace(&mut self.0, Zeroizing::new(larger));
            self.0.push_str(&former);
        }
        self.0.push_str(text);
        Ok(())
    }
}

#[cfg(test)]
#[path = "describe_tests.rs"]
mod tests;

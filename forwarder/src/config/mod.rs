//! Configuration, parsed once into types that cannot be wrong.

pub mod key;
pub mod wg_quick;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::wireguard::{PrivateKey, PublicKey};

/// One wg-quick file: a tunnel.
pub struct TunnelConfig {
    /// The file's name without `.conf`: `wg0`.
    pub name: String,
    /// Where it was read.
    pub file: PathBuf,
    /// `PrivateKey`.
    pub private_key: PrivateKey,
    /// `ListenPort`; 0 when absent (the kernel chooses).
    pub listen_port: u16,
    /// `FwMark`; 0 = none.
    pub fwmark: u32,
    /// `Address`, host bits kept.
    pub addresses: Vec<IpNet>,
    /// `MTU`.
    pub mtu: Option<u16>,
    /// `Table`.
    pub table: Table,
    /// `[Peer]` sections, in file order.
    pub peers: Vec<PeerSection>,
    /// Lines that are understood but not acted on (hooks, `DNS`, `SaveConfig`): line number and key.
    pub ignored: Vec<(usize, String)>,
}

/// wg-quick's `Table`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Routes for the allowed-IPs are installed in `main` (`/0` gets wg-quick's rule).
    Auto,
    /// No routes are installed: the operator routes to the TUN.
    Off,
    /// Routes are installed in this table.
    Number(u32),
}

/// A `[Peer]` section.
#[derive(Clone, Debug)]
pub struct PeerSection {
    /// Line of the section's header.
    pub line: usize,
    /// `# friendly_name = X` inside the section.
    pub friendly_name: Option<String>,
    /// `PublicKey`.
    pub public_key: PublicKey,
    /// `PresharedKey`, zero when absent.
    pub preshared_key: [u8; 32],
    /// `AllowedIPs`, host bits cleared.
    pub allowed_ips: Vec<IpNet>,
    /// `Endpoint`, names resolved.
    pub endpoint: Option<SocketAddr>,
    /// `PersistentKeepalive`.
    pub persistent_keepalive: Option<Duration>,
}

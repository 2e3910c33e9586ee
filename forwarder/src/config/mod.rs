//! Configuration, parsed once into types that cannot be wrong.

pub mod error;
pub mod forwarder_toml;
pub mod key;
mod load;
pub mod options;
mod shown;
pub mod wg_quick;

pub use error::{ConfigError, Problem};
pub use forwarder_toml::{Guard, NamedGroup, Settings, TunnelSettings};
pub use load::{DEFAULT_FOLDER, Loaded, clashes, load};
pub use options::RunOptions;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::wireguard::{PrivateKey, PublicKey};

/// One wg-quick file: a tunnel.
#[derive(Clone)]
pub struct TunnelConfig {
    /// The file's name without `.conf`: `wg0`.
    pub name: String,
    /// Where it was read.
    pub file: PathBuf,
    /// `PrivateKey`; all zero when `wg` has taken it away.
    pub private_key: PrivateKey,
    /// `ListenPort`; 0 when absent (the kernel chooses).
    pub listen_port: u16,
    /// Line of `ListenPort`; 0 when absent.
    pub listen_port_line: usize,
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

/// Without the private key.
impl fmt::Debug for TunnelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelConfig")
            .field("name", &self.name)
            .field("file", &self.file)
            .field("listen_port", &self.listen_port)
            .field("fwmark", &self.fwmark)
            .field("addresses", &self.addresses)
            .field("mtu", &self.mtu)
            .field("table", &self.table)
            .field("peers", &self.peers)
            .field("ignored", &self.ignored)
            .finish_non_exhaustive()
    }
}

/// A `[Peer]` section.
#[derive(Clone)]
pub struct PeerSection {
    /// Line of the section's header.
    pub line: usize,
    /// `# friendly_name = X` inside the section.
    pub friendly_name: Option<String>,
    /// `PublicKey`.
    pub public_key: PublicKey,
    /// `PresharedKey`, zero when absent.
    pub preshared_key: Zeroizing<[u8; 32]>,
    /// `AllowedIPs`, host bits cleared.
    pub allowed_ips: Vec<IpNet>,
    /// Where to send first: `Endpoint`, or the address that was found last for its name.
    pub endpoint: Option<SocketAddr>,
    /// `Endpoint`, if it is a name: HOST and port.
    pub endpoint_name: Option<(String, u16)>,
    /// `PersistentKeepalive`.
    pub persistent_keepalive: Option<Duration>,
}

impl PeerSection {
    /// Its friendly name, or the start of its public key.
    pub fn label(&self) -> String {
        let key = || format!("{}...", &key::encode(&self.public_key.0)[..8]);
        self.friendly_name.clone().unwrap_or_else(key)
    }
}

/// Without the preshared key.
impl fmt::Debug for PeerSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSection")
            .field("line", &self.line)
            .field("friendly_name", &self.friendly_name)
            .field("public_key", &self.public_key)
            .field("allowed_ips", &self.allowed_ips)
            .field("endpoint", &self.endpoint)
            .field("endpoint_name", &self.endpoint_name)
            .field("persistent_keepalive", &self.persistent_keepalive)
            .finish_non_exhaustive()
    }
}

//! A site: its gateway, its LAN host, its keys and its wg-quick files.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, Permissions};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::address::{self, Family, Side};
use super::{Netns, Options, Wire};
use crate::command::Run as _;

/// The VLANs of a tagged one-armed gateway.
const LAN_VLAN: u16 = 10;
const WAN_VLAN: u16 = 20;

/// One site of a lab.
#[derive(Debug)]
pub struct Site {
    /// Which of the two.
    pub side: Side,
    /// The gateway's namespace: slaves `wan0`, `wan1`, ... (perhaps below `bond0`), and `lan0` unless the
    /// gateway is one-armed.
    pub gateway: Netns,
    /// The LAN host's namespace: `eth0`.
    pub host: Netns,
    /// The directory of `wg0.conf`, `wg1.conf`, ...
    pub tunnels: PathBuf,
    private_key: String,
    public_key: String,
}

impl Site {
    /// Makes the site's namespaces and its keys: one pair for all its tunnels.
    ///
    /// # Errors
    /// Not root, or `wg` is missing.
    pub fn create(side: Side, prefix: &str, directory: &Path) -> Result<Self> {
        let gateway = Netns::create(format!("{prefix}-{}", side.letter()))?;
        let host = Netns::create(format!("{prefix}-{}-lan", side.letter()))?;
        let tunnels = directory.join(side.letter().to_string());
        fs::create_dir(&tunnels)?;
        let private_key = Command::new("wg").arg("genkey").text()?.trim().to_owned();
        let public_key = Command::new("wg").arg("pubkey").feed(&private_key)?.trim().to_owned();
        Ok(Self { side, gateway, host, tunnels, private_key, public_key })
    }

    /// The site's public key.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// The LAN host's IPv4 address.
    pub fn host_address(&self) -> Ipv4Addr {
        address::lan4(self.side, 10)
    }

    /// The gateway's slaves.
    pub fn slaves(&self, options: Options) -> Vec<String> {
        (0..options.ports).map(address::slave).collect()
    }

    /// All ports of the gateway: the slaves and, where there is one, `lan0`.
    pub fn ports(&self, options: Options) -> Vec<String> {
        let mut ports = self.slaves(options);
        if !matches!(options.wire, Wire::OneArm { .. }) {
            ports.push("lan0".to_owned());
        }
        ports
    }

    /// What the gateway's `--iface` options name: `bond0` or the slaves, and `lan0`.
    pub fn interfaces(&self, options: Options) -> Vec<String> {
        if options.bond { vec!["bond0".to_owned(), "lan0".to_owned()] } else { self.ports(options) }
    }

    /// The underlay address that the i-th tunnel of this site has.
    pub fn endpoint(&self, options: Options, index: u8) -> IpAddr {
        address::underlay(options.underlay, self.side, if options.bond { 0 } else { index })
    }

    /// A command for this site's gateway that sees the control sockets of this gateway only. All network
    /// namespaces of a machine share /run, but what `ip netns exec` runs has a mount namespace of its own.
    ///
    /// # Errors
    /// The directories cannot be made.
    pub fn alone(&self, program: &str) -> Result<Command> {
        const RUN: &str = "/run/wireguard";
        let own = self.tunnels.with_extension("run");
        for directory in [Path::new(RUN), &own] {
            DirBuilder::new().mode(0o700).recursive(true).create(directory)?;
        }
        let mut command = Command::new("sh");
        command.args(["-ec", &format!("mount --bind \"$0\" {RUN}; exec \"$@\"")]).arg(own).arg(program);
        Ok(command)
    }

    /// Runs `wg` with these arguments (split at spaces) on the tunnels of this site's `forwarder`; returns
    /// what it says.
    ///
    /// # Errors
    /// It fails.
    pub fn wg(&self, arguments: &str) -> Result<String> {
        let alone = self.alone("wg")?;
        let mut wg = self.gateway.command(alone.get_program());
        wg.args(alone.get_args()).args(arguments.split_whitespace()).text()
    }

    /// Gives the cabled interfaces their addresses and routes, and brings them up.
    pub(super) fn configure(&self, options: Options) -> Result<()> {
        self.gateway.sysctl("net.ipv4.ip_forward", "1")?;
        self.gateway.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        if options.bond {
            self.bond(options)?;
            self.underlay(options, 0, "bond0")?;
        } else {
            for index in 0..options.ports {
                let slave = address::slave(index);
                self.underlay(options, index, &layer3(options, &self.gateway, &slave, WAN_VLAN)?)?;
            }
        }
        self.default_route(options)?;
        self.lan(options)
    }

    fn bond(&self, options: Options) -> Result<()> {
        let mode = "mode 802.3ad miimon 100 lacp_rate fast xmit_hash_policy layer3+4";
        self.gateway.ip(&format!("link add bond0 type bond {mode}"))?;
        for slave in self.slaves(options) {
            self.gateway.ip(&format!("link set {slave} master bond0"))?;
        }
        Ok(())
    }

    fn underlay(&self, options: Options, network: u8, interface: &str) -> Result<()> {
        let bits = if options.underlay == Family::V4 { 24 } else { 64 };
        let address = address::underlay(options.underlay, self.side, network);
        self.gateway.ip(&format!("addr add {address}/{bits} dev {interface}"))?;
        self.gateway.ip(&format!("link set {interface} up")).map(drop)
    }

    /// As on a real gateway, what no tunnel takes would leave by the underlay, in clear: IPv4 and IPv6. The
    /// family that the underlay has no addresses of goes by way of link-local ones.
    fn default_route(&self, options: Options) -> Result<()> {
        let other = if self.side == Side::A { Side::B } else { Side::A };
        let interface = if options.bond { "bond0".to_owned() } else { address::slave(0) };
        self.gateway.ip(&format!("addr add {}/64 dev {interface}", address::link_local(self.side)))?;
        let router = address::underlay(options.underlay, other, 0);
        self.gateway.ip(&format!("route add default via {router}"))?;
        let link_local = address::link_local(other);
        let family = if options.underlay == Family::V4 {
            "-6 route add default via"
        } else {
            "-4 route add default via inet6"
        };
        self.gateway.ip(&format!("{family} {link_local} dev {interface}")).map(drop)
    }

    /// The LAN is as on a wire, whoever the gateway is: its frames are no larger than its MTU, their
    /// checksums are finished, and who receives them puts them together again.
    fn lan(&self, options: Options) -> Result<()> {
        let port = if matches!(options.wire, Wire::OneArm { .. }) { "wan0" } else { "lan0" };
        for (namespace, port, host) in [(&self.gateway, port, 1), (&self.host, "eth0", 10)] {
            namespace.run(&format!("ethtool -K {port} tx off tso off gro on"))?;
            let interface = layer3(options, namespace, port, LAN_VLAN)?;
            namespace.ip(&format!("addr add {}/24 dev {interface}", address::lan4(self.side, host)))?;
            namespace.ip(&format!("addr add {}/64 dev {interface}", address::lan6(self.side, host)))?;
            namespace.ip(&format!("link set {interface} up"))?;
        }
        self.host.ip(&format!("route add default via {}", address::lan4(self.side, 1)))?;
        self.host.ip(&format!("route add default via {}", address::lan6(self.side, 1))).map(drop)
    }

    /// Writes one wg-quick file per slave, each with `far` as its peer and all of its LAN behind it.
    pub(super) fn write_tunnels(&self, far: &Site, options: Options) -> Result<()> {
        for index in 0..options.ports {
            let file = self.tunnels.join(format!("wg{index}.conf"));
            fs::write(&file, self.tunnel(far, options, index)?)?;
            fs::set_permissions(&file, Permissions::from_mode(0o600))?;
        }
        Ok(())
    }

    fn tunnel(&self, far: &Site, options: Options, index: u8) -> Result<String> {
        let port = address::listen_port(index);
        let endpoint = std::net::SocketAddr::new(far.endpoint(options, index), port);
        let mut text = String::new();
        writeln!(text, "[Interface]")?;
        writeln!(text, "PrivateKey = {}", self.private_key)?;
        writeln!(text, "ListenPort = {port}")?;
        writeln!(text, "Address = {}/32", address::tunnel(self.side, index))?;
        writeln!(text, "\n[Peer]")?;
        writeln!(text, "PublicKey = {}", far.public_key)?;
        writeln!(text, "Endpoint = {endpoint}")?;
        let tunnel = format!("{}/32", address::tunnel(far.side, index));
        writeln!(text, "AllowedIPs = {}, {tunnel}", address::lan_prefixes(far.side).join(", "))?;
        writeln!(text, "PersistentKeepalive = 10")?;
        Ok(text)
    }
}

/// The interface of `port` that has the addresses: itself or, tagged, a VLAN on it.
fn layer3(options: Options, namespace: &Netns, port: &str, vlan: u16) -> Result<String> {
    if options.wire != (Wire::OneArm { tagged: true }) {
        return Ok(port.to_owned());
    }
    let interface = format!("{port}.{vlan}");
    namespace.ip(&format!("link set {port} up"))?;
    namespace.ip(&format!("link add link {port} name {interface} type vlan id {vlan}"))?;
    Ok(interface)
}

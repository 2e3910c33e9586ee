//! What stands in the way of a plan, one line each: device, cause, fix.

use std::net::SocketAddr;

use ipnet::IpNet;

/// A reason why there is no topology.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// `--iface` names nothing.
    #[error("{0}: no such device: name one that `ip link` shows")]
    NoSuchDevice(String),
    /// No `--iface`.
    #[error("no device is named: add --iface DEVICE")]
    NoDevice,
    /// A slave named instead of its bond.
    #[error("{device}: belongs to bond {bond}: use --iface {bond}")]
    Enslaved {
        /// The device.
        device: String,
        /// Its bond.
        bond: String,
    },
    /// A bridge's (or another master's) port.
    #[error("{device}: belongs to {master}, which takes its frames: ip link set {device} nomaster")]
    HasMaster {
        /// The device.
        device: String,
        /// Its master.
        master: String,
    },
    /// A device without frames of its own for us.
    #[error("{device}: is a {kind}: name a plain device, a bond or a VLAN")]
    NotAPort {
        /// The device.
        device: String,
        /// What it is.
        kind: String,
    },
    /// A bond without slaves.
    #[error("{0}: the bond has no slaves: ip link set DEVICE master {0}")]
    NoSlaves(String),
    /// A bond that sends in a way that we do not mirror.
    #[error(
        "{bond}: bond mode {mode} is not supported: use 802.3ad, balance-xor, balance-rr or active-backup"
    )]
    BondMode {
        /// The bond.
        bond: String,
        /// Its mode.
        mode: &'static str,
    },
    /// More tags than the program reads.
    #[error("{0}: more than two VLANs on top of each other: name a device with at most two tags")]
    VlanDepth(String),
    /// The devices of a VLAN are not visible here.
    #[error("{0}: its lower device is not in this network namespace: run there")]
    NoLower(String),
    /// Facts of the device are missing.
    #[error("{0}: its driver tells nothing of its queues: see `ethtool -l {0}`")]
    NoFacts(String),
    /// More queues than sockets fit.
    #[error("{device}: {queues} queues, at most {most} are supported: ethtool -L {device} combined {most}")]
    Queues {
        /// The device.
        device: String,
        /// Its RX queues.
        queues: u32,
        /// The most.
        most: u32,
    },
    /// Frames that do not fit the largest chunk.
    #[error("{device}: MTU {mtu} does not fit a frame of AF_XDP: ip link set {device} mtu {most}")]
    Mtu {
        /// The device (the bond, for a slave).
        device: String,
        /// Its MTU, in bytes.
        mtu: u32,
        /// The largest that fits.
        most: u32,
    },
    /// No core is left.
    #[error("no core may be used: widen the CPU affinity of this process")]
    NoCores,
    /// One prefix, several keys, no group that says so.
    #[error(
        "{prefix}: carried by different public keys ({peers}): name them in a [[group]] of forwarder.toml, or \
         correct AllowedIPs"
    )]
    DifferentKeys {
        /// The prefix.
        prefix: IpNet,
        /// Who carries it: `wg0/berlin, wg1/rome`.
        peers: String,
    },
    /// An endpoint that our own routes would lead into the TUN, or refuse.
    #[error(
        "{tunnel}: the endpoint {endpoint} lies inside {key} {prefix}, so the tunnel's route would catch the \
         tunnel's own packets: {fix}"
    )]
    EndpointLoop {
        /// The tunnel.
        tunnel: String,
        /// The endpoint.
        endpoint: SocketAddr,
        /// The key of the file that holds the prefix.
        key: &'static str,
        /// The prefix whose route leads to the TUN.
        prefix: IpNet,
        /// What to do.
        fix: String,
    },
    /// Two files with a default route and different marks.
    #[error("{tunnel}, {other}: both have a /0 in AllowedIPs, and different FwMark: give them the same")]
    Marks {
        /// A file.
        tunnel: String,
        /// Another.
        other: String,
    },
    /// A group that names a peer which does not exist.
    #[error(
        "group {group}: there is no peer '{peer}': write TUNNEL, or TUNNEL/PEER with its name or public key"
    )]
    NoSuchPeer {
        /// The group.
        group: String,
        /// The text.
        peer: String,
    },
    /// A group that names a tunnel with several peers.
    #[error("group {group}: tunnel '{tunnel}' has {count} peers: write {tunnel}/PEER")]
    WhichPeer {
        /// The group.
        group: String,
        /// The tunnel.
        tunnel: String,
        /// Its peers.
        count: usize,
    },
    /// Settings of a tunnel that there is no file for.
    #[error(
        "[tunnel.{0}] in forwarder.toml: there is no such tunnel: write a wg-quick file's name without .conf"
    )]
    NoSuchTunnel(String),
    /// Two groups of one name.
    #[error("group {0}: named twice in forwarder.toml: keep one")]
    SameGroup(String),
    /// More than identifiers or tables hold.
    #[error("{count} {what}, at most {most} are supported: leave some out")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many.
        count: usize,
        /// The most.
        most: usize,
    },
}

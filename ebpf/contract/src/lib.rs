//! What the XDP program and user space agree on: map names, keys and values.
//!
//! One instance of the program, with its own maps, runs on each port. Multi-byte fields are in host
//! byte order unless a field says otherwise; padding is explicit and zero, since the kernel hashes
//! whole keys.
#![no_std]

/// The program's name in the object.
pub const PROGRAM: &str = "steer";

/// Map names in the object.
pub mod map {
    /// `XSKMAP`: RX queue index -> socket.
    pub const SOCKETS: &str = "SOCKETS";
    /// `LPM_TRIE`: IPv4 destination -> [`super::Steering`].
    pub const STEERING_V4: &str = "STEERING_V4";
    /// `LPM_TRIE`: IPv6 destination -> [`super::Steering`].
    pub const STEERING_V6: &str = "STEERING_V6";
    /// `HASH`: [`super::InterfaceKey`] -> [`super::Interface`].
    pub const INTERFACES: &str = "INTERFACES";
    /// `HASH`: [`super::Listener`] -> `u8` (present = ours).
    pub const LISTENERS: &str = "LISTENERS";
    /// `PERCPU_ARRAY`: [`super::Verdict`] as index -> packets, `u64`.
    pub const VERDICTS: &str = "VERDICTS";
}

/// Slots of the socket map: the highest number of RX queues on one port.
pub const MAX_QUEUES: u32 = 64;
/// Entries of each steering trie.
pub const MAX_PREFIXES: u32 = 65_536;
/// Entries of the interface map.
pub const MAX_INTERFACES: u32 = 1_024;
/// Entries of the listener map (addresses x ports).
pub const MAX_LISTENERS: u32 = 4_096;

/// A layer-3 interface as seen from the wire: VLAN tags and destination MAC.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InterfaceKey {
    /// Outer VLAN id, 0 when the frame is untagged.
    pub outer_vlan: u16,
    /// Inner VLAN id, 0 when there are fewer than two tags.
    pub inner_vlan: u16,
    /// Destination MAC address of the frame.
    pub mac: [u8; 6],
    /// Zero.
    pub padding: [u8; 2],
}

/// What user space says of a layer-3 interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// The interface's index in the kernel (bond0, bond0.100, eth1, ...).
    pub ifindex: u32,
    /// Largest IP packet that may be steered from here into a tunnel, in bytes.
    pub tunnel_mtu: u32,
}

/// A local address and UDP port on which WireGuard packets arrive.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Listener {
    /// IPv6 address, or IPv4 as `::ffff:a.b.c.d`, in network byte order.
    pub address: [u8; 16],
    /// UDP port, in network byte order.
    pub port_be: u16,
    /// Zero.
    pub padding: [u8; 2],
}

/// What a steering trie says of a destination.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// The kernel handles it (local, more specific route, broadcast, multicast).
    Pass = 0,
    /// It belongs into a tunnel: redirect to the socket of the RX queue.
    Tunnel = 1,
}

macro_rules! verdicts {
    ($($(#[$doc:meta])* $name:ident = $label:literal),+ $(,)?) => {
        /// What the program decided for a frame; also the index of its counter.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Verdict { $($(#[$doc])* $name),+ }

        impl Verdict {
            /// Every verdict, in counter order.
            pub const ALL: &[Verdict] = &[$(Verdict::$name),+];

            /// The verdict's name in tables and metrics.
            pub const fn label(self) -> &'static str {
                match self { $(Verdict::$name => $label),+ }
            }
        }
    };
}

verdicts! {
    /// Redirected: a WireGuard data message for us.
    RedirectWireGuard = "redirect_wireguard",
    /// Redirected: a LAN packet for a tunnel.
    RedirectLan = "redirect_lan",
    /// Passed: no socket is bound to the frame's RX queue.
    PassNoSocket = "pass_no_socket",
    /// Passed: not IPv4 or IPv6 (ARP, LACP, LLDP, ...), or more than two VLAN tags.
    PassNotIp = "pass_not_ip",
    /// Passed: the frame ends inside a header, or its lengths disagree.
    PassTruncated = "pass_truncated",
    /// Passed: its tags and destination MAC are not those of a known interface.
    PassForeign = "pass_foreign",
    /// Passed: WireGuard handshake, cookie or malformed message; the kernel's sockets get it.
    PassControl = "pass_control",
    /// Passed: a fragment addressed to one of our listeners' addresses.
    PassFragment = "pass_fragment",
    /// Passed: the destination is not steered.
    PassUnsteered = "pass_unsteered",
    /// Passed: steered destination, but too large for the tunnel.
    PassTooBig = "pass_too_big",
    /// Passed: steered destination, but TTL or hop limit is at most one.
    PassTtl = "pass_ttl",
    /// Passed: steered destination, but with IPv4 options or IPv6 extension headers.
    PassOptions = "pass_options",
}

#[cfg(feature = "user")]
mod user {
    #![allow(unsafe_code)]
    // SAFETY: `repr(C)`, only integers and byte arrays, padding explicit; any bit pattern is valid.
    unsafe impl aya::Pod for super::InterfaceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Interface {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Listener {}
}

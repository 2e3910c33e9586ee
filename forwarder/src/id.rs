//! Small indices into the tables that the threads share. Each names one thing for as long as that is there.

/// Peer ids are smaller than this.
pub const MAX_PEER_IDS: usize = 1 << 16;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident($repr:ty)),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
        pub struct $name(pub $repr);

        impl $name {
            /// The position as a slice index.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

ids! {
    /// A tunnel: one configuration file with its private key and listen port.
    TunnelId(u16),
    /// A peer of one tunnel. The same public key in two files is two peers.
    PeerId(u32),
    /// A group: the peers that carry the same prefixes in parallel.
    GroupId(u16),
    /// A hop: an interface, or a router on it, that routes lead to.
    HopId(u32),
    /// A port: a device with AF_XDP sockets (a bond's slave or a plain interface).
    PortId(u16),
    /// A layer-3 interface of the kernel (bond0, bond0.100, eth1), by ifindex.
    InterfaceId(u32),
}

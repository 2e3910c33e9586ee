//! What differs between two configurations; pure.

use std::collections::{HashMap, HashSet};
use std::fmt;

use crate::config::{PeerSection, TunnelConfig};
use crate::wireguard::PublicKey;

/// One difference. Displayed, it is a line for the log, without secrets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The tunnel's name.
    pub tunnel: String,
    /// What is different about it.
    pub what: What,
}

/// What is different about a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It is new, with all its peers.
    Added,
    /// It is no more.
    Removed,
    /// `PrivateKey`.
    PrivateKey,
    /// `ListenPort`.
    ListenPort(u16),
    /// `FwMark`.
    FwMark(u32),
    /// `Address`, `MTU` or `Table`.
    Interface,
    /// Something about a peer.
    Peer {
        /// The peer.
        key: PublicKey,
        /// Its label.
        label: String,
        /// What it is.
        what: PeerWhat,
    },
}

/// What is different about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerWhat {
    /// It is new.
    Added,
    /// It is no more.
    Removed,
    /// `PresharedKey`.
    PresharedKey,
    /// `Endpoint`.
    Endpoint,
    /// `PersistentKeepalive`.
    PersistentKeepalive,
    /// `AllowedIPs`.
    AllowedIps,
}

/// From `old` to `new`: what goes first, then the tunnels of `new` in their order. A tunnel is known by its
/// name, a peer by its tunnel and public key.
pub fn changes(old: &[TunnelConfig], new: &[TunnelConfig]) -> Vec<Change> {
    let is_gone = |tunnel: &&TunnelConfig| !new.iter().any(|n| n.name == tunnel.name);
    let gone = |tunnel: &TunnelConfig| Change { tunnel: tunnel.name.clone(), what: What::Removed };
    let mut changes: Vec<_> = old.iter().filter(is_gone).map(gone).collect();
    for tunnel in new {
        let whats = match old.iter().find(|o| o.name == tunnel.name) {
            Some(old) => of_tunnel(old, tunnel),
            None => vec![What::Added],
        };
        changes.extend(whats.into_iter().map(|what| Change { tunnel: tunnel.name.clone(), what }));
    }
    changes
}

fn of_tunnel(old: &TunnelConfig, new: &TunnelConfig) -> Vec<What> {
    let interface = |t: &TunnelConfig| (t.addresses.clone(), t.mtu, t.table);
    let whats = [
        (old.private_key.0 != new.private_key.0).then_some(What::PrivateKey),
        (old.listen_port != new.listen_port).then_some(What::ListenPort(new.listen_port)),
        (old.fwmark != new.fwmark).then_some(What::FwMark(new.fwmark)),
        (interface(old) != interface(new)).then_some(What::Interface),
    ];
    let mut whats: Vec<_> = whats.into_iter().flatten().collect();
    let of_peer = |peer: &PeerSection, what| What::Peer { key: peer.public_key, label: peer.label(), what };
    let known: HashMap<PublicKey, &PeerSection> = old.peers.iter().map(|p| (p.public_key, p)).collect();
    let stays: HashSet<PublicKey> = new.peers.iter().map(|peer| peer.public_key).collect();
    let is_gone = |peer: &&PeerSection| !stays.contains(&peer.public_key);
    whats.extend(old.peers.iter().filter(is_gone).map(|peer| of_peer(peer, PeerWhat::Removed)));
    for peer in &new.peers {
        let known = known.get(&peer.public_key);
        let differs = known.map_or_else(|| vec![PeerWhat::Added], |known| of_section(known, peer));
        whats.extend(differs.into_iter().map(|what| of_peer(peer, what)));
    }
    whats
}

fn of_section(old: &PeerSection, new: &PeerSection) -> Vec<PeerWhat> {
    let sorted = |peer: &PeerSection| {
        let mut prefixes = peer.allowed_ips.clone();
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes
    };
    let endpoint = |peer: &PeerSection| (peer.endpoint_name.clone(), peer.endpoint);
    let whats = [
        (*old.preshared_key != *new.preshared_key).then_some(PeerWhat::PresharedKey),
        (endpoint(old) != endpoint(new)).then_some(PeerWhat::Endpoint),
        (old.persistent_keepalive != new.persistent_keepalive).then_some(PeerWhat::PersistentKeepalive),
        (sorted(old) != sorted(new)).then_some(PeerWhat::AllowedIps),
    ];
    whats.into_iter().flatten().collect()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.tunnel)?;
        match &self.what {
            What::Added => f.write_str(": added"),
            What::Removed => f.write_str(": removed"),
            What::PrivateKey => f.write_str(": another private key, its sessions end"),
            What::ListenPort(0) => f.write_str(": listens on a port that the kernel chooses"),
            What::ListenPort(port) => write!(f, ": listens on port {port}"),
            What::FwMark(mark) => write!(f, ": fwmark {mark:#x}"),
            What::Interface => f.write_str(": another Address, MTU or Table"),
            What::Peer { label, what, .. } => {
                let what = match what {
                    PeerWhat::Added => "added",
                    PeerWhat::Removed => "removed",
                    PeerWhat::PresharedKey => "another preshared key, from the next handshake on",
                    PeerWhat::Endpoint => "another endpoint",
                    PeerWhat::PersistentKeepalive => "another persistent keepalive",
                    PeerWhat::AllowedIps => "other allowed IPs",
                };
                write!(f, "/{label}: {what}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::wg_quick;

    const KEYS: [&str; 3] = [
        "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
        "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
        "gN65BkIKy1eCE9pP1wdc8ROUtkHLF2PfAqYdyYBz6EA=",
    ];
    const INTERFACE: &str = "PrivateKey = 6AgToMKAU6mHoSgHQnIUKXvMhZ5vwcNuSj1T3KHfZ1Q=\n";

    fn tunnel(name: &str, interface: &str, peers: &[(usize, &str)]) -> TunnelConfig {
        let peer = |(key, lines): &(usize, &str)| {
            format!("[Peer]\n# friendly_name = p{key}\nPublicKey = {}\n{lines}", KEYS[*key])
        };
        let text = format!("[Interface]\n{interface}{}", peers.iter().map(peer).collect::<String>());
        wg_quick::parse(name, Path::new("wg.conf"), text.as_bytes()).unwrap()
    }

    fn lines(old: &[TunnelConfig], new: &[TunnelConfig]) -> Vec<String> {
        changes(old, new).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn nothing_differs_between_equals_in_any_order() {
        let peers = [(0, "AllowedIPs = 10.1.0.0/16, 10.2.0.0/16\n"), (1, "Endpoint = a.example:1\n")];
        let old = [tunnel("wg0", INTERFACE, &peers), tunnel("wg1", INTERFACE, &[])];
        let peers = [(1, "Endpoint = a.example:1\n"), (0, "AllowedIPs = 10.2.0.0/16, 10.1.0.0/16\n")];
        let new = [tunnel("wg1", INTERFACE, &[]), tunnel("wg0", INTERFACE, &peers)];
        assert!(changes(&old, &new).is_empty());
    }

    #[test]
    fn tunnels_and_peers_come_and_go() {
        let old = [tunnel("wg0", INTERFACE, &[]), tunnel("wg1", INTERFACE, &[(0, ""), (1, "")])];
        let new = [tunnel("wg2", INTERFACE, &[(0, "")]), tunnel("wg1", INTERFACE, &[(1, ""), (2, "")])];
        assert_eq!(lines(&old, &new), ["wg0: removed", "wg2: added", "wg1/p0: removed", "wg1/p2: added"]);
    }

    #[test]
    fn every_key_is_compared() {
        let old =
            [tunnel("wg0", &format!("{INTERFACE}ListenPort = 1\n"), &[(0, "Endpoint = 192.0.2.1:1\n")])];
        let interface = "PrivateKey = aPfURS0PzrdGMfjYIgEUhYqWbqHVZ3dRXqiXrQPCj2k=\nFwMark = 7\nMTU = 1300\n";
        let peer = "Endpoint = 192.0.2.1:2\nPersistentKeepalive = 5\nAllowedIPs = 10.0.0.0/8\n\
                    PresharedKey = aPfURS0PzrdGMfjYIgEUhYqWbqHVZ3dRXqiXrQPCj2k=\n";
        assert_eq!(
            lines(&old, &[tunnel("wg0", interface, &[(0, peer)])]),
            [
                "wg0: another private key, its sessions end",
                "wg0: listens on a port that the kernel chooses",
                "wg0: fwmark 0x7",
                "wg0: another Address, MTU or Table",
                "wg0/p0: another preshared key, from the next handshake on",
                "wg0/p0: another endpoint",
                "wg0/p0: another persistent keepalive",
                "wg0/p0: other allowed IPs",
            ]
        );
    }

    /// An address that was found for a name is no difference by itself, but another name is.
    #[test]
    fn endpoints_by_name_are_compared_by_name_and_address() {
        let with = |name: &str| tunnel("wg0", INTERFACE, &[(0, &format!("Endpoint = {name}:1\n"))]);
        let (mut old, mut new) = (with("a.example"), with("a.example"));
        old.peers[0].endpoint = Some("192.0.2.1:1".parse().unwrap());
        new.peers[0].endpoint = old.peers[0].endpoint;
        assert!(changes(&[old], &[new]).is_empty());
        assert_eq!(lines(&[with("a.example")], &[with("b.example")]), ["wg0/p0: another endpoint"]);
    }
}

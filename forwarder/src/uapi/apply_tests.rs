use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::Table;

/// A tunnel without peers.
pub fn tunnel(private_key: [u8; 32]) -> TunnelConfig {
    TunnelConfig {
        name: "wg0".to_owned(),
        file: "wg0.conf".into(),
        private_key: PrivateKey(private_key),
        listen_port: 51820,
        listen_port_line: 3,
        fwmark: 0,
        addresses: Vec::new(),
        mtu: None,
        table: Table::Auto,
        peers: Vec::new(),
        ignored: Vec::new(),
    }
}

const A: PublicKey = PublicKey([0xa; 32]);
const B: PublicKey = PublicKey([0xb; 32]);
const PRIVATE: [u8; 32] = [0x48; 32];

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn add(public_key: PublicKey, prefixes: &[&str]) -> PeerChange {
    let allowed_ips = prefixes.iter().map(|prefix| PrefixChange::Add(net(prefix))).collect();
    PeerChange { allowed_ips, ..PeerChange::new(public_key) }
}

fn peers(peers: Vec<PeerChange>) -> Set {
    Set { peers, ..Set::default() }
}

/// Two peers, one of them with a name.
fn two_peers() -> TunnelConfig {
    let mut tunnel = tunnel(PRIVATE);
    apply(&peers(vec![add(A, &["10.1.0.0/16"]), add(B, &["10.2.0.0/16", "fd00::/64"])]), &mut tunnel);
    tunnel.peers[0].friendly_name = Some("anna".to_owned());
    tunnel.peers[0].line = 7;
    tunnel
}

/// Each peer's prefixes.
fn prefixes(tunnel: &TunnelConfig) -> Vec<(PublicKey, Vec<String>)> {
    let text = |peer: &PeerSection| peer.allowed_ips.iter().map(ToString::to_string).collect();
    tunnel.peers.iter().map(|peer| (peer.public_key, text(peer))).collect()
}

#[test]
fn a_prefix_moves_to_the_peer_that_asks_for_it() {
    let mut tunnel = two_peers();
    apply(&peers(vec![add(A, &["10.2.0.0/16"])]), &mut tunnel);
    let expected = [(A, vec!["10.1.0.0/16".into(), "10.2.0.0/16".into()]), (B, vec!["fd00::/64".to_owned()])];
    assert_eq!(prefixes(&tunnel), expected);
    // A longer one of another peer stands beside it.
    apply(&peers(vec![add(B, &["10.2.3.0/24"])]), &mut tunnel);
    assert_eq!(tunnel.peers[0].allowed_ips, [net("10.1.0.0/16"), net("10.2.0.0/16")]);
}

#[test]
fn a_prefix_is_taken_from_its_owner_only() {
    let mut tunnel = two_peers();
    let take = |from| PeerChange {
        allowed_ips: vec![PrefixChange::Remove(net("10.2.0.0/16"))],
        ..PeerChange::new(from)
    };
    apply(&peers(vec![take(A)]), &mut tunnel);
    assert_eq!(tunnel.peers[1].allowed_ips, [net("10.2.0.0/16"), net("fd00::/64")]);
    apply(&peers(vec![take(B)]), &mut tunnel);
    assert_eq!(tunnel.peers[1].allowed_ips, [net("fd00::/64")]);
}

#[test]
fn prefixes_are_replaced() {
    let mut tunnel = two_peers();
    apply(&peers(vec![PeerChange { replace_allowed_ips: true, ..add(B, &["10.9.0.0/16"]) }]), &mut tunnel);
    assert_eq!(tunnel.peers[1].allowed_ips, [net("10.9.0.0/16")]);
    apply(&peers(vec![PeerChange { replace_allowed_ips: true, ..add(B, &[]) }]), &mut tunnel);
    assert_eq!(tunnel.peers[1].allowed_ips, []);
}

#[test]
fn peers_go_and_only_known_ones_are_updated() {
    let mut tunnel = two_peers();
    let unknown = PublicKey([0xc; 32]);
    let update = |key| PeerChange { update_only: true, ..add(key, &["10.3.0.0/16"]) };
    let remove = |key| PeerChange { remove: true, ..add(key, &["10.4.0.0/16"]) };
    apply(&peers(vec![update(unknown), remove(unknown), update(A), remove(B)]), &mut tunnel);
    assert_eq!(prefixes(&tunnel), [(A, vec!["10.1.0.0/16".into(), "10.3.0.0/16".into()])]);
}

/// `wg setconf`: what is not said is not kept, but it is the same peer with the same name in forwarder.toml.
#[test]
fn replaced_peers_begin_anew_under_their_name() {
    let mut tunnel = two_peers();
    let endpoint = Some("192.0.2.1:5".parse().unwrap());
    let key = Some(Box::new(Zeroizing::new([9; 32])));
    let keepalive = Some(Duration::from_secs(25));
    let full =
        PeerChange { preshared_key: key, endpoint, persistent_keepalive: keepalive, ..PeerChange::new(A) };
    apply(&peers(vec![full]), &mut tunnel);
    let peer = &tunnel.peers[0];
    assert_eq!(
        (*peer.preshared_key, peer.endpoint, peer.persistent_keepalive),
        ([9; 32], endpoint, keepalive)
    );

    apply(&Set { replace_peers: true, ..peers(vec![add(A, &[])]) }, &mut tunnel);
    let [peer] = &tunnel.peers[..] else { panic!("one peer") };
    assert_eq!((peer.friendly_name.as_deref(), peer.line), (Some("anna"), 7));
    assert_eq!((*peer.preshared_key, peer.endpoint, peer.persistent_keepalive), ([0; 32], None, None));
    assert_eq!(peer.allowed_ips, []);
    apply(&Set { replace_peers: true, ..Set::default() }, &mut tunnel);
    assert!(tunnel.peers.is_empty());
}

#[test]
fn keepalives_and_preshared_keys_are_switched_off_by_zero() {
    let mut tunnel = two_peers();
    let change = |seconds, byte| PeerChange {
        persistent_keepalive: Some(Duration::from_secs(seconds)),
        preshared_key: Some(Box::new(Zeroizing::new([byte; 32]))),
        ..PeerChange::new(A)
    };
    apply(&peers(vec![change(25, 9)]), &mut tunnel);
    apply(&peers(vec![change(0, 0)]), &mut tunnel);
    assert_eq!((tunnel.peers[0].persistent_keepalive, *tunnel.peers[0].preshared_key), (None, [0; 32]));
}

#[test]
fn a_peer_with_our_own_key_is_passed_over() {
    let mut tunnel = two_peers();
    let own = PrivateKey(PRIVATE).public();
    apply(&peers(vec![add(own, &["10.1.0.0/16"])]), &mut tunnel);
    assert_eq!(tunnel.peers.len(), 2);
    assert_eq!(tunnel.peers[0].allowed_ips, [net("10.1.0.0/16")], "it takes nothing from others");
}

#[test]
fn a_new_private_key_removes_the_peer_of_that_key() {
    let mut tunnel = two_peers();
    let other = [0x50; 32];
    apply(&peers(vec![add(PrivateKey(other).public(), &[])]), &mut tunnel);
    assert_eq!(tunnel.peers.len(), 3);
    let set = Set { private_key: Some(PrivateKey(other)), ..Set::default() };
    apply(&set, &mut tunnel);
    assert_eq!((tunnel.peers.len(), tunnel.private_key.0), (2, other));
}

#[test]
fn the_interface_changes() {
    let mut tunnel = two_peers();
    let none = Some(PrivateKey([0; 32]));
    apply(&Set { private_key: none, listen_port: Some(0), fwmark: Some(7), ..Set::default() }, &mut tunnel);
    let found = (tunnel.private_key.0, tunnel.listen_port, tunnel.listen_port_line, tunnel.fwmark);
    assert_eq!(found, ([0; 32], 0, 0, 7));
    assert_eq!(tunnel.peers.len(), 2);
}

/// All of them move. Nothing fails where work grows with their square, but the test takes ten seconds, not a tenth.
#[test]
fn many_peers_and_prefixes_are_no_burden() {
    let key = |peer: u16| PublicKey([[1; 30].as_slice(), &peer.to_be_bytes()].concat().try_into().unwrap());
    let prefix = |n: u16| IpNet::new([10, 0, n.to_be_bytes()[0], n.to_be_bytes()[1]].into(), 32).unwrap();
    let ask = |peer, n| PeerChange {
        allowed_ips: vec![PrefixChange::Add(prefix(n))],
        ..PeerChange::new(key(peer))
    };
    let mut tunnel = tunnel(PRIVATE);
    apply(&peers((0..30_000).map(|n| ask(n, n)).collect()), &mut tunnel);
    apply(&peers((0..30_000).map(|n| ask(29_999 - n, n)).collect()), &mut tunnel);
    assert!(tunnel.peers.iter().zip(0..).all(|(peer, n)| peer.allowed_ips == [prefix(29_999 - n)]));
    let remove = |n| PeerChange { remove: true, ..PeerChange::new(key(n)) };
    apply(&peers((0..30_000).map(remove).collect()), &mut tunnel);
    assert!(tunnel.peers.is_empty());
}

/// The kernel's tables: attributes by peer, and one owner by prefix.
#[derive(Debug, Default, PartialEq, Eq)]
struct Model {
    peers: BTreeMap<PublicKey, Attributes>,
    owners: BTreeMap<IpNet, PublicKey>,
}

type Attributes = ([u8; 32], Option<SocketAddr>, Option<Duration>);

impl Model {
    fn of(tunnel: &TunnelConfig) -> Self {
        let mut this = Self::default();
        for peer in &tunnel.peers {
            let attributes = (*peer.preshared_key, peer.endpoint, peer.persistent_keepalive);
            assert!(this.peers.insert(peer.public_key, attributes).is_none(), "a peer is there twice");
            for prefix in &peer.allowed_ips {
                assert!(this.owners.insert(*prefix, peer.public_key).is_none(), "{prefix} has two owners");
            }
        }
        this
    }

    fn remove(&mut self, key: PublicKey) {
        self.peers.remove(&key);
        self.owners.retain(|_, owner| *owner != key);
    }

    fn apply(&mut self, set: &Set, own: Option<PublicKey>) {
        if set.replace_peers {
            *self = Self::default();
        }
        if let Some(key) = own {
            self.remove(key);
        }
        for change in &set.peers {
            let key = change.public_key;
            let absent = !self.peers.contains_key(&key);
            if change.remove {
                self.remove(key);
            } else if Some(key) != own && !(absent && change.update_only) {
                self.change(change);
            }
        }
    }

    fn change(&mut self, change: &PeerChange) {
        let key = change.public_key;
        let (preshared_key, endpoint, keepalive) = self.peers.entry(key).or_default();
        if let Some(new) = &change.preshared_key {
            *preshared_key = ***new;
        }
        *endpoint = change.endpoint.or(*endpoint);
        match change.persistent_keepalive {
            None => {}
            Some(Duration::ZERO) => *keepalive = None,
            interval => *keepalive = interval,
        }
        if change.replace_allowed_ips {
            self.owners.retain(|_, owner| *owner != key);
        }
        for prefix in &change.allowed_ips {
            match prefix {
                PrefixChange::Add(prefix) => _ = self.owners.insert(*prefix, key),
                PrefixChange::Remove(prefix) if self.owners.get(prefix) == Some(&key) => {
                    self.owners.remove(prefix);
                }
                PrefixChange::Remove(_) => {}
            }
        }
    }
}

/// Few keys and few prefixes, so that they meet; one of the keys is that of a private key below.
fn peer_change() -> impl Strategy<Value = PeerChange> {
    let key =
        prop_oneof![(1_u8..4).prop_map(|byte| PublicKey([byte; 32])), Just(PrivateKey(PRIVATE).public()),];
    let prefix = (0_u8..4, any::<bool>()).prop_map(|(byte, add)| {
        let prefix = net(&format!("10.{byte}.0.0/16"));
        if add { PrefixChange::Add(prefix) } else { PrefixChange::Remove(prefix) }
    });
    let attributes = (
        proptest::option::of(0_u8..3),
        proptest::option::of(any::<u16>()),
        proptest::option::of(0_u64..3),
        proptest::collection::vec(prefix, 0..4),
    );
    let switches = (proptest::bool::weighted(0.2), proptest::bool::weighted(0.2), any::<bool>());
    (key, attributes, switches).prop_map(|(public_key, attributes, switches)| PeerChange {
        public_key,
        remove: switches.0,
        update_only: switches.1,
        preshared_key: attributes.0.map(|byte| Box::new(Zeroizing::new([byte; 32]))),
        endpoint: attributes.1.map(|port| SocketAddr::from(([192, 0, 2, 1], port))),
        persistent_keepalive: attributes.2.map(Duration::from_secs),
        replace_allowed_ips: switches.2,
        allowed_ips: attributes.3,
    })
}

fn request() -> impl Strategy<Value = Set> {
    let key = proptest::option::of(prop_oneof![Just(PRIVATE), Just([0; 32]), Just([0x50; 32])]);
    let peers = proptest::collection::vec(peer_change(), 0..5);
    (key, proptest::bool::weighted(0.2), peers).prop_map(|(key, replace_peers, peers)| Set {
        private_key: key.map(PrivateKey),
        replace_peers,
        peers,
        ..Set::default()
    })
}

proptest! {
    #[test]
    fn requests_change_what_the_kernel_would_change(sets in proptest::collection::vec(request(), 1..6)) {
        let mut tunnel = tunnel([0x50; 32]);
        let mut model = Model::default();
        for set in &sets {
            apply(set, &mut tunnel);
            model.apply(set, public(&tunnel.private_key));
            prop_assert_eq!(&Model::of(&tunnel), &model);
        }
    }
}

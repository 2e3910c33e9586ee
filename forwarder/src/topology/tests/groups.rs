//! From allowed-IPs to groups.

use super::*;
use crate::config::{NamedGroup, key};

/// The groups as (prefixes, peers).
fn groups(plan: &Topology) -> Vec<(Vec<String>, Vec<u32>)> {
    let text = |g: &GroupPlan| g.prefixes.iter().map(ToString::to_string).collect();
    plan.groups.iter().map(|g| (text(g), g.peers.iter().map(|p| p.0).collect())).collect()
}

fn expected(groups: &[(&[&str], &[u32])]) -> Vec<(Vec<String>, Vec<u32>)> {
    groups.iter().map(|(p, peers)| (p.iter().map(ToString::to_string).collect(), peers.to_vec())).collect()
}

fn group(name: &str, peers: &[&str]) -> NamedGroup {
    NamedGroup { name: name.to_owned(), peers: peers.iter().map(ToString::to_string).collect() }
}

/// Two tunnels whose peers, berlin and rome, carry one prefix under different keys.
fn two_keys() -> Machine {
    Machine::bonded()
        .tunnel(tunnel("wg0", vec![named("berlin", peer(1, &["10.2.0.0/16"]))]))
        .tunnel(tunnel("wg1", vec![named("rome", peer(2, &["10.2.0.0/16"]))]))
}

#[test]
fn one_prefix_of_one_key_is_shared_in_the_order_of_the_tunnels() {
    let plan = recipe().plan();
    assert_eq!(
        groups(&plan),
        expected(&[(&["10.2.0.0/16"], &[0, 1]), (&["10.9.0.2/32"], &[0]), (&["10.9.1.2/32"], &[1]),])
    );
    assert_eq!(plan.peers[&PeerId(0)].groups, [GroupId(0), GroupId(1)]);
    assert_eq!(plan.peers[&PeerId(1)].groups, [GroupId(0), GroupId(2)]);
    let tunnels: Vec<_> = plan.tunnels.iter().map(|t| (t.name.as_str(), &t.peers[..])).collect();
    assert_eq!(tunnels, [("wg0", &[PeerId(0)][..]), ("wg1", &[PeerId(1)])]);
    assert!(plan.remarks.is_empty(), "{:?}", plan.remarks);
}

#[test]
fn prefixes_with_the_same_peers_are_one_group() {
    let both = ["fd00:2::/64", "10.2.0.0/16", "10.3.0.0/16", "10.2.0.0/16"];
    let plan = Machine::bonded()
        .tunnel(tunnel("wg0", vec![peer(1, &both)]))
        .tunnel(tunnel("wg1", vec![peer(1, &both)]))
        .plan();
    assert_eq!(groups(&plan), expected(&[(&["10.2.0.0/16", "10.3.0.0/16", "fd00:2::/64"], &[0, 1])]));
}

#[test]
fn one_prefix_of_different_keys_is_an_error_that_names_both() {
    let mut machine = two_keys();
    assert_eq!(
        machine.errors(),
        [
            "10.2.0.0/16: carried by different public keys (wg0/berlin, wg1/rome): name them in a [[group]] of \
         forwarder.toml, or correct AllowedIPs"
        ]
    );
    machine.tunnels[1].peers[0].friendly_name = None;
    let start = &key::encode(&[2; 32])[..8];
    assert!(machine.errors()[0].contains(&format!("(wg0/berlin, wg1/{start}...)")));
}

#[test]
fn a_named_group_may_share_a_prefix_however_it_names_its_peers() {
    let rome = format!("wg1/{}", *key::encode(&[2; 32]));
    for peers in [["wg0", "wg1"], ["wg1/rome", "wg0/berlin"], ["wg0", &rome]] {
        let mut machine = two_keys();
        machine.settings.groups = vec![group("b", &peers)];
        let plan = machine.plan();
        assert_eq!(groups(&plan), expected(&[(&["10.2.0.0/16"], &[0, 1])]), "{peers:?}");
        assert!(plan.remarks.is_empty(), "{:?}", plan.remarks);
    }
}

#[test]
fn a_public_key_with_a_slash_is_found() {
    let mut machine = two_keys();
    machine.tunnels[1].peers[0].public_key = PublicKey([0xff; 32]);
    let rome = format!("wg1/{}", *key::encode(&[0xff; 32]));
    assert!(rome.matches('/').count() > 1);
    machine.settings.groups = vec![group("b", &["wg0", &rome])];
    assert_eq!(groups(&machine.plan()), expected(&[(&["10.2.0.0/16"], &[0, 1])]));
}

#[test]
fn a_named_group_speaks_only_for_its_members() {
    let mut machine = two_keys().tunnel(tunnel("wg2", vec![peer(3, &["10.2.0.0/16"])]));
    machine.settings.groups = vec![group("b", &["wg0", "wg1"])];
    let errors = machine.compute().unwrap_err();
    assert!(matches!(&errors[..], [TopologyError::DifferentKeys { peers, .. }] if peers.contains("wg2/")));
}

#[test]
fn members_that_are_none_or_several_and_doubled_names_are_errors() {
    let missing = |peer: &str| {
        format!(
            "group b: there is no peer '{peer}': write TUNNEL, or TUNNEL/PEER with its name or public key"
        )
    };
    for (members, error) in [
        (["wg0", "wg7"], missing("wg7")),
        (["wg0", "wg1/berlin"], missing("wg1/berlin")),
        (["wg0", "wg1/"], missing("wg1/")),
        (["wg0", "wg3"], "group b: tunnel 'wg3' has 2 peers: write wg3/PEER".to_owned()),
        (["wg3/oslo", "wg3/oslo"], "group b: tunnel 'wg3' has 2 peers: write wg3/PEER".to_owned()),
    ] {
        let twice = vec![named("oslo", peer(4, &["10.4.0.0/16"])), named("oslo", peer(5, &["10.5.0.0/16"]))];
        let mut machine = two_keys().tunnel(tunnel("wg3", twice));
        machine.settings.groups = vec![group("b", &members), group("a", &["wg0", "wg1"])];
        assert!(machine.errors().contains(&error), "{members:?}: {:?}", machine.errors());
    }
    let mut machine = two_keys();
    machine.settings.groups = vec![group("b", &["wg0", "wg1"]), group("b", &["wg0", "wg1"])];
    assert_eq!(machine.errors(), ["group b: named twice in forwarder.toml: keep one"]);
}

#[test]
fn a_named_group_without_a_common_prefix_is_remarked() {
    let mut machine = two_keys();
    machine.tunnels[1].peers[0].allowed_ips = vec![net("10.3.0.0/16")];
    machine.settings.groups = vec![group("b", &["wg0", "wg1"])];
    assert_eq!(machine.plan().remarks, ["group b: its peers have no prefix in common"]);
}

#[test]
fn nested_prefixes_are_groups_of_their_own_and_the_most_specific_has_an_address() {
    let plan = Machine::bonded()
        .tunnel(tunnel("wg0", vec![peer(1, &["10.0.0.0/8", "::/0"])]))
        .tunnel(tunnel("wg1", vec![peer(2, &["10.2.0.0/16", "2001:db8::/32"])]))
        .tunnel(tunnel("wg2", vec![peer(3, &["10.2.3.0/24"])]))
        .plan();
    let carriers = |address: &str| {
        let group = plan.group_of(address.parse().unwrap())?;
        Some(&plan.groups[group.index()].peers[..])
    };
    for (address, peer) in [
        ("10.9.0.1", Some(0)),
        ("10.2.0.1", Some(1)),
        ("10.2.3.1", Some(2)),
        ("10.2.4.1", Some(1)),
        ("2001:db8::1", Some(1)),
        ("2001:db9::1", Some(0)),
        ("192.0.2.1", None),
    ] {
        assert_eq!(carriers(address), peer.map(|p| [PeerId(p)]).as_ref().map(|p| &p[..]), "{address}");
    }
}

#[test]
fn within_a_tunnel_the_later_peer_gets_the_prefix() {
    let peers = vec![named("old", peer(1, &["10.2.0.0/16"])), named("new", peer(2, &["10.2.0.0/16"]))];
    let plan = Machine::bonded().tunnel(tunnel("wg0", peers)).plan();
    assert_eq!(groups(&plan), expected(&[(&["10.2.0.0/16"], &[1])]));
    assert_eq!(
        plan.remarks,
        ["10.2.0.0/16: listed by wg0/old and again by wg0/new, which gets it", "wg0/old carries no prefix",]
    );
    let sections: Vec<_> = plan.peers.values().map(|p| (p.tunnel, p.section)).collect();
    assert_eq!(sections, [(TunnelId(0), 0), (TunnelId(0), 1)]);
}

#[test]
fn what_the_tables_cannot_hold_is_refused() {
    let most = 65_535;
    let prefixes =
        |count: u32| (0..count).map(|i| IpNet::new_assert((0x0a00_0000 + i).to_be_bytes().into(), 32));
    for (count, refused) in [(most, false), (most + 1, true)] {
        let mut machine = Machine::bonded().tunnel(tunnel("wg0", vec![peer(1, &[])]));
        machine.tunnels[0].peers[0].allowed_ips = prefixes(count).collect();
        let (count, most) = (count as usize, most as usize);
        let error = TopologyError::TooMany { what: "prefixes", count, most };
        assert_eq!(machine.compute().err(), refused.then(|| vec![error]), "{count}");
    }
}

/// wg-quick's rule for a /0 lets out what carries one mark.
#[test]
fn default_routes_share_one_mark() {
    let mut machine = recipe();
    for config in &mut machine.tunnels {
        config.peers[0].allowed_ips = vec![net("0.0.0.0/0")];
    }
    assert!(machine.compute().is_ok());
    machine.tunnels[1].fwmark = 7;
    let error = TopologyError::Marks { tunnel: "wg0".to_owned(), other: "wg1".to_owned() };
    assert_eq!(machine.compute().err(), Some(vec![error]));
}

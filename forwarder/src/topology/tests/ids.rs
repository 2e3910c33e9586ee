use super::*;

fn configs(tunnels: &[(&str, &[u8])]) -> Vec<TunnelConfig> {
    let peers = |keys: &[u8]| keys.iter().map(|key| peer(*key, &[])).collect();
    tunnels.iter().map(|(name, keys)| tunnel(name, peers(keys))).collect()
}

fn after(now: &Topology, old: &[TunnelConfig], new: &[TunnelConfig]) -> Topology {
    now.with_tunnels(old, new, &Settings::default(), &View::default()).unwrap()
}

fn ids(plan: &Topology) -> Vec<(u16, Vec<u32>)> {
    plan.tunnels.iter().map(|t| (t.id.0, t.peers.iter().map(|p| p.0).collect())).collect()
}

#[test]
fn what_goes_on_keeps_its_id_in_any_order() {
    let old = configs(&[("wg0", &[1, 2]), ("wg1", &[1])]);
    let now = after(&Topology::default(), &[], &old);
    assert_eq!(ids(&now), [(0, vec![0, 1]), (1, vec![2])]);
    let new = configs(&[("wg1", &[1]), ("wg0", &[2, 1])]);
    let next = after(&now, &old, &new);
    assert_eq!(ids(&next), [(1, vec![2]), (0, vec![1, 0])]);
    assert_eq!(next.peers[&PeerId(1)], PeerPlan { tunnel: TunnelId(0), section: 0, groups: vec![] });
}

#[test]
fn an_id_goes_to_another_only_after_nobody_had_it() {
    let all =
        [configs(&[("wg0", &[1]), ("wg1", &[2])]), configs(&[("wg1", &[3])]), configs(&[("wg2", &[4])])];
    let first = after(&Topology::default(), &[], &all[0]);
    let second = after(&first, &all[0], &all[1]);
    assert_eq!(ids(&second), [(1, vec![2])], "0 and 1 are in use");
    let third = after(&second, &all[1], &all[2]);
    assert_eq!(ids(&third), [(0, vec![0])]);
}

#[test]
fn groups_name_peers_by_their_ids() {
    let with = |name, key| tunnel(name, vec![peer(key, &["10.2.0.0/16"])]);
    let old = [with("wg0", 7), with("wg1", 7)];
    let now = after(&Topology::default(), &[], &old);
    let new = [with("wg9", 7), with("wg1", 7)];
    let next = after(&now, &old, &new);
    assert_eq!(next.groups[0].peers, [PeerId(2), PeerId(1)]);
    assert_eq!(next.peers[&PeerId(2)].tunnel, TunnelId(2));
    assert_eq!((next.tunnel_name(PeerId(2)), next.tunnel_name(PeerId(1))), ("wg9", "wg1"));
}

/// Our own routes to the TUN stand in the kernel's tables by then.
#[test]
fn our_own_default_route_does_not_count_for_the_mtu() {
    let machine = recipe();
    let now = machine.plan();
    assert_eq!(now.tunnels[0].mtu, 1420);
    let mut view = machine.view.clone();
    view.links.push(Link { mtu: 1420, ..plain(9, "forwarder0") });
    view.routes.retain(|route| route.prefix.addr().is_ipv6());
    view.routes.push(Route::unicast(net("0.0.0.0/0"), InterfaceId(9), 51820));
    let before = Machine { view, ..recipe() };
    let remarks = before.plan().remarks;
    assert!(remarks.contains(&"wg0: no route to 192.0.2.1:51820 yet".to_owned()), "{remarks:?}");
}

//! The kernel's FIB and the groups' prefixes, merged into what the lanes and the XDP program look up.
//!
//! The kernel's FIB is the truth: a destination belongs to a group only if the kernel's own best route
//! for it leaves by our TUN. Then the most specific group prefix chooses the group.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use forwarder_contract::Steering;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::{Prefix, PrefixMap};

use crate::id::{GroupId, HopId, InterfaceId};
use crate::kernel::{Route as KernelRoute, RouteKind, TABLE_TUNNEL, View};
use crate::pipeline::snapshot::{Route, Routes};
use crate::topology::Topology;

/// Multicast and limited broadcast, which are the kernel's.
const MULTICAST_V4: [Ipv4Net; 2] =
    [Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4), Ipv4Net::new_assert(Ipv4Addr::BROADCAST, 32)];
/// The same of IPv6.
const MULTICAST_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8);

/// The tables of the two kinds of lanes.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// The workers'.
    pub fast: Arc<Routes>,
    /// The slow path's. What the kernel routed into the TUN, by whatever rule, belongs to the most
    /// specific group, even where the tables that we read do not say so.
    pub slow: Arc<Routes>,
    /// What the [`HopId`]s in both stand for: an interface, and the router on it unless destinations are on the link.
    pub hops: Vec<(InterfaceId, Option<IpAddr>)>,
    /// What the XDP programs must know of the workers' routes: the tunnels' prefixes, and the exceptions inside them.
    pub steering: Vec<(IpNet, Steering)>,
}

/// Merges the kernel's routes with the topology's groups. `tun` is our TUN device.
pub fn merge(view: &View, topology: &Topology, tun: InterfaceId) -> Merged {
    let best = best_per_prefix(&view.routes);
    let ours = |id: InterfaceId| topology.interfaces.iter().any(|plan| plan.interface == id);
    let mut hops = Hops::default();
    let mut fib4 = PrefixMap::new();
    let mut fib6 = PrefixMap::new();
    for route in best.values() {
        let target = target(route, tun, &ours, &mut hops);
        match route.prefix {
            IpNet::V4(prefix) => drop(fib4.insert(prefix, target)),
            IpNet::V6(prefix) => drop(fib6.insert(prefix, target)),
        }
    }
    // No table has them, yet no route for them counts.
    for multicast in MULTICAST_V4 {
        fib4.insert(multicast, Target::Other(Route::Kernel));
    }
    fib6.insert(MULTICAST_V6, Target::Other(Route::Kernel));
    let mut groups4 = PrefixMap::new();
    let mut groups6 = PrefixMap::new();
    for (group, id) in topology.groups.iter().zip(0..) {
        for prefix in &group.prefixes {
            match prefix {
                IpNet::V4(prefix) => drop(groups4.insert(*prefix, GroupId(id))),
                IpNet::V6(prefix) => drop(groups6.insert(*prefix, GroupId(id))),
            }
        }
    }
    let merged = |slow| (overlay(&fib4, &groups4, slow), overlay(&fib6, &groups6, slow));
    let (fast4, fast6) = merged(false);
    let steering = nets(steered(&fast4), steered(&fast6)).collect();
    let (slow4, slow6) = merged(true);
    let routes = |v4, v6| Arc::new(nets(v4, v6).collect());
    Merged { fast: routes(fast4, fast6), slow: routes(slow4, slow6), hops: hops.list, steering }
}

/// Numbers hops as they come.
#[derive(Debug, Default)]
struct Hops {
    list: Vec<(InterfaceId, Option<IpAddr>)>,
    ids: HashMap<(InterfaceId, Option<IpAddr>), HopId>,
}

impl Hops {
    fn id(&mut self, hop: (InterfaceId, Option<IpAddr>)) -> HopId {
        *self.ids.entry(hop).or_insert_with(|| {
            self.list.push(hop);
            HopId(self.list.len() as u32 - 1)
        })
    }
}

/// Prefixes of both families.
fn nets<V>(
    v4: impl IntoIterator<Item = (Ipv4Net, V)>,
    v6: impl IntoIterator<Item = (Ipv6Net, V)>,
) -> impl Iterator<Item = (IpNet, V)> {
    let v4 = v4.into_iter().map(|(net, value)| (IpNet::V4(net), value));
    v4.chain(v6.into_iter().map(|(net, value)| (IpNet::V6(net), value)))
}

/// Where the kernel's route leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Tun,
    Other(Route),
}

/// One route per prefix: local table first, then the tunnels' default route, whose rule stands before the
/// one of `main`, then the smallest metric.
fn best_per_prefix(routes: &[KernelRoute]) -> HashMap<IpNet, &KernelRoute> {
    const LOCAL: u32 = 255;
    const DEFAULT: u32 = 253;
    let rank = |r: &KernelRoute| (r.table != LOCAL, r.table != TABLE_TUNNEL, r.table == DEFAULT, r.metric);
    let mut best: HashMap<IpNet, &KernelRoute> = HashMap::new();
    for route in routes {
        let prefix = route.prefix.trunc();
        best.entry(prefix)
            .and_modify(|b| *b = if rank(route) < rank(b) { route } else { b })
            .or_insert(route);
    }
    best
}

fn target(
    route: &KernelRoute,
    tun: InterfaceId,
    ours: &dyn Fn(InterfaceId) -> bool,
    hops: &mut Hops,
) -> Target {
    match (route.kind, route.interface) {
        (RouteKind::Unicast, Some(id)) if id == tun => Target::Tun,
        (RouteKind::Unicast, Some(id)) if ours(id) => Target::Other(Route::Hop(hops.id((id, route.gateway)))),
        (RouteKind::Unreachable, _) => Target::Other(Route::Unreachable),
        _ => Target::Other(Route::Kernel),
    }
}

/// Every prefix of either table, with what both say of it together.
fn overlay<P: Prefix + Clone>(
    fib: &PrefixMap<P, Target>,
    groups: &PrefixMap<P, GroupId>,
    slow: bool,
) -> PrefixMap<P, Route> {
    let group_itself = |prefix: &P| groups.get(prefix).filter(|_| slow).map(|g| Route::Tunnel(*g));
    let resolve = |prefix: &P| match fib.get_lpm(prefix).map(|(_, t)| *t) {
        // What leads to the TUN but belongs to no peer (the TUN's own subnet) is the kernel's.
        Some(Target::Tun) => Some(groups.get_lpm(prefix).map_or(Route::Kernel, |(_, g)| Route::Tunnel(*g))),
        Some(Target::Other(route)) => Some(route),
        None => None,
    };
    let prefixes = fib.keys().chain(groups.keys());
    prefixes.filter_map(|p| group_itself(&p).or_else(|| resolve(&p)).map(|route| (p, route))).collect()
}

/// The tunnels' prefixes, and the exceptions inside them.
fn steered<P: Prefix + Clone>(routes: &PrefixMap<P, Route>) -> impl Iterator<Item = (P, Steering)> {
    let tunnelled = |p: &P| routes.cover(p).any(|(_, r)| matches!(r, Route::Tunnel(_)));
    routes.iter().filter_map(move |(p, r)| match r {
        Route::Tunnel(_) => Some((p, Steering::Tunnel)),
        _ if tunnelled(&p) => Some((p, Steering::Pass)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{GroupPlan, InterfacePlan};

    const TUN: InterfaceId = InterfaceId(9);
    const LAN: InterfaceId = InterfaceId(2);
    const ELSEWHERE: InterfaceId = InterfaceId(7);

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    fn route(prefix: &str, kind: RouteKind, interface: Option<InterfaceId>, metric: u32) -> KernelRoute {
        let table = if kind == RouteKind::Unicast { 254 } else { 255 };
        KernelRoute { prefix: net(prefix), kind, interface, gateway: None, metric, table, protocol: 3 }
    }

    fn topology(groups: &[&[&str]]) -> Topology {
        let plan = InterfacePlan {
            interface: LAN,
            name: "lan".into(),
            vlans: [].into_iter().collect(),
            ports: vec![],
        };
        let group = |g: &&[&str]| GroupPlan { prefixes: g.iter().map(|p| net(p)).collect(), peers: vec![] };
        Topology { interfaces: vec![plan], groups: groups.iter().map(group).collect(), ..Topology::default() }
    }

    fn merged(routes: Vec<KernelRoute>, groups: &[&[&str]]) -> Merged {
        merge(&View { routes, ..View::default() }, &topology(groups), TUN)
    }

    #[test]
    fn a_prefix_is_a_groups_only_if_the_kernel_routes_it_to_the_tun() {
        let routes = vec![
            route("10.2.0.0/16", RouteKind::Unicast, Some(TUN), 0),
            route("10.1.0.0/24", RouteKind::Unicast, Some(LAN), 0),
        ];
        let routes = merged(routes, &[&["10.2.0.0/16"], &["10.3.0.0/16"]]).fast;
        assert_eq!(routes.lookup("10.2.1.1".parse().unwrap()), Some(Route::Tunnel(GroupId(0))));
        assert_eq!(routes.lookup("10.3.1.1".parse().unwrap()), None);
        assert!(matches!(routes.lookup("10.1.0.9".parse().unwrap()), Some(Route::Hop(_))));
    }

    #[test]
    fn longest_group_prefix_wins_under_one_tun_route() {
        let routes = vec![route("10.0.0.0/8", RouteKind::Unicast, Some(TUN), 0)];
        let routes = merged(routes, &[&["10.2.0.0/16"], &["10.2.5.0/24"]]).fast;
        assert_eq!(routes.lookup("10.2.1.1".parse().unwrap()), Some(Route::Tunnel(GroupId(0))));
        assert_eq!(routes.lookup("10.2.5.1".parse().unwrap()), Some(Route::Tunnel(GroupId(1))));
        assert_eq!(routes.lookup("10.9.0.1".parse().unwrap()), Some(Route::Kernel));
    }

    /// Routes by the same router, or to the same link, lead to one hop.
    #[test]
    fn a_hop_is_an_interface_and_a_router() {
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|router| router.parse().ok());
        let by = |prefix, gateway| KernelRoute { gateway, ..route(prefix, RouteKind::Unicast, Some(LAN), 0) };
        let routes =
            [("10.1.0.0/16", one), ("10.2.0.0/16", other), ("10.3.0.0/16", one), ("10.4.0.0/16", None)];
        let merged = merged(routes.iter().map(|(prefix, router)| by(prefix, *router)).collect(), &[]);
        for (prefix, router) in routes {
            let hop = merged.fast.lookup(net(prefix).addr());
            let Some(Route::Hop(hop)) = hop else { panic!("{prefix}: {hop:?}") };
            assert_eq!(merged.hops[hop.index()], (LAN, router));
        }
        assert_eq!(merged.hops.len(), 3);
    }

    #[test]
    fn more_specific_kernel_routes_inside_a_tunnel_prefix_are_passed() {
        let routes = vec![
            route("10.2.0.0/16", RouteKind::Unicast, Some(TUN), 0),
            route("10.2.7.0/24", RouteKind::Unicast, Some(ELSEWHERE), 0),
            route("10.2.0.1/32", RouteKind::Local, None, 0),
            route("192.0.2.0/24", RouteKind::Unicast, Some(LAN), 0),
        ];
        let mut entries = merged(routes, &[&["10.2.0.0/16"]]).steering;
        entries.sort_by_key(|(p, _)| *p);
        let want = [
            (net("10.2.0.0/16"), Steering::Tunnel),
            (net("10.2.0.1/32"), Steering::Pass),
            (net("10.2.7.0/24"), Steering::Pass),
        ];
        assert_eq!(entries, want);
    }

    #[test]
    fn the_unreachable_guard_counts_only_when_the_tun_route_is_gone() {
        let guard =
            KernelRoute { table: 254, ..route("10.2.0.0/16", RouteKind::Unreachable, None, u32::MAX) };
        let with_tun = vec![guard, route("10.2.0.0/16", RouteKind::Unicast, Some(TUN), 0)];
        let routes = merged(with_tun, &[&["10.2.0.0/16"]]);
        assert_eq!(routes.fast.lookup("10.2.1.1".parse().unwrap()), Some(Route::Tunnel(GroupId(0))));
        let routes = merged(vec![guard], &[&["10.2.0.0/16"]]);
        assert_eq!(routes.fast.lookup("10.2.1.1".parse().unwrap()), Some(Route::Unreachable));
        assert!(routes.steering.is_empty());
    }

    /// `AllowedIPs = 0.0.0.0/0`: specific routes of `main` first, then the tunnels' default route.
    #[test]
    fn a_tunnels_default_route_goes_before_that_of_main() {
        let through_tun = route("0.0.0.0/0", RouteKind::Unicast, Some(TUN), 0);
        let Merged { fast: routes, steering, .. } = merged(
            vec![
                route("0.0.0.0/0", RouteKind::Unicast, Some(LAN), 0),
                route("192.0.2.0/24", RouteKind::Unicast, Some(LAN), 0),
                KernelRoute { table: TABLE_TUNNEL, ..through_tun },
            ],
            &[&["0.0.0.0/0"]],
        );
        assert_eq!(routes.lookup("198.51.100.1".parse().unwrap()), Some(Route::Tunnel(GroupId(0))));
        assert!(matches!(routes.lookup("192.0.2.1".parse().unwrap()), Some(Route::Hop(_))));
        for kernels in ["224.0.0.5", "255.255.255.255"] {
            assert_eq!(routes.lookup(kernels.parse().unwrap()), Some(Route::Kernel));
        }
        let passed = steering.iter().filter(|(_, s)| *s == Steering::Pass).count();
        assert_eq!(passed, 3, "the LAN, multicast, broadcast");
    }

    /// `Table = 123`: the operator's own rules lead into the TUN, and no table that we read says so.
    #[test]
    fn what_came_out_of_the_tun_belongs_to_its_group_whatever_the_tables_say() {
        let routes = vec![
            route("0.0.0.0/0", RouteKind::Unicast, Some(LAN), 0),
            route("10.2.0.1/32", RouteKind::Local, None, 0),
        ];
        let merged = merge(&View { routes, ..View::default() }, &topology(&[&["10.2.0.0/16"]]), TUN);
        let there = "10.2.1.1".parse().unwrap();
        assert!(matches!(merged.fast.lookup(there), Some(Route::Hop(_))));
        assert_eq!(merged.slow.lookup(there), Some(Route::Tunnel(GroupId(0))));
        assert_eq!(merged.slow.lookup("10.2.0.1".parse().unwrap()), Some(Route::Kernel));
    }
}

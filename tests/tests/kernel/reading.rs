//! What is read, and what is heard of changes.

use std::future::Future;
use std::process::{Command, Stdio};
use std::time::Duration;

use forwarder::id::InterfaceId;
use forwarder::kernel::netlink::{Changed, Kernel};
use forwarder::kernel::{BondMode, DefaultRules, Family, LinkKind, Resolved, Route, RouteKind};
use xtask::test::not_run;

use crate::lab::{addr, device, ip, isolated, net, tun_up, until, wire_up};

#[test]
fn links_as_ip_made_them() {
    isolated(|| async {
        ip("link add v0 address 02:00:00:00:00:01 mtu 1400 type veth peer name v1");
        ip("link property add dev v0 altname a-name-longer-than-fifteen-letters");
        ip("link add bridge type bridge");
        ip("link set v0 master bridge");
        ip("link set v0 up");
        let view = Kernel::connect()?.view().await?;
        let link = |name: &str| view.link_named(name).expect(name);

        let v0 = link("a-name-longer-than-fifteen-letters");
        assert_eq!((v0.name.as_str(), v0.mac, v0.mtu), ("v0", [2, 0, 0, 0, 0, 1], 1400));
        assert_eq!((v0.up, v0.carrier, &v0.kind, v0.slave), (true, false, &LinkKind::Plain, None));
        assert_eq!(v0.master, Some(link("bridge").id));
        assert_eq!(link("bridge").kind, LinkKind::Other("bridge".into()));
        assert_eq!(link("lo").kind, LinkKind::Loopback);

        ip("link set v1 up");
        let view = Kernel::connect()?.view().await?;
        assert!(view.link_named("v0").is_some_and(|l| l.carrier));
        Ok(())
    });
}

#[test]
fn vlans_where_the_kernel_has_them() {
    isolated(|| async {
        ip("link add v0 type veth peer name v1");
        if !can("link add link v0 name tagged type vlan id 10") {
            not_run("vlans_where_the_kernel_has_them", "the kernel has no 802.1Q driver");
            return Ok(());
        }
        ip("link add link v0 name service type vlan proto 802.1ad id 20");
        let view = Kernel::connect()?.view().await?;
        let kind = |name: &str| view.link_named(name).expect(name).kind.clone();
        let lower = device(&view, "v0");
        assert_eq!(kind("tagged"), LinkKind::Vlan { id: 10, lower, service: false });
        assert_eq!(kind("service"), LinkKind::Vlan { id: 20, lower, service: true });
        Ok(())
    });
}

#[test]
fn an_lacp_bond_where_the_kernel_has_it() {
    isolated(|| async {
        if !can("link add bond0 type bond mode 802.3ad lacp_rate fast miimon 100") {
            not_run("an_lacp_bond_where_the_kernel_has_it", "the kernel has no bonding driver");
            return Ok(());
        }
        ip("link add bond1 type bond mode 802.3ad lacp_rate fast miimon 100");
        for port in 0..2_u8 {
            ip(&format!("link add a{port} address 02:00:00:00:00:0{port} type veth peer name b{port}"));
            ip(&format!("link set a{port} master bond0"));
            ip(&format!("link set b{port} master bond1"));
        }
        ip("link set bond0 up");
        ip("link set bond1 up");
        let kernel = Kernel::connect()?;
        let view = kernel.view().await?;
        let bond = view.link_named("bond0").expect("the bond");
        assert_eq!(bond.kind, LinkKind::Bond(BondMode::Lacp));
        let fully_up = async || {
            let slaves = kernel.slaves(bond.id).await.unwrap_or_default();
            let state = slaves.iter().filter_map(|s| s.slave);
            slaves.len() == 2
                && state.clone().count() == 2
                && state
                    .clone()
                    .all(|s| s.mii_up && s.active && s.actor_state == 0x3f && s.partner_state == 0x3f)
        };
        until(fully_up).await;
        let slaves = kernel.slaves(bond.id).await?;
        let states: Vec<_> = slaves.iter().filter_map(|s| s.slave).collect();
        assert_eq!(states[0].aggregator, states[1].aggregator);
        assert_eq!(states[1].permanent_mac, [2, 0, 0, 0, 0, 1]);
        assert_eq!(slaves[0].mac, slaves[1].mac, "a bond's slaves share its address");
        ip("link set b1 down");
        until(async || !fully_up().await).await;
        Ok(())
    });
}

#[test]
fn slaves_of_a_device_that_is_no_bond_or_is_absent() {
    isolated(|| async {
        ip("link add v0 type veth peer name v1");
        let kernel = Kernel::connect()?;
        let v0 = device(&kernel.view().await?, "v0");
        assert_eq!(kernel.slaves(v0).await?, []);
        assert_eq!(kernel.slaves(InterfaceId(9999)).await?, []);
        ip("link add bridge type bridge");
        ip("link set v0 master bridge");
        let bridge = device(&kernel.view().await?, "bridge");
        let slaves = kernel.slaves(bridge).await?;
        assert_eq!(slaves.iter().map(|l| l.id).collect::<Vec<_>>(), [v0]);
        Ok(())
    });
}

#[test]
fn addresses_routes_and_neighbours_as_ip_made_them() {
    isolated(|| async {
        let v0 = wire_up(&Kernel::connect()?).await?;
        ip("route add 10.1.0.0/16 via 192.0.2.2 metric 7 proto static");
        ip("route add 10.2.0.0/16 nexthop via 192.0.2.2 dev v0 nexthop via 192.0.2.3 dev v0");
        ip("route add 10.3.0.0/16 via inet6 2001:db8::2 dev v0");
        ip("route add blackhole 10.4.0.0/16");
        ip("route add 10.5.0.0/16 dev v0 table 77");
        ip("-6 route add 2001:db8:1::/48 via 2001:db8::2");
        ip("neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev v0 nud stale");
        ip("neighbour add 192.0.2.8 dev v0 nud failed");
        let view = Kernel::connect()?.view().await?;

        assert!(view.addresses.iter().any(|a| a.interface == v0 && a.address == net("192.0.2.1/24")));
        assert!(view.addresses.iter().any(|a| a.interface == v0 && a.address == net("2001:db8::1/64")));
        let route = |prefix: &str| {
            let found = view.routes.iter().find(|r| r.prefix == net(prefix));
            found.map(|r| (r.kind, r.interface, r.gateway, r.metric))
        };
        let unicast = |gateway, metric| Some((RouteKind::Unicast, Some(v0), gateway, metric));
        assert_eq!(route("192.0.2.0/24"), unicast(None, 0));
        assert_eq!(route("10.1.0.0/16"), unicast(Some(addr("192.0.2.2")), 7));
        assert_eq!(route("10.2.0.0/16"), unicast(Some(addr("192.0.2.2")), 0));
        assert_eq!(route("10.3.0.0/16"), unicast(Some(addr("2001:db8::2")), 0));
        assert_eq!(route("10.4.0.0/16"), Some((RouteKind::Unreachable, None, None, 0)));
        assert_eq!(route("10.5.0.0/16"), None, "another table");
        assert_eq!(route("2001:db8:1::/48"), unicast(Some(addr("2001:db8::2")), 1024));
        assert_eq!(route("192.0.2.1/32"), Some((RouteKind::Local, Some(v0), None, 0)));
        assert_eq!(route("192.0.2.255/32"), Some((RouteKind::Special, Some(v0), None, 0)));
        assert!(matches!(route("ff00::/8"), Some((RouteKind::Special, ..))));

        let mac = |ip: &str| view.neighbours.iter().find(|n| n.address == addr(ip)).map(|n| n.mac);
        assert_eq!(mac("192.0.2.9"), Some([2, 0, 0, 0, 0, 9]));
        assert_eq!(mac("192.0.2.8"), None, "failed");
        Ok(())
    });
}

#[test]
fn a_mark_resolves_past_our_own_default_route() {
    isolated(|| async {
        let kernel = Kernel::connect()?;
        let v0 = wire_up(&kernel).await?;
        let tun = tun_up(&kernel, "tun0").await?;
        ip("route add default via 192.0.2.2");
        ip("-6 route add default via 2001:db8::2");
        ip("address add 203.0.113.1/32 dev tun0");
        for (family, all) in [(Family::V4, "0.0.0.0/0"), (Family::V6, "::/0")] {
            kernel.add_route(&Route::through(net(all), tun.interface(), 0, 51820)).await?;
            for _ in 0..2 {
                kernel.add_default_rules(&DefaultRules { family, mark: 51820, table: 51820 }).await?;
            }
        }
        for part in ["51820", "suppress_prefixlength 0"] {
            assert_eq!(ip("rule").matches(part).count(), 1, "taken over, not doubled");
        }
        let resolve = async |to: &str, mark| kernel.resolve(addr(to), mark).await;
        let direct = |next_hop: &str, source: &str| Resolved {
            interface: v0,
            next_hop: addr(next_hop),
            source: addr(source),
        };

        assert_eq!(resolve("198.51.100.1", 0).await?.interface, tun.interface());
        assert_eq!(resolve("2001:db8:9::1", 51820).await?, direct("2001:db8::2", "2001:db8::1"));
        assert_eq!(resolve("198.51.100.1", 51820).await?, direct("192.0.2.2", "192.0.2.1"));
        assert_eq!(
            resolve("192.0.2.7", 0).await?,
            direct("192.0.2.7", "192.0.2.1"),
            "specific route of main"
        );

        for family in [Family::V4, Family::V6] {
            kernel.remove_default_rules(&DefaultRules { family, mark: 51820, table: 51820 }).await?;
        }
        assert_eq!(resolve("198.51.100.1", 0).await?, direct("192.0.2.2", "192.0.2.1"));
        assert!(!ip("rule").contains("51820") && !ip("-6 rule").contains("51820"));
        Ok(())
    });
}

#[test]
fn changes_wake_once_for_many_and_tell_their_kinds() {
    isolated(|| async {
        let kernel = Kernel::connect()?;
        let mut watch = kernel.watch()?;
        assert!(quiet(watch.changed()).await);
        wire_up(&kernel).await?;
        ip("neighbour add 192.0.2.9 lladdr 02:00:00:00:00:09 dev v0");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let all = Changed::LINKS | Changed::ADDRESSES | Changed::ROUTES | Changed::NEIGHBOURS;
        assert_eq!(watch.changed().await, all);
        assert!(quiet(watch.changed()).await);
        ip("route add unreachable 10.0.0.0/8");
        assert_eq!(watch.changed().await, Changed::ROUTES);
        assert!(quiet(watch.changed()).await);
        Ok(())
    });
}

/// Whether the kernel does `ip ARGUMENTS`.
fn can(arguments: &str) -> bool {
    let status = Command::new("ip").args(arguments.split(' ')).stderr(Stdio::null()).status();
    status.expect("iproute2").success()
}

/// Whether nothing comes for a while.
async fn quiet<T>(event: impl Future<Output = T>) -> bool {
    tokio::time::timeout(Duration::from_millis(500), event).await.is_err()
}

//! A router of the LAN that fails over under traffic: its address moves to another MAC address, as keepalived's do
//! unless they have a virtual one. Needs root.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use tests::lab::{PATIENCE, lab, start};
use xtask::lab::{Options, Side, address, traffic};

/// Pings, five a second.
const PINGS: u32 = 25;
/// As many as the kernel may lose while it believes a neighbour that it has just heard of (`locktime`, a second).
const LOST: u32 = 5;

#[test]
fn a_router_moves_to_another_mac_address() {
    let Some(lab) = lab("a_router_moves_to_another_mac_address", Options::default()).unwrap() else { return };
    let (router, behind) = (address::lan4(Side::B, 10), Ipv4Addr::new(192, 168, 2, 200));
    lab.b.host.ip(&format!("address add {behind}/32 dev lo")).unwrap();
    lab.b.gateway.ip(&format!("route add 192.168.2.128/25 via {router}")).unwrap();
    // Whose MAC address changes says so.
    lab.b.host.sysctl("net.ipv4.conf.eth0.arp_notify", "1").unwrap();
    let mut gateways = [&lab.a, &lab.b].map(|site| start(&lab, site, &[]).unwrap());
    for gateway in &mut gateways {
        gateway.wait_tunnels(PATIENCE).unwrap();
    }
    traffic::wait_reachable(&lab.a.host, behind.into(), PATIENCE).unwrap();

    let by_router = thread::scope(|scope| {
        let pings = scope.spawn(|| traffic::ping(&lab.a.host, behind.into(), PINGS).unwrap());
        thread::sleep(Duration::from_millis(1500));
        lab.b.host.ip("link set eth0 address 02:00:00:00:00:99").unwrap();
        pings.join().unwrap()
    });
    assert!(by_router.received + LOST >= by_router.sent, "{by_router:?}");
    // The router itself is a host on the link: its neighbour entry is used without a route.
    let on_link = traffic::ping(&lab.a.host, router.into(), LOST).unwrap();
    assert_eq!(on_link.received, on_link.sent);
}

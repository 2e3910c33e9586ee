//! What one peer is enough for: groups, the gateway's own traffic, what the kernel does for us. The peer is
//! wireguard-go.

use std::net::IpAddr;

use xtask::lab::address::{self, lan4, lan6};
use xtask::lab::peer::{Implementation, Program};
use xtask::lab::{Family, Netns, Side, traffic};

use crate::ends::{Ends, lab, tcp};
use crate::{at_once, ping, ping_when_reachable, program};

#[test]
fn the_flows_of_a_group_use_all_its_tunnels() {
    let Some(program) = wireguard_go("the_flows_of_a_group_use_all_its_tunnels") else { return };
    let mut ends = Ends::start(lab(3, Family::V4), &program);
    let nexthops: Vec<String> =
        ends.peers.iter().map(|tunnel| format!("nexthop dev {}", tunnel.interface)).collect();
    let [near, _] = address::lan_prefixes(Side::A);
    let far = &ends.lab.b.gateway;
    far.ip(&format!("route replace {near} {}", nexthops.join(" "))).unwrap();
    far.sysctl("net.ipv4.fib_multipath_hash_policy", "1").unwrap();

    ping_when_reachable(&ends.lab.a, &ends.lab.b);
    let log = ends.lab.directory().join("iperf3.log");
    for (from, to) in [ends.from(Side::A), ends.from(Side::B)] {
        traffic::tcp(from, to, 24, 1, &log).unwrap();
    }
    for tunnel in ends.forwarder.counters().unwrap().tunnels {
        let carried = tunnel.tx_bytes.min(tunnel.rx_bytes);
        assert!(carried > 100_000, "{}: only handshakes and keepalives: {tunnel:?}", tunnel.name);
    }
}

#[test]
fn the_gateways_own_traffic_goes_through_the_tunnel() {
    let Some(program) = wireguard_go("the_gateways_own_traffic_goes_through_the_tunnel") else { return };
    let ends = Ends::start(lab(1, Family::V4), &program);
    let (near, far) = ends.from(Side::A);
    ping_when_reachable(near, far);
    ping(&near.gateway, lan4(Side::B, 10), "");
    ping(&near.gateway, lan4(Side::B, 1), "");
    ping(&near.gateway, address::tunnel(Side::B, 0), "");
    ping(&near.gateway, lan6(Side::B, 10), "");
    for namespace in [&far.host, &far.gateway] {
        ping(namespace, lan4(Side::A, 1), "");
        ping(namespace, address::tunnel(Side::A, 0), "");
        ping(namespace, lan6(Side::A, 1), "");
    }
    tcp(&near.gateway, (&far.host, lan4(Side::B, 10).into()), &ends.lab);
    tcp(&far.host, (&near.gateway, lan4(Side::A, 1).into()), &ends.lab);
}

#[test]
fn what_only_the_kernel_can_do_it_does() {
    let Some(program) = wireguard_go("what_only_the_kernel_can_do_it_does") else { return };
    let mut ends = Ends::start(lab(1, Family::V4), &program);
    ping_when_reachable(&ends.lab.a, &ends.lab.b);
    let directions = [ends.from(Side::A), ends.from(Side::B)];
    for (near, far) in directions {
        // IP options: record route.
        ping(&near.host, far.host_address(), "-R");
        // Fragments as large as the LAN takes: the kernel fragments them again for the tunnel.
        ping(&near.host, far.host_address(), "-s 4000");
    }
    for (near, far) in directions {
        assert_too_big(&near.host, "-s 1472", far.host_address());
        assert_too_big(&near.host, "-s 1452", lan6(far.side, 10));
    }
    // Now the hosts know the tunnel's MTU and make fragments that fit.
    for (near, far) in directions {
        ping(&near.host, far.host_address(), "-s 4000");
        ping(&near.host, lan6(far.side, 10), "-s 4000");
    }
    let verdicts = ends.forwarder.counters().unwrap().verdicts;
    assert!(verdicts.contains_key("pass_options") && verdicts.contains_key("pass_too_big"), "{verdicts:?}");
}

#[test]
fn messages_that_were_fragmented_on_the_underlay_arrive() {
    let Some(program) = wireguard_go("messages_that_were_fragmented_on_the_underlay_arrive") else { return };
    at_once([Family::V4, Family::V6], |underlay| {
        let mut ends = Ends::start(lab(1, underlay), &program);
        // The route's MTU, not the device's: that would refuse what comes in whole, too.
        let network = address::underlay(underlay, Side::A, 0);
        let far = &ends.lab.b.gateway;
        far.ip(&format!("route add {network} dev wan0 mtu 1280")).unwrap();
        ping_when_reachable(&ends.lab.a, &ends.lab.b);
        ping(&ends.lab.a.host, lan4(Side::B, 10), "-s 1300");
        ping(&ends.lab.b.host, lan4(Side::A, 10), "-s 1300");
        ping(&ends.lab.b.gateway, lan4(Side::A, 1), "-s 1300");
        tcp(&ends.lab.b.host, (&ends.lab.a.host, lan4(Side::A, 10).into()), &ends.lab);
        let verdicts = ends.forwarder.counters().unwrap().verdicts;
        assert!(verdicts.contains_key("pass_fragment"), "{underlay:?}: nothing was fragmented: {verdicts:?}");
    });
}

fn wireguard_go(test: &str) -> Option<Program> {
    program(test, Implementation::WireguardGo)
}

/// A packet that may not be fragmented and is larger than the tunnel's MTU is answered with that MTU.
fn assert_too_big(from: &Netns, size: &str, target: impl Into<IpAddr>) {
    let mut ping = from.command("ping");
    ping.args("-n -c 2 -W 1 -M do".split(' ')).args(size.split(' ')).arg(target.into().to_string());
    let output = String::from_utf8(ping.output().unwrap().stdout).unwrap();
    assert!(output.contains("mtu = 1420") || output.contains("mtu=1420"), "{output}");
}

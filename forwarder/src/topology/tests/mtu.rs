//! Tunnel MTUs.

use super::*;

const V4: &str = "192.0.2.1:51820";
const V6: &str = "[2001:db8::1]:51820";

/// The usual machine with one tunnel, whose peers are at `endpoints`.
fn machine(mtu: Option<u16>, endpoints: &[&str]) -> Machine {
    let peers = endpoints.iter().zip(1..).map(|(endpoint, key)| at(endpoint, peer(key, &[])));
    Machine::bonded().tunnel(TunnelConfig { mtu, ..tunnel("wg0", peers.collect()) })
}

/// Remarks on anything but idle peers, which these are.
fn remarks(plan: &Topology) -> Vec<&str> {
    plan.remarks.iter().map(String::as_str).filter(|r| !r.contains("carries no prefix")).collect()
}

/// A data message adds 32 bytes, UDP 8, IP 20 or 40: wg-quick takes 80 off, so 1420 on 1500.
#[test]
fn wg_quicks_rule() {
    // MTU of bond0, of the file, endpoint -> the tunnel's; whether the file's was lowered
    for (egress, mtu, endpoint, expected, lowered) in [
        (1500, None, V4, 1420, false),
        (1500, None, V6, 1420, false),
        (1492, None, V4, 1412, false),
        (1500, Some(1380), V4, 1380, false),
        (1500, Some(1440), V4, 1440, false),
        (1500, Some(1441), V4, 1440, true),
        (1500, Some(1420), V6, 1420, false),
        (1500, Some(1440), V6, 1420, true),
        (3818, Some(9000), V6, 3738, true),
    ] {
        let mut machine = machine(mtu, &[endpoint]);
        machine.link_mut("bond0").mtu = egress;
        let plan = machine.plan();
        let case = format!("egress {egress}, MTU {mtu:?}, {endpoint}");
        assert_eq!(plan.tunnels[0].mtu, expected, "{case}");
        let remark =
            mtu.map(|mtu| format!("wg0: MTU {mtu} does not fit bond0's MTU {egress}, {expected} is used"));
        assert_eq!(remarks(&plan), Vec::from_iter(remark.as_deref().filter(|_| lowered)), "{case}");
    }
}

#[test]
fn without_an_endpoint_it_is_wg_quicks_default() {
    let mut machine = Machine::bonded().tunnel(tunnel("wg0", vec![peer(1, &[])]));
    let plan = machine.plan();
    assert_eq!((plan.tunnels[0].mtu, remarks(&plan)), (1420, vec![]));
    machine.tunnels[0].mtu = Some(1300);
    assert_eq!(machine.plan().tunnels[0].mtu, 1300);
}

#[test]
fn without_a_route_it_is_wg_quicks_default_with_a_remark() {
    for (mtu, expected) in [(None, 1420), (Some(1300), 1300)] {
        let mut machine = machine(mtu, &[V4]);
        machine.view.routes.retain(|route| route.prefix != net("0.0.0.0/0"));
        let plan = machine.plan();
        assert_eq!(plan.tunnels[0].mtu, expected);
        assert_eq!(remarks(&plan), ["wg0: no route to 192.0.2.1:51820 yet"]);
    }
}

#[test]
fn the_smallest_egress_counts() {
    let mut machine = machine(None, &[V4, "10.1.0.9:51820"]).route("10.1.0.0/24", 5, 0);
    machine.link_mut("lan0").mtu = 1400;
    assert_eq!(machine.plan().tunnels[0].mtu, 1320);
    machine.tunnels[0].peers.reverse();
    assert_eq!(machine.plan().tunnels[0].mtu, 1320, "in any order");
    machine.tunnels[0].mtu = Some(1430);
    assert_eq!(machine.plan().tunnels[0].mtu, 1340);
}

#[test]
fn the_longest_prefix_then_the_smallest_metric_names_the_egress() {
    for (prefix, metric, mtu) in
        [("0.0.0.0/0", 10, 1420), ("192.0.2.0/24", 10, 1320), ("192.0.2.0/24", 200, 1420)]
    {
        let mut machine = machine(None, &[V4]).route("192.0.2.0/24", 2, 100).route(prefix, 5, metric);
        machine.link_mut("lan0").mtu = 1400;
        assert_eq!(machine.plan().tunnels[0].mtu, mtu, "{prefix} metric {metric}");
    }
}

#[test]
fn an_egress_without_a_port_is_remarked() {
    let mut machine = machine(None, &[V4]).with(plain(9, "wlan0")).route("192.0.2.0/24", 9, 0);
    machine.link_mut("wlan0").mtu = 1300;
    let plan = machine.plan();
    assert_eq!(plan.tunnels[0].mtu, 1220);
    let remark = "wg0: 192.0.2.1:51820 is reached by wlan0, which no --iface covers: add --iface wlan0";
    assert_eq!(remarks(&plan), [remark]);
}

#[test]
fn the_tun_has_the_smallest_tunnels_mtu() {
    let file = |name, mtu| TunnelConfig { mtu: Some(mtu), ..tunnel(name, vec![]) };
    let plan = Machine::bonded().tunnel(file("wg0", 1400)).tunnel(file("wg1", 1380)).plan();
    assert_eq!(plan.tun_mtu, 1380);
    assert_eq!(Machine::bonded().plan().tun_mtu, 1420, "without a tunnel");
}

//! One-armed gateways: LAN and underlay share a port, as two subnets or as two VLANs. Needs root.
#![allow(clippy::unwrap_used)]

use tests::lab::{PATIENCE, able, lab, start};
use xtask::lab::gateway::Counters;
use xtask::lab::{Options, Wire, address, kernel_has, traffic};
use xtask::test::not_run;

#[test]
fn two_subnets_on_one_port() {
    carries_on_the_fast_path("two_subnets_on_one_port", false);
}

/// Tags must stand in the frames when XDP sees them: a NIC that strips them needs `rxvlan off`, and what sends
/// into a veth `txvlan off`, as the lab's bridge has it.
#[test]
fn two_vlans_on_one_port() {
    let test = "two_vlans_on_one_port";
    if !able(test) {
        return;
    }
    if kernel_has("vlan id 1").unwrap() {
        carries_on_the_fast_path(test, true);
    } else {
        not_run(test, "the kernel has no 802.1Q driver");
    }
}

fn carries_on_the_fast_path(test: &str, tagged: bool) {
    let options = Options { ports: 1, wire: Wire::OneArm { tagged }, ..Options::default() };
    let Some(lab) = lab(test, options).unwrap() else { return };
    // `--iface` names only the port: the VLANs on it are found.
    let mut gateways = [&lab.a, &lab.b].map(|site| start(&lab, site, &[]).unwrap());
    for gateway in &mut gateways {
        gateway.wait_tunnels(PATIENCE).unwrap();
    }
    let target = lab.b.host_address().into();
    traffic::wait_reachable(&lab.a.host, target, PATIENCE).unwrap();

    let before = gateways.each_mut().map(|gateway| gateway.counters().unwrap());
    let log = lab.directory().join("iperf3.log");
    for (from, to) in [(&lab.a, &lab.b), (&lab.b, &lab.a)] {
        let ping = traffic::ping(&from.host, address::lan6(to.side, 10).into(), 5).unwrap();
        assert_eq!(ping.received, ping.sent);
        let run = traffic::tcp(from, to, 4, 1, &log).unwrap();
        println!("{:?} to {:?}: {:.0} Mbit/s", from.side, to.side, run.mbps);
    }
    for (gateway, before) in gateways.iter_mut().zip(before) {
        assert_fast_path(&gateway.counters().unwrap(), &before);
    }
}

/// The XDP programs took both kinds of frames, and hardly a packet went through the TUN.
fn assert_fast_path(now: &Counters, before: &Counters) {
    let verdicts = |verdict| {
        let count = |counters: &Counters| counters.verdicts.get(verdict).copied().unwrap_or_default();
        count(now) - count(before)
    };
    let (lan, wireguard) = (verdicts("redirect_lan"), verdicts("redirect_wireguard"));
    let kernel = through_tun(now) - through_tun(before);
    println!("redirected: {lan} of the LAN, {wireguard} of WireGuard; {kernel} through the TUN");
    assert!(lan > 0 && wireguard > 0, "{now:?}");
    assert!(kernel < (lan + wireguard) / 100, "{now:?}");
}

fn through_tun(counters: &Counters) -> u64 {
    let tun = counters.ports.iter().find(|port| port.name == "forwarder0").unwrap();
    tun.counts["rx_packets"] + tun.counts["tx_packets"]
}

//! Gateways without workers, as where the kernel has no AF_XDP: all packets go by the TUN and the UDP sockets. Needs
//! root.
#![allow(clippy::unwrap_used)]

use tests::lab::{PATIENCE, WITHOUT_AF_XDP, lab, start_ready};
use xtask::lab::gateway::Gateway;
use xtask::lab::{Lab, Options, Site, address, traffic};

#[test]
fn two_sites_without_af_xdp() {
    let Some(lab) = lab("two_sites_without_af_xdp", Options::default()).unwrap() else { return };
    let mut gateways = [start(&lab, &lab.a, WITHOUT_AF_XDP), start(&lab, &lab.b, WITHOUT_AF_XDP)];
    carries(&lab);
    for (gateway, site) in gateways.iter_mut().zip(lab.sites()) {
        let links = site.gateway.ip("-details link show").unwrap();
        assert!(!links.contains("xdp"), "a program was attached: {links}");
        let ports = gateway.counters().unwrap().ports;
        let names: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
        assert_eq!(names, ["forwarder0", "udp"]);
        let log = gateway.daemon.output().unwrap();
        assert!(!log.contains("add --iface"), "it asks for ports: {log}");
    }
    for gateway in &mut gateways {
        assert!(gateway.daemon.stop().unwrap().success());
    }
}

#[test]
fn one_site_without_af_xdp() {
    let Some(lab) = lab("one_site_without_af_xdp", Options::default()).unwrap() else { return };
    let _gateways = [start(&lab, &lab.a, &[]), start(&lab, &lab.b, WITHOUT_AF_XDP)];
    carries(&lab);
}

fn start(lab: &Lab, site: &Site, arguments: &[&str]) -> Gateway {
    start_ready(lab, site, arguments).unwrap()
}

/// Pings over both families, and TCP both ways.
fn carries(lab: &Lab) {
    for target in [address::lan4(lab.b.side, 10).into(), address::lan6(lab.b.side, 10).into()] {
        traffic::wait_reachable(&lab.a.host, target, PATIENCE).unwrap();
    }
    let log = lab.directory().join("iperf3.log");
    for (from, to) in [(&lab.a, &lab.b), (&lab.b, &lab.a)] {
        let run = traffic::tcp(from, to, 8, 1, &log).unwrap();
        println!("{:?} to {:?}: {:.0} Mbit/s", from.side, to.side, run.mbps);
    }
}

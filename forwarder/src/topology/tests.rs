//! The plan for made-up machines.

mod groups;
mod ids;
mod mtu;
mod ports;
mod workers;

use std::net::SocketAddr;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::*;
use crate::config::{PeerSection, Table};
use crate::kernel::{BondMode, Link, LinkKind, Route, TABLE_MAIN};
use crate::wireguard::{PrivateKey, PublicKey};

/// A machine with its configuration.
struct Machine {
    interfaces: Vec<String>,
    tunnels: Vec<TunnelConfig>,
    settings: Settings,
    view: View,
    nics: Vec<NicFacts>,
    cores: Vec<usize>,
    workers: Option<usize>,
}

impl Machine {
    /// A machine with four cores, and `--iface` for each of these names.
    fn new(interfaces: &[&str]) -> Self {
        Self {
            interfaces: interfaces.iter().map(|&name| name.to_owned()).collect(),
            tunnels: Vec::new(),
            settings: Settings::default(),
            view: View::default(),
            nics: Vec::new(),
            cores: vec![0, 1, 2, 3],
            workers: None,
        }
    }

    /// The usual one: bond0 (2) of eth0 (3) and eth1 (4), lan0 (5), and a default route by bond0.
    fn bonded() -> Self {
        Self::new(&["bond0", "lan0"])
            .with(bond(2, "bond0", BondMode::Lacp))
            .nic(slave(3, "eth0", 2))
            .nic(slave(4, "eth1", 2))
            .nic(plain(5, "lan0"))
            .route("0.0.0.0/0", 2, 0)
            .route("::/0", 2, 0)
    }

    /// A device.
    fn with(mut self, link: Link) -> Self {
        self.view.links.push(link);
        self
    }

    /// A device that can become a port: four queues, zero-copy.
    fn nic(self, link: Link) -> Self {
        self.nic_with(link, |_| ())
    }

    /// A device that can become a port, with other facts.
    fn nic_with(mut self, link: Link, change: impl FnOnce(&mut NicFacts)) -> Self {
        let driver = "test".to_owned();
        let mut facts = NicFacts { interface: link.id, queues: 4, driver, native: true, zero_copy: true };
        change(&mut facts);
        self.nics.push(facts);
        self.with(link)
    }

    fn route(mut self, prefix: &str, interface: u32, metric: u32) -> Self {
        let route = Route::through(net(prefix), InterfaceId(interface), metric, TABLE_MAIN);
        let route = Route { protocol: 3, ..route };
        self.view.routes.push(route);
        self
    }

    fn tunnel(mut self, tunnel: TunnelConfig) -> Self {
        self.tunnels.push(tunnel);
        self
    }

    fn link_mut(&mut self, name: &str) -> &mut Link {
        self.view.links.iter_mut().find(|link| link.name == name).unwrap()
    }

    fn compute(&self) -> Result<Topology, Vec<TopologyError>> {
        compute(&Inputs {
            interfaces: &self.interfaces,
            tunnels: &self.tunnels,
            settings: &self.settings,
            view: &self.view,
            nics: &self.nics,
            cores: &self.cores,
            workers: self.workers,
        })
    }

    fn plan(&self) -> Topology {
        self.compute().unwrap()
    }

    fn errors(&self) -> Vec<String> {
        self.compute().unwrap_err().iter().map(ToString::to_string).collect()
    }
}

fn link(id: u32, name: &str, kind: LinkKind) -> Link {
    Link {
        name: name.to_owned(),
        mac: [2, 0, 0, 0, 0, id as u8],
        mtu: 1500,
        up: true,
        carrier: true,
        kind,
        ..Link::new(InterfaceId(id))
    }
}

fn plain(id: u32, name: &str) -> Link {
    link(id, name, LinkKind::Plain)
}

fn slave(id: u32, name: &str, master: u32) -> Link {
    Link { master: Some(InterfaceId(master)), ..plain(id, name) }
}

fn bond(id: u32, name: &str, mode: BondMode) -> Link {
    link(id, name, LinkKind::Bond(mode))
}

fn vlan(id: u32, name: &str, tag: u16, lower: u32) -> Link {
    link(id, name, LinkKind::Vlan { id: tag, lower: InterfaceId(lower), service: false })
}

/// A tunnel's file without `ListenPort` and `Address`, which the topology does not look at.
fn tunnel(name: &str, peers: Vec<PeerSection>) -> TunnelConfig {
    TunnelConfig {
        name: name.to_owned(),
        file: PathBuf::from(format!("{name}.conf")),
        private_key: PrivateKey([1; 32]),
        listen_port: 0,
        listen_port_line: 0,
        fwmark: 0,
        addresses: Vec::new(),
        mtu: None,
        table: Table::Auto,
        peers,
        ignored: Vec::new(),
    }
}

/// A peer whose public key is 32 times `key`, without an endpoint.
fn peer(key: u8, allowed_ips: &[&str]) -> PeerSection {
    PeerSection {
        line: 1,
        friendly_name: None,
        public_key: PublicKey([key; 32]),
        preshared_key: Zeroizing::new([0; 32]),
        allowed_ips: allowed_ips.iter().map(|prefix| net(prefix)).collect(),
        endpoint: None,
        endpoint_name: None,
        persistent_keepalive: None,
    }
}

fn named(name: &str, peer: PeerSection) -> PeerSection {
    PeerSection { friendly_name: Some(name.to_owned()), ..peer }
}

fn at(endpoint: &str, peer: PeerSection) -> PeerSection {
    PeerSection { endpoint: Some(endpoint.parse::<SocketAddr>().unwrap()), ..peer }
}

fn net(prefix: &str) -> IpNet {
    prefix.parse().unwrap()
}

/// The kernel recipe: two files, one key, one prefix, and an address of its own for each tunnel.
fn recipe() -> Machine {
    let file = |name, own| {
        tunnel(name, vec![named("berlin", at("192.0.2.1:51820", peer(7, &["10.2.0.0/16", own])))])
    };
    Machine::bonded().tunnel(file("wg0", "10.9.0.2/32")).tunnel(file("wg1", "10.9.1.2/32"))
}

#[test]
fn the_plan_prints_what_matters() {
    let mut machine = recipe().with(vlan(6, "bond0.100", 100, 2));
    machine.nics[2].zero_copy = false;
    machine.link_mut("lan0").carrier = false;
    let text = machine.plan().to_string();
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    for row in [
        "4 workers on 0 1 2 3",
        "eth0 bond0 4 zero-copy 4096",
        "lan0 - 4 copy 2048",
        "bond0 - eth0 eth1",
        "bond0.100 100 eth0 eth1",
        "wg0 1 1420",
        "0 10.2.0.0/16 wg0 wg1",
        "2 10.9.1.2/32 wg1",
        "TUN MTU 1420",
        "note: lan0 has no carrier",
    ] {
        let wanted: Vec<_> = row.split(' ').collect();
        assert!(rows.contains(&wanted), "no line '{row}' in\n{text}");
    }
}

#[test]
fn one_worker_is_not_called_workers() {
    let mut machine = recipe();
    machine.cores = vec![2];
    assert!(machine.plan().to_string().starts_with("1 worker on 2\n"));
}

#[test]
fn the_plan_is_json_with_plain_numbers() {
    let machine = recipe().with(vlan(6, "bond0.100", 100, 2));
    let json = serde_json::to_value(machine.plan()).unwrap();
    let expected = serde_json::json!({
        "interface": 3, "name": "eth0", "bond": 2, "queues": 4, "mode": "zero-copy", "chunk": 4096
    });
    assert_eq!(json["ports"][0], expected);
    let expected = serde_json::json!({"interface": 6, "name": "bond0.100", "vlans": [100], "ports": [0, 1]});
    assert_eq!(json["interfaces"][1], expected);
    assert_eq!(json["groups"][0], serde_json::json!({"prefixes": ["10.2.0.0/16"], "peers": [0, 1]}));
    assert_eq!(json["peers"]["1"], serde_json::json!({"tunnel": 1, "section": 0, "groups": [0, 2]}));
    assert_eq!((&json["cores"], &json["tun_mtu"]), (&serde_json::json!([0, 1, 2, 3]), &1420.into()));
}

#[test]
fn a_tunnels_settings_are_its_own() {
    let mut machine = recipe();
    let pinned = TunnelSettings { roaming: false, copy_dscp: true };
    machine.settings.tunnels.insert("wg1".to_owned(), pinned);
    let settings: Vec<_> = machine.plan().tunnels.iter().map(|tunnel| tunnel.settings).collect();
    assert_eq!(settings, [TunnelSettings::default(), pinned]);
    machine.settings.tunnels.insert("wg7".to_owned(), pinned);
    let expected = "[tunnel.wg7] in forwarder.toml: there is no such tunnel: write a wg-quick file's name \
                    without .conf";
    assert_eq!(machine.errors(), [expected]);
}

#[test]
fn all_mistakes_are_told_at_once() {
    let mut machine = Machine::new(&["nope", "eth0"]).with(plain(2, "eth0"));
    machine.cores = Vec::new();
    machine = machine.tunnel(tunnel("wg0", vec![peer(1, &["10.2.0.0/16"])]));
    machine = machine.tunnel(tunnel("wg1", vec![peer(2, &["10.2.0.0/16"])]));
    let errors = machine.compute().unwrap_err();
    assert!(matches!(
        errors[..],
        [TopologyError::NoSuchDevice(_), TopologyError::DifferentKeys { .. }, TopologyError::NoCores]
    ));
}

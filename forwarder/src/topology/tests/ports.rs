//! Devices, bonds and VLANs.

use super::*;

fn port_names(plan: &Topology) -> Vec<&str> {
    plan.ports.iter().map(|port| port.name.as_str()).collect()
}

/// The interfaces as (name, VLAN ids, names of the ports).
fn interfaces(plan: &Topology) -> Vec<(&str, &[u16], Vec<&str>)> {
    let ports = |i: &InterfacePlan| i.ports.iter().map(|p| plan.ports[p.index()].name.as_str()).collect();
    plan.interfaces.iter().map(|i| (i.name.as_str(), &i.vlans[..], ports(i))).collect()
}

#[test]
fn a_bond_stands_for_its_slaves() {
    let plan = Machine::bonded().plan();
    assert_eq!(port_names(&plan), ["eth0", "eth1", "lan0"]);
    let bonds: Vec<_> = plan.ports.iter().map(|port| port.bond).collect();
    assert_eq!(bonds, [Some(InterfaceId(2)), Some(InterfaceId(2)), None]);
    assert_eq!(interfaces(&plan), [("bond0", &[][..], vec!["eth0", "eth1"]), ("lan0", &[], vec!["lan0"])]);
    assert!(plan.remarks.is_empty(), "{:?}", plan.remarks);
}

#[test]
fn ports_are_in_the_order_of_the_names_and_each_is_there_once() {
    let mut machine = Machine::bonded().with(vlan(6, "bond0.100", 100, 2));
    machine.link_mut("lan0").altnames = vec!["enp1s0".to_owned()];
    machine.interfaces = ["enp1s0", "bond0.100", "bond0", "lan0"].map(str::to_owned).into();
    let devices = port_devices(&machine.interfaces, &machine.view).unwrap();
    assert_eq!(devices, [5, 3, 4].map(InterfaceId));
    let plan = machine.plan();
    assert_eq!(port_names(&plan), ["lan0", "eth0", "eth1"], "an altname is not the name");
    let names: Vec<_> = plan.interfaces.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["lan0", "bond0.100", "bond0"]);
}

#[test]
fn supported_bond_modes() {
    for (mode, refused) in [
        (BondMode::RoundRobin, None),
        (BondMode::ActiveBackup, None),
        (BondMode::Xor, None),
        (BondMode::Lacp, None),
        (BondMode::Broadcast, Some("broadcast")),
        (BondMode::Tlb, Some("balance-tlb")),
        (BondMode::Alb, Some("balance-alb")),
    ] {
        let mut machine = Machine::bonded();
        machine.link_mut("bond0").kind = LinkKind::Bond(mode);
        let expected = refused.map(|mode| vec![TopologyError::BondMode { bond: "bond0".to_owned(), mode }]);
        assert_eq!(machine.compute().err(), expected, "{mode:?}");
    }
}

#[test]
fn what_cannot_be_a_port_is_refused_with_the_way_out() {
    for (name, error) in [
        ("nope", "nope: no such device: name one that `ip link` shows"),
        ("eth0", "eth0: belongs to bond bond0: use --iface bond0"),
        ("tap0", "tap0: belongs to br0, which takes its frames: ip link set tap0 nomaster"),
        ("gone0", "gone0: belongs to device 99, which takes its frames: ip link set gone0 nomaster"),
        ("bond1", "bond1: the bond has no slaves: ip link set DEVICE master bond1"),
        ("br0", "br0: is a bridge: name a plain device, a bond or a VLAN"),
        ("tun0", "tun0: is a tun: name a plain device, a bond or a VLAN"),
        ("lo", "lo: is a loopback: name a plain device, a bond or a VLAN"),
        ("eth0.7", "eth0: belongs to bond bond0: use --iface bond0"),
        ("br0.7", "br0: is a bridge: name a plain device, a bond or a VLAN"),
        ("far0.7", "far0.7: its lower device is not in this network namespace: run there"),
        ("a.1", "a.1: its lower device is not in this network namespace: run there"),
        (
            "lan0.1.2.3",
            "lan0.1.2.3: more than two VLANs on top of each other: name a device with at most two tags",
        ),
        ("wlan0", "wlan0: its driver tells nothing of its queues: see `ethtool -l wlan0`"),
    ] {
        let mut machine = Machine::bonded()
            .with(link(10, "br0", LinkKind::Other("bridge".to_owned())))
            .nic(slave(11, "tap0", 10))
            .nic(slave(12, "gone0", 99))
            .with(bond(13, "bond1", BondMode::Lacp))
            .with(link(14, "tun0", LinkKind::Other("tun".to_owned())))
            .with(link(1, "lo", LinkKind::Loopback))
            .with(vlan(15, "eth0.7", 7, 3))
            .with(vlan(16, "br0.7", 7, 10))
            .with(vlan(17, "far0.7", 7, 98))
            // A torn view: two VLANs on each other.
            .with(vlan(18, "a.1", 1, 19))
            .with(vlan(19, "b.1", 1, 18))
            .with(vlan(20, "lan0.1", 1, 5))
            .with(vlan(21, "lan0.1.2", 2, 20))
            .with(vlan(22, "lan0.1.2.3", 3, 21))
            .with(plain(23, "wlan0"));
        machine.interfaces = vec![name.to_owned()];
        assert_eq!(machine.errors(), [error], "--iface {name}");
    }
    assert_eq!(Machine::new(&[]).compute().unwrap_err(), [TopologyError::NoDevice]);
}

#[test]
fn vlans_on_a_bond_are_found_and_tagged() {
    let machine = Machine::bonded()
        .with(vlan(6, "bond0.100", 100, 2))
        .with(vlan(7, "storage", 7, 6))
        .with(vlan(8, "bond0.200", 200, 2));
    let both = || vec!["eth0", "eth1"];
    assert_eq!(
        interfaces(&machine.plan()),
        [
            ("bond0", &[][..], both()),
            ("bond0.100", &[100], both()),
            ("storage", &[100, 7], both()),
            ("bond0.200", &[200], both()),
            ("lan0", &[], vec!["lan0"]),
        ]
    );
}

#[test]
fn a_vlan_named_alone_takes_the_ports_but_not_the_untagged_frames() {
    let mut machine = Machine::bonded().with(vlan(6, "bond0.100", 100, 2)).with(vlan(7, "bond0.100.7", 7, 6));
    machine.interfaces = vec!["bond0.100".to_owned()];
    let both = || vec!["eth0", "eth1"];
    let expected = [("bond0.100", &[100][..], both()), ("bond0.100.7", &[100, 7], both())];
    assert_eq!(interfaces(&machine.plan()), expected);
}

#[test]
fn vlans_whose_frames_the_kernel_keeps_are_remarked() {
    let machine = Machine::bonded()
        .with(vlan(6, "bond0.1", 1, 2))
        .with(vlan(7, "bond0.1.2", 2, 6))
        .with(vlan(8, "bond0.1.2.3", 3, 7))
        .with(link(9, "br0", LinkKind::Other("bridge".to_owned())))
        .with(Link { master: Some(InterfaceId(9)), ..vlan(10, "bond0.4", 4, 2) })
        .with(Link { up: false, ..vlan(11, "bond0.5", 5, 2) });
    let plan = machine.plan();
    assert_eq!(
        plan.remarks,
        [
            "bond0.1.2.3: more than two VLAN tags, its frames stay with the kernel",
            "bond0.4: belongs to br0, its frames stay with the kernel",
            "bond0.5 is down: ip link set bond0.5 up",
        ]
    );
    let names: Vec<_> = plan.interfaces.iter().map(|i| i.name.as_str()).collect();
    assert_eq!(names, ["bond0", "bond0.1", "bond0.1.2", "bond0.5", "lan0"]);
}

#[test]
fn ports_that_are_down_are_remarked() {
    let mut machine = Machine::bonded();
    machine.link_mut("eth0").carrier = false;
    machine.link_mut("lan0").up = false;
    assert_eq!(machine.plan().remarks, ["eth0 has no carrier", "lan0 is down: ip link set lan0 up"]);
}

#[test]
fn mode_and_chunk_follow_from_the_driver_and_the_mtu() {
    // native, zero-copy, MTU -> mode, chunk; 256 bytes of headroom and 22 of headers must fit, too
    for (native, zero_copy, mtu, mode, chunk) in [
        (true, true, 68, Mode::ZeroCopy, Some(4096)),
        (true, true, 1500, Mode::ZeroCopy, Some(4096)),
        (true, true, 3818, Mode::ZeroCopy, Some(4096)),
        (true, true, 3819, Mode::ZeroCopy, None),
        (true, false, 1500, Mode::Copy, Some(2048)),
        (true, false, 1770, Mode::Copy, Some(2048)),
        (true, false, 1771, Mode::Copy, Some(4096)),
        (true, false, 9000, Mode::Copy, None),
        (false, false, 1500, Mode::Generic, Some(2048)),
        // Without native XDP there is no ring to map.
        (false, true, 1771, Mode::Generic, Some(4096)),
    ] {
        let link = Link { mtu, ..plain(2, "eth0") };
        let machine =
            Machine::new(&["eth0"]).nic_with(link, |nic| (nic.native, nic.zero_copy) = (native, zero_copy));
        let planned = machine.compute().map(|plan| (plan.ports[0].mode, plan.ports[0].chunk));
        let error = TopologyError::Mtu { device: "eth0".to_owned(), mtu, most: 3818 };
        let expected = chunk.map(|chunk| (mode, chunk)).ok_or_else(|| vec![error]);
        assert_eq!(planned, expected, "native {native}, zero-copy {zero_copy}, MTU {mtu}");
    }
}

#[test]
fn the_mtu_of_a_slave_is_the_bonds_to_mend() {
    let mut machine = Machine::bonded();
    machine.link_mut("eth1").mtu = 9000;
    assert_eq!(
        machine.errors(),
        ["bond0: MTU 9000 does not fit a frame of AF_XDP: ip link set bond0 mtu 3818"]
    );
}

#[test]
fn queues_are_between_one_and_what_the_socket_map_holds() {
    for (queues, expected) in [(0, Ok(1)), (1, Ok(1)), (64, Ok(64)), (65, Err(65))] {
        let machine = Machine::new(&["eth0"]).nic_with(plain(2, "eth0"), |nic| nic.queues = queues);
        let planned = machine.compute().map(|plan| plan.ports[0].queues);
        let error = |queues| vec![TopologyError::Queues { device: "eth0".to_owned(), queues, most: 64 }];
        assert_eq!(planned, expected.map_err(error));
    }
}

#[test]
fn service_tags_stay_with_the_kernel() {
    let mut outer = vlan(6, "bond0.7", 7, 2);
    outer.kind = LinkKind::Vlan { id: 7, lower: InterfaceId(2), service: true };
    let plan = Machine::bonded().with(outer).with(vlan(8, "bond0.7.8", 8, 6)).plan();
    assert!(interfaces(&plan).iter().all(|(name, ..)| !name.starts_with("bond0.7")), "{plan}");
    for name in ["bond0.7", "bond0.7.8"] {
        let remark = format!("{name}: carries an 802.1ad tag, its frames stay with the kernel");
        assert!(plan.remarks.contains(&remark), "{:?}", plan.remarks);
    }
}

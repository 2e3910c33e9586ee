//! From the devices asked for to ports, layer-3 interfaces and workers.

use arrayvec::ArrayVec;
use forwarder_contract::MAX_QUEUES;

use super::{Inputs, InterfacePlan, Mode, NicFacts, PortPlan, TopologyError};
use crate::id::{InterfaceId, PortId};
use crate::kernel::{BondMode, Link, LinkKind, View};

/// Kernel's room before a frame in its chunk, in bytes (`XDP_PACKET_HEADROOM`).
const HEADROOM: u32 = 256;
/// Ethernet header and two VLAN tags, in bytes.
const LINK_HEADERS: u32 = 14 + 8;
const SMALL_CHUNK: u32 = 2048;
const LARGE_CHUNK: u32 = 4096;

/// The devices that become ports for these `--iface` names, in port order.
///
/// # Errors
/// What is wrong with the names.
pub fn port_devices(interfaces: &[String], view: &View) -> Result<Vec<InterfaceId>, Vec<TopologyError>> {
    let (bases, mut errors) = bases(interfaces, view);
    let mut ports = Vec::new();
    for base in bases {
        match slaves_or_self(base, view) {
            Ok(devices) => ports.extend(devices.into_iter().map(|d| d.id)),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(ports) } else { Err(errors) }
}

/// The ports and the layer-3 interfaces on them, and what is wrong. Without workers there are neither.
pub(super) fn plan(
    inputs: &Inputs,
    remarks: &mut Vec<String>,
) -> (Vec<PortPlan>, Vec<InterfacePlan>, Vec<TopologyError>) {
    let view = inputs.view;
    let devices = match port_devices(inputs.interfaces, view) {
        Ok(devices) => devices,
        Err(errors) => return (Vec::new(), Vec::new(), errors),
    };
    let devices = || devices.iter().filter_map(|&id| view.link(id));
    remarks.extend(devices().filter_map(state_remark));
    if inputs.workers() == Some(0) {
        return (Vec::new(), Vec::new(), Vec::new());
    }
    let (mut ports, mut errors) = (Vec::new(), Vec::new());
    for device in devices() {
        match port(device, inputs) {
            Ok(port) => ports.push(port),
            Err(error) => errors.push(error),
        }
    }
    let interfaces = interfaces(inputs, &ports, remarks);
    (ports, interfaces, errors)
}

/// One core per worker: as many as allowed cores, queues and `--workers` (or the settings) admit.
pub(super) fn worker_cores(inputs: &Inputs, ports: &[PortPlan], remarks: &mut Vec<String>) -> Vec<usize> {
    let fewest = ports.iter().min_by_key(|p| p.queues);
    let queues = fewest.map_or(1, |p| p.queues as usize);
    let asked = inputs.workers();
    let possible = inputs.cores.len().min(queues);
    let workers = asked.unwrap_or(possible).min(possible);
    if let Some(port) = fewest.filter(|_| queues == 1 && inputs.cores.len().min(asked.unwrap_or(2)) > 1) {
        remarks.push(format!("{} has one queue, so there is one worker", port.name));
    } else if let Some(asked) = asked.filter(|&a| a > workers) {
        let (cores, smallest) = (inputs.cores.len(), fewest.map_or("a port", |p| p.name.as_str()));
        remarks.push(format!(
            "{asked} workers were asked for, there are {workers}: {cores} cores allowed, {queues} queues on {smallest}"
        ));
    }
    inputs.cores.iter().copied().take(workers).collect()
}

/// The plain devices and bonds below the `--iface` names, each once.
fn bases<'a>(interfaces: &[String], view: &'a View) -> (Vec<&'a Link>, Vec<TopologyError>) {
    let (mut bases, mut errors): (Vec<&Link>, Vec<_>) = (Vec::new(), Vec::new());
    if interfaces.is_empty() {
        errors.push(TopologyError::NoDevice);
    }
    for name in interfaces {
        match base(name, view) {
            Ok(base) if bases.iter().any(|b| b.id == base.id) => {}
            Ok(base) => bases.push(base),
            Err(error) => errors.push(error),
        }
    }
    (bases, errors)
}

fn base<'a>(name: &str, view: &'a View) -> Result<&'a Link, TopologyError> {
    let named = view.link_named(name).ok_or_else(|| TopologyError::NoSuchDevice(name.to_owned()))?;
    without_master(named, view)?;
    let (base, tags) = stack(named, view).ok_or_else(|| TopologyError::NoLower(name.to_owned()))?;
    if tags.len() > 2 {
        return Err(TopologyError::VlanDepth(name.to_owned()));
    }
    without_master(base, view)?;
    match &base.kind {
        LinkKind::Other(kind) => {
            Err(TopologyError::NotAPort { device: base.name.clone(), kind: kind.clone() })
        }
        LinkKind::Loopback => {
            Err(TopologyError::NotAPort { device: base.name.clone(), kind: "loopback".to_owned() })
        }
        LinkKind::Plain | LinkKind::Bond(_) | LinkKind::Vlan { .. } => Ok(base),
    }
}

fn without_master(link: &Link, view: &View) -> Result<(), TopologyError> {
    let Some(id) = link.master else { return Ok(()) };
    let device = link.name.clone();
    Err(match view.link(id) {
        Some(Link { kind: LinkKind::Bond(_), name: bond, .. }) => {
            TopologyError::Enslaved { device, bond: bond.clone() }
        }
        master => {
            let master = master.map_or_else(|| format!("device {id}"), |m| m.name.clone());
            TopologyError::HasMaster { device, master }
        }
    })
}

/// The device at the bottom, and the VLAN ids on the way, outer first. `None` when a lower device is
/// missing; the walk is bounded, since the view may be torn.
fn stack<'a>(link: &'a Link, view: &'a View) -> Option<(&'a Link, Vec<u16>)> {
    let (mut base, mut tags) = (link, Vec::new());
    while let LinkKind::Vlan { id, lower, .. } = base.kind {
        tags.insert(0, id);
        base = view.link(lower).filter(|_| tags.len() <= 8)?;
    }
    Some((base, tags))
}

/// A bond's slaves, or the device itself.
fn slaves_or_self<'a>(base: &'a Link, view: &'a View) -> Result<Vec<&'a Link>, TopologyError> {
    let LinkKind::Bond(mode) = base.kind else { return Ok(vec![base]) };
    if let Some(mode) = unsupported(mode) {
        return Err(TopologyError::BondMode { bond: base.name.clone(), mode });
    }
    let slaves: Vec<_> = view.slaves(base.id).collect();
    if slaves.is_empty() { Err(TopologyError::NoSlaves(base.name.clone())) } else { Ok(slaves) }
}

/// Modes in which any slave may receive and one of them sends a packet are mirrored. `broadcast` sends
/// copies, and tlb and alb rewrite MAC addresses by load, which frames past the bond would not follow.
fn unsupported(mode: BondMode) -> Option<&'static str> {
    match mode {
        BondMode::Lacp | BondMode::Xor | BondMode::RoundRobin | BondMode::ActiveBackup => None,
        BondMode::Broadcast => Some("broadcast"),
        BondMode::Tlb => Some("balance-tlb"),
        BondMode::Alb => Some("balance-alb"),
    }
}

fn port(device: &Link, inputs: &Inputs) -> Result<PortPlan, TopologyError> {
    let facts = inputs.nics.iter().find(|n| n.interface == device.id);
    let facts = facts.ok_or_else(|| TopologyError::NoFacts(device.name.clone()))?;
    let queues = facts.queues.max(1);
    if queues > MAX_QUEUES {
        return Err(TopologyError::Queues { device: device.name.clone(), queues, most: MAX_QUEUES });
    }
    let mode = mode(facts);
    let chunk = chunk(mode, device.mtu).ok_or_else(|| {
        let bond = device.master.and_then(|id| inputs.view.link(id));
        // A bond sets the MTU of its slaves.
        let named = bond.unwrap_or(device);
        let most = LARGE_CHUNK - HEADROOM - LINK_HEADERS;
        TopologyError::Mtu { device: named.name.clone(), mtu: device.mtu, most }
    })?;
    Ok(PortPlan { interface: device.id, name: device.name.clone(), bond: device.master, queues, mode, chunk })
}

fn mode(facts: &NicFacts) -> Mode {
    match facts {
        NicFacts { native: true, zero_copy: true, .. } => Mode::ZeroCopy,
        NicFacts { native: true, .. } => Mode::Copy,
        _ => Mode::Generic,
    }
}

/// The chunk that holds a frame of this MTU.
fn chunk(mode: Mode, mtu: u32) -> Option<u32> {
    let fits = |chunk: u32| mtu <= chunk - HEADROOM - LINK_HEADERS;
    let small = mode != Mode::ZeroCopy && fits(SMALL_CHUNK);
    if small { Some(SMALL_CHUNK) } else { fits(LARGE_CHUNK).then_some(LARGE_CHUNK) }
}

fn state_remark(device: &Link) -> Option<String> {
    let name = &device.name;
    match (device.up, device.carrier) {
        (false, _) => Some(format!("{name} is down: ip link set {name} up")),
        (true, false) => Some(format!("{name} has no carrier")),
        (true, true) => None,
    }
}

/// The named interfaces and every VLAN on them, in order of the names, then of the index.
fn interfaces(inputs: &Inputs, ports: &[PortPlan], remarks: &mut Vec<String>) -> Vec<InterfacePlan> {
    let view = inputs.view;
    let mut plans: Vec<InterfacePlan> = Vec::new();
    for named in inputs.interfaces.iter().filter_map(|name| view.link_named(name)) {
        let above = view.links.iter().filter(|l| l.id != named.id && stands_on(l, named.id, view));
        for link in std::iter::once(named).chain(above) {
            if !plans.iter().any(|p| p.interface == link.id) {
                plans.extend(interface(link, view, ports, remarks));
            }
        }
    }
    plans
}

/// Whether a tag on the way down is one of 802.1ad: we send those of 802.1Q only.
fn has_service_tag(link: &Link, view: &View) -> bool {
    lowers(link, view).any(|l| matches!(l.kind, LinkKind::Vlan { service: true, .. }))
}

fn stands_on(link: &Link, below: InterfaceId, view: &View) -> bool {
    lowers(link, view).any(|l| l.id == below)
}

/// The device and those below it. Bounded, since the view may be torn.
fn lowers<'a>(link: &'a Link, view: &'a View) -> impl Iterator<Item = &'a Link> {
    let lower = |l: &&Link| match l.kind {
        LinkKind::Vlan { lower, .. } => view.link(lower),
        _ => None,
    };
    std::iter::successors(Some(link), lower).take(8)
}

fn interface(
    link: &Link,
    view: &View,
    ports: &[PortPlan],
    remarks: &mut Vec<String>,
) -> Option<InterfacePlan> {
    let (base, tags) = stack(link, view)?;
    let name = link.name.clone();
    let Ok(vlans) = ArrayVec::try_from(&tags[..]) else {
        remarks.push(format!("{name}: more than two VLAN tags, its frames stay with the kernel"));
        return None;
    };
    if let Some(master) = link.master {
        let master = view.link(master).map_or("another device", |m| m.name.as_str());
        remarks.push(format!("{name}: belongs to {master}, its frames stay with the kernel"));
        return None;
    }
    if has_service_tag(link, view) {
        remarks.push(format!("{name}: carries an 802.1ad tag, its frames stay with the kernel"));
        return None;
    }
    if base.id != link.id {
        remarks.extend(state_remark(link));
    }
    let carries = |p: &PortPlan| p.interface == base.id || p.bond == Some(base.id);
    let ports = ports.iter().zip(0..).filter(|(p, _)| carries(p)).map(|(_, i)| PortId(i)).collect();
    Some(InterfacePlan { interface: link.id, name, vlans, ports })
}

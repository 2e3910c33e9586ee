//! NIC offloads that change frames before the XDP program sees them.

use super::output;
use crate::id::PortId;
use crate::topology::{InterfacePlan, PortPlan, Topology};

/// Feature, its keyword for `ethtool -K`, and what it does.
const MERGING: [(&str, &str, &str); 2] = [
    ("large-receive-offload", "lro", "merges packets that XDP must see one by one"),
    ("rx-gro-hw", "rx-gro-hw", "merges packets that XDP must see one by one"),
];
const STRIPPING: (&str, &str, &str) = ("rx-vlan-offload", "rxvlan", "hides the VLAN tags that XDP must see");

/// A line for each offload that is on and must not be, or for a port that could not be looked at.
pub(super) fn harmful(topology: &Topology) -> Vec<String> {
    let mut lines = Vec::new();
    for (port, id) in topology.ports.iter().zip(0..) {
        let tagged = |i: &InterfacePlan| !i.vlans.is_empty() && i.ports.contains(&PortId(id));
        let vlans = topology.interfaces.iter().any(tagged);
        match output("ethtool", &["--show-features", &port.name]) {
            Ok(features) => lines.extend(warnings(port, vlans, &features)),
            Err(reason) => lines.push(format!("{}: offloads could not be looked at: {reason}", port.name)),
        }
    }
    lines
}

/// `features` is what `ethtool -k` prints: `name: on`, `name: off [fixed]`, ...
fn warnings(port: &PortPlan, vlans: bool, features: &str) -> Vec<String> {
    let device = &port.name;
    let unwanted = MERGING.into_iter().chain(vlans.then_some(STRIPPING));
    let line = |(feature, keyword, effect): (&str, &str, &str)| {
        let state = features.lines().find_map(|l| l.trim().strip_prefix(feature)?.strip_prefix(": "))?;
        match state {
            "on" => Some(format!("{device}: {feature} {effect}: ethtool -K {device} {keyword} off")),
            "on [fixed]" => Some(format!(
                "{device}: {feature} {effect}, and its driver cannot switch it off: use another NIC"
            )),
            _ => None,
        }
    };
    unwanted.filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::InterfaceId;
    use crate::topology::Mode;

    #[test]
    fn offloads_that_are_on_are_named_with_the_command() {
        let features = "Features for eth0:\nrx-checksumming: on\nlarge-receive-offload: on\n\
                        rx-vlan-offload: on [fixed]\nrx-gro-hw: off [fixed]\nrx-vlan-filter: on\n";
        let port = PortPlan {
            interface: InterfaceId(2),
            name: "eth0".into(),
            bond: None,
            queues: 1,
            mode: Mode::Copy,
            chunk: 2048,
        };
        let lro = "eth0: large-receive-offload merges packets that XDP must see one by one: ethtool -K eth0 lro off";
        assert_eq!(warnings(&port, false, features), [lro]);
        let with_vlans = warnings(&port, true, features);
        assert_eq!(with_vlans[0], lro);
        assert!(
            with_vlans[1].starts_with("eth0: rx-vlan-offload hides")
                && with_vlans[1].ends_with("use another NIC")
        );
        assert_eq!(with_vlans.len(), 2);
    }
}

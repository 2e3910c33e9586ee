//! The plan as it is printed before anything is attached.

use std::fmt;

use comfy_table::Table;
use comfy_table::presets::NOTHING;

use super::{Mode, Topology};

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
            Self::Generic => "generic",
        })
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (workers, cores) = (self.cores.len(), join(&self.cores));
        match workers {
            0 => writeln!(f, "no workers: all packets go by the TUN and the tunnels' UDP sockets")?,
            1 => writeln!(f, "1 worker on {cores}")?,
            _ => writeln!(f, "{workers} workers on {cores}")?,
        }
        if workers > 0 {
            writeln!(f, "{}", self.port_table())?;
            writeln!(f, "{}", self.interface_table())?;
        }
        writeln!(f, "{}", self.tunnel_table())?;
        writeln!(f, "{}", self.group_table())?;
        writeln!(f, "TUN MTU {}", self.tun_mtu)?;
        for remark in &self.remarks {
            writeln!(f, "note: {remark}")?;
        }
        Ok(())
    }
}

impl Topology {
    fn port_table(&self) -> Table {
        let mut table = table(&["port", "bond", "queues", "mode", "chunk"]);
        for port in &self.ports {
            let bond = port.bond.and_then(|b| self.interfaces.iter().find(|i| i.interface == b));
            let bond = match (port.bond, bond) {
                (None, _) => "-".to_owned(),
                (Some(_), Some(bond)) => bond.name.clone(),
                (Some(id), None) => format!("#{id}"),
            };
            let (queues, mode, chunk) =
                (port.queues.to_string(), port.mode.to_string(), port.chunk.to_string());
            table.add_row([port.name.clone(), bond, queues, mode, chunk]);
        }
        table
    }

    fn interface_table(&self) -> Table {
        let mut table = table(&["interface", "vlans", "ports"]);
        for interface in &self.interfaces {
            let ports = interface.ports.iter().map(|p| &self.ports[p.index()].name);
            table.add_row([interface.name.clone(), join(&interface.vlans), join(ports)]);
        }
        table
    }

    fn tunnel_table(&self) -> Table {
        let mut table = table(&["tunnel", "peers", "MTU"]);
        for tunnel in &self.tunnels {
            table.add_row([tunnel.name.clone(), tunnel.peers.len().to_string(), tunnel.mtu.to_string()]);
        }
        table
    }

    fn group_table(&self) -> Table {
        let mut table = table(&["group", "prefixes", "tunnels"]);
        for (i, group) in self.groups.iter().enumerate() {
            let tunnels = group.peers.iter().map(|p| self.tunnel_name(*p));
            table.add_row([i.to_string(), join(&group.prefixes), join(tunnels)]);
        }
        table
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header);
    table
}

/// `a b c`, or `-` for nothing.
fn join<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<_> = items.into_iter().map(|i| i.to_string()).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(" ") }
}

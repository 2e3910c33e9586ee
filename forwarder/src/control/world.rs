//! The kernel's tables, as the gateway takes them in: what changed, what follows from it, and what the XDP
//! programs are told.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

use forwarder_contract::{Interface, InterfaceKey, Listener};
use ipnet::IpNet;

use super::gateway::{Gateway, Plan, Stale};
use super::{routes, snapshots};
use crate::clock;
use crate::id::{InterfaceId, PortId};
use crate::kernel::netlink::Changed;
use crate::kernel::{Address, PROTOCOL, Route, RouteKind, View};
use crate::xdp::XdpError;

/// Pause after the kernel's tables could not be read or a map not be written.
const VIEW_RETRY: Duration = Duration::from_secs(1);

impl Gateway {
    /// Reads the kernel's tables and fills the maps for the first time.
    ///
    /// # Errors
    /// When the kernel refuses to be read or a map to be written.
    pub async fn begin(&mut self) -> anyhow::Result<()> {
        self.take_view(Changed::all()).await
    }

    /// Reads the state of the bonds' slaves, which the kernel does not always announce.
    pub async fn look_at_bonds(&mut self) {
        let mut bonds: Vec<InterfaceId> =
            self.plan.topology.ports.iter().filter_map(|port| port.bond).collect();
        bonds.dedup();
        for bond in bonds {
            let slaves = match self.kernel.slaves(bond).await {
                Ok(slaves) => slaves,
                Err(error) => return tracing::warn!("{error}; the bond counts as it was"),
            };
            for slave in slaves {
                let known = self.view.links.iter_mut().find(|link| link.id == slave.id);
                if let Some(known) = known.filter(|known| **known != slave) {
                    *known = slave;
                    self.stale.paths = true;
                }
            }
        }
    }

    /// Takes in what changed. When that fails the last state stands: its routes fail closed.
    pub(super) async fn refresh_view(&mut self) {
        let now = clock::boottime();
        let changed = self.stale.view;
        if (changed.is_empty() && !self.stale.maps) || now < self.view_due {
            return;
        }
        self.stale.view = Changed::empty();
        if let Err(error) = self.take_view(changed).await {
            tracing::error!("{error:#}; the last state stands, trying again in {VIEW_RETRY:?}");
            // Some of the tables may have been read, and what is new in them is told only once.
            self.stale = Stale { view: self.stale.view | changed, maps: true, paths: true, snapshots: true };
            self.view_due = now + VIEW_RETRY;
        }
    }

    async fn take_view(&mut self, changed: Changed) -> anyhow::Result<()> {
        let changed = self.kernel.refresh(&mut self.view, changed).await?;
        self.stale.paths |= !changed.is_empty();
        self.stale.snapshots |= !changed.is_empty();
        // Neighbours stand in no map; what else changed may.
        self.stale.maps |= !Changed::NEIGHBOURS.contains(changed);
        if self.stale.maps {
            self.guard_operators_routes().await?;
            self.plan.shared.set_own(own_addresses(&self.view));
            self.take_routes();
            self.write_maps()?;
            self.stale.maps = false;
        }
        Ok(())
    }

    /// Merges the kernel's routes with the groups, whenever either has changed: routes name groups by position.
    pub(super) fn take_routes(&mut self) {
        self.routes = routes::merge(&self.view, &self.plan.topology, self.plan.tun);
        self.stale.snapshots = true;
    }

    /// A prefix that the operator routes to the TUN gets its fail-closed route when it is first seen.
    async fn guard_operators_routes(&mut self) -> anyhow::Result<()> {
        let routes = &self.view.routes;
        let theirs = routes.iter().filter(|r| r.interface == Some(self.plan.tun) && r.protocol != PROTOCOL);
        let theirs = theirs.filter(|r| r.kind == RouteKind::Unicast && r.prefix.prefix_len() > 0);
        let mut missing: HashSet<Route> = theirs.map(|r| Route::unreachable(r.prefix, r.table)).collect();
        for route in routes {
            missing.remove(route);
        }
        for guard in &missing {
            self.kernel.add_route(guard).await?;
        }
        Ok(())
    }

    /// Tells every XDP program which frames are ours now.
    fn write_maps(&mut self) -> Result<(), XdpError> {
        let listeners = self.listeners();
        for (port, program) in (0..).map(PortId).zip(&mut self.programs) {
            program.set_steering(&self.routes.steering)?;
            program.set_listeners(&listeners)?;
            program.set_interfaces(&interfaces(&self.plan, &self.view, port))?;
        }
        Ok(())
    }

    /// Every local address with every listen port.
    pub(super) fn listeners(&self) -> Vec<Listener> {
        let address = |ip: IpAddr| match ip {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        // No tunnel has an id in between.
        let ports = self.plan.tunnels.iter().map(|t| t.listen_port.to_be()).filter(|port| *port != 0);
        let listener = |port_be| {
            let at =
                move |a: &Address| Listener { address: address(a.address.addr()), port_be, padding: [0; 2] };
            self.view.addresses.iter().map(at)
        };
        ports.flat_map(listener).collect()
    }
}

/// Addresses to which nothing is sent: our own, and broadcasts.
fn own_addresses(view: &View) -> HashSet<IpAddr> {
    let both = |a: &Address| [a.address.addr(), broadcast(a.address)];
    view.addresses.iter().flat_map(both).collect()
}

/// The last address of an IPv4 subnet, which is its broadcast address; others have none.
fn broadcast(subnet: IpNet) -> IpAddr {
    if subnet.addr().is_ipv4() && subnet.prefix_len() < 31 { subnet.broadcast() } else { subnet.addr() }
}

/// The interface map of the program on `port`.
fn interfaces(plan: &Plan, view: &View, port: PortId) -> Vec<(InterfaceKey, Interface)> {
    let entries = plan.topology.interfaces.iter().flat_map(|interface| {
        let keys = snapshots::frame_keys(&plan.topology, view, interface.interface);
        let here = keys.into_iter().filter(move |key| key.port == port);
        here.map(|key| {
            let wire = InterfaceKey {
                outer_vlan: key.outer_vlan,
                inner_vlan: key.inner_vlan,
                mac: key.mac,
                padding: [0; 2],
            };
            (wire, Interface { ifindex: interface.interface.0, tunnel_mtu: u32::from(plan.topology.tun_mtu) })
        })
    });
    entries.collect()
}

//! What the kernel must know for `run`: the TUN's addresses and routes, and the fail-closed routes that
//! stand before and behind them.

use ipnet::IpNet;
use nix::errno::Errno;

use super::plan::fwmark;
use crate::config::{Table, TunnelConfig};
use crate::id::InterfaceId;
use crate::kernel::netlink::Kernel;
use crate::kernel::{DefaultRules, Error, Family, Route, TABLE_MAIN, TABLE_TUNNEL, guard};
use crate::topology::Topology;

/// Fail-closed routes first, then the TUN with its addresses and MTU, then the routes to it.
///
/// # Errors
/// When the kernel refuses.
pub async fn set_up(
    kernel: &Kernel,
    topology: &Topology,
    configs: &[TunnelConfig],
    tun: InterfaceId,
) -> Result<(), Error> {
    guard::close(kernel, &guarded(topology, configs)).await?;
    kernel.set_mtu(tun, u32::from(topology.tun_mtu)).await?;
    match kernel.set_no_link_local(tun).await {
        Err(e) if e.errno() == Some(Errno::EAFNOSUPPORT) => {} // a kernel without IPv6
        other => other?,
    }
    for address in distinct(configs.iter().flat_map(|c| c.addresses.iter().copied())) {
        kernel.add_address(tun, address).await?;
    }
    kernel.set_link_up(tun).await?;
    for (prefix, table) in routed(topology, configs) {
        kernel.add_route(&Route::unicast(prefix, tun, table)).await?;
    }
    for rules in default_rules(configs) {
        kernel.add_default_rules(&rules).await?;
    }
    Ok(())
}

/// Every remote prefix with the table in which its route stands or would stand. A `/0` that the operator
/// routes by hand is none: an unreachable default route would guard nothing but the operator's own.
fn guarded(topology: &Topology, configs: &[TunnelConfig]) -> Vec<(IpNet, u32)> {
    distinct(prefixes(topology, configs).filter_map(|(prefix, config)| match config.table {
        Table::Off if prefix.prefix_len() == 0 => None,
        Table::Off => Some((prefix, TABLE_MAIN)),
        _ => table(prefix, config).map(|table| (prefix, table)),
    }))
}

/// The prefixes that the files want routed to the TUN, with their tables.
fn routed(topology: &Topology, configs: &[TunnelConfig]) -> Vec<(IpNet, u32)> {
    distinct(
        prefixes(topology, configs).filter_map(|(prefix, config)| Some((prefix, table(prefix, config)?))),
    )
}

/// The table of the route to the TUN; none when the operator routes.
fn table(prefix: IpNet, config: &TunnelConfig) -> Option<u32> {
    match config.table {
        Table::Off => None,
        Table::Auto if prefix.prefix_len() == 0 => Some(TABLE_TUNNEL),
        Table::Auto => Some(TABLE_MAIN),
        Table::Number(table) => Some(table),
    }
}

/// Every prefix of a group with each of the files that carry it.
fn prefixes<'a>(
    topology: &'a Topology,
    configs: &'a [TunnelConfig],
) -> impl Iterator<Item = (IpNet, &'a TunnelConfig)> {
    topology.groups.iter().flat_map(move |group| {
        let config = |peer: &crate::id::PeerId| &configs[topology.peers[peer.index()].tunnel.index()];
        let files = group.peers.iter().map(config);
        files.flat_map(|config| group.prefixes.iter().map(move |prefix| (*prefix, config)))
    })
}

/// wg-quick's rules for each family of which a file carries the `/0`. The files share one mark: the
/// topology has seen to that.
fn default_rules(configs: &[TunnelConfig]) -> Vec<DefaultRules> {
    let automatic = configs.iter().filter(|config| config.table == Table::Auto);
    let defaults = automatic.flat_map(|config| {
        let prefixes = config.peers.iter().flat_map(|peer| &peer.allowed_ips);
        prefixes.filter(|prefix| prefix.prefix_len() == 0).map(move |prefix| (*prefix, fwmark(config)))
    });
    let rules = |(prefix, mark)| DefaultRules { family: Family::of(&prefix), mark, table: TABLE_TUNNEL };
    distinct(defaults).into_iter().map(rules).collect()
}

fn distinct<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    items.collect::<std::collections::BTreeSet<T>>().into_iter().collect()
}

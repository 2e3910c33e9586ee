//! What the kernel must know for `run`: the TUN's addresses and routes, and the fail-closed routes that
//! stand before and behind them.

use std::collections::BTreeSet;

use ipnet::IpNet;
use nix::errno::Errno;

use super::plan::fwmark;
use crate::config::{Table, TunnelConfig};
use crate::id::InterfaceId;
use crate::kernel::netlink::Kernel;
use crate::kernel::{DefaultRules, Error, Family, Route, TABLE_MAIN, TABLE_TUNNEL, guard};

/// What the kernel shall have for the tunnels of `configs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Fail-closed routes: every remote prefix with the table in which its route stands or would stand.
    guards: BTreeSet<(IpNet, u32)>,
    /// The TUN's addresses.
    addresses: BTreeSet<IpNet>,
    /// Prefixes that are routed to the TUN, with their tables.
    routes: BTreeSet<(IpNet, u32)>,
    /// Families (IPv4: true) whose `/0` is routed to the TUN, with the mark that goes past it.
    defaults: BTreeSet<(bool, u32)>,
    /// The TUN's MTU, in bytes.
    mtu: u32,
}

impl Wanted {
    /// For these tunnels; `mtu` is the TUN's.
    pub fn new(configs: &[TunnelConfig], mtu: u16) -> Self {
        // A `/0` that the operator routes by hand has none: an unreachable default route would guard nothing
        // but the operator's own.
        let guard = |(prefix, config): (IpNet, &TunnelConfig)| match config.table {
            Table::Off if prefix.prefix_len() == 0 => None,
            Table::Off => Some((prefix, TABLE_MAIN)),
            _ => table(prefix, config).map(|table| (prefix, table)),
        };
        // wg-quick's rules for each family of which a file carries the `/0`. The files share one mark: the
        // topology has seen to that.
        let default = |(prefix, config): (IpNet, &TunnelConfig)| {
            let automatic = config.table == Table::Auto && prefix.prefix_len() == 0;
            automatic.then(|| (prefix.addr().is_ipv4(), fwmark(config)))
        };
        Self {
            guards: prefixes(configs).filter_map(guard).collect(),
            addresses: configs.iter().flat_map(|c| c.addresses.iter().copied()).collect(),
            routes: prefixes(configs)
                .filter_map(|(prefix, config)| Some((prefix, table(prefix, config)?)))
                .collect(),
            defaults: prefixes(configs).filter_map(default).collect(),
            mtu: u32::from(mtu),
        }
    }

    /// What of this `other` lacks. The MTU is of both.
    fn beyond(&self, other: &Self) -> Self {
        Self {
            guards: &self.guards - &other.guards,
            addresses: &self.addresses - &other.addresses,
            routes: &self.routes - &other.routes,
            defaults: &self.defaults - &other.defaults,
            mtu: self.mtu,
        }
    }

    fn rules(&self) -> impl Iterator<Item = DefaultRules> {
        let family = |v4: bool| if v4 { Family::V4 } else { Family::V6 };
        let rules = move |(v4, mark): &(bool, u32)| DefaultRules {
            family: family(*v4),
            mark: *mark,
            table: TABLE_TUNNEL,
        };
        self.defaults.iter().map(rules)
    }
}

/// Fail-closed routes first, then the TUN with its addresses and MTU, then the routes to it.
///
/// # Errors
/// When the kernel refuses.
pub async fn set_up(kernel: &Kernel, wanted: &Wanted, tun: InterfaceId) -> Result<(), Error> {
    guard::close(kernel, &wanted.guards.iter().copied().collect::<Vec<_>>()).await?;
    kernel.set_mtu(tun, wanted.mtu).await?;
    match kernel.set_no_link_local(tun).await {
        Err(e) if e.errno() == Some(Errno::EAFNOSUPPORT) => {} // a kernel without IPv6
        other => other?,
    }
    for address in &wanted.addresses {
        kernel.add_address(tun, *address).await?;
    }
    kernel.set_link_up(tun).await?;
    route(kernel, wanted, tun).await
}

/// Adds what `next` has beyond `now`, in the order of [`set_up`]. What failed is taken back: then all is as
/// it was.
///
/// # Errors
/// When the kernel refuses.
pub async fn extend(kernel: &Kernel, now: &Wanted, next: &Wanted, tun: InterfaceId) -> Result<(), Error> {
    let more = next.beyond(now);
    let outcome = add(kernel, now, &more, tun).await;
    if outcome.is_err() {
        take(kernel, &more, tun).await;
        if next.mtu != now.mtu
            && let Err(error) = kernel.set_mtu(tun, now.mtu).await
        {
            tracing::warn!("{error}");
        }
    }
    outcome
}

/// Removes what `now` had beyond `next`, in the reverse order.
pub async fn withdraw(kernel: &Kernel, now: &Wanted, next: &Wanted, tun: InterfaceId) {
    let less = now.beyond(next);
    take(kernel, &less, tun).await;
    // The kernel removes an address with the later ones of its subnet.
    for address in next.addresses.iter().filter(|_| !less.addresses.is_empty()) {
        match kernel.add_address(tun, *address).await {
            Err(e) if e.errno() == Some(Errno::EEXIST) => {}
            outcome => tell(outcome),
        }
    }
}

async fn add(kernel: &Kernel, now: &Wanted, more: &Wanted, tun: InterfaceId) -> Result<(), Error> {
    let present = kernel.our_routes().await?;
    for (prefix, table) in &more.guards {
        let guard = Route::unreachable(*prefix, *table);
        // The operator's own route to the TUN may have brought it.
        if !present.contains(&guard) {
            kernel.add_route(&guard).await?;
        }
    }
    if more.mtu != now.mtu {
        kernel.set_mtu(tun, more.mtu).await?;
    }
    for address in &more.addresses {
        kernel.add_address(tun, *address).await?;
    }
    route(kernel, more, tun).await
}

async fn route(kernel: &Kernel, wanted: &Wanted, tun: InterfaceId) -> Result<(), Error> {
    for (prefix, table) in &wanted.routes {
        kernel.add_route(&Route::unicast(*prefix, tun, *table)).await?;
    }
    for rules in wanted.rules() {
        kernel.add_default_rules(&rules).await?;
    }
    Ok(())
}

/// Removes all that is there of `less`, the fail-closed routes last.
async fn take(kernel: &Kernel, less: &Wanted, tun: InterfaceId) {
    for rules in less.rules() {
        tell(kernel.remove_default_rules(&rules).await);
    }
    for (prefix, table) in &less.routes {
        tell(kernel.remove_route(&Route::unicast(*prefix, tun, *table)).await);
    }
    for address in &less.addresses {
        tell(kernel.remove_address(tun, *address).await);
    }
    for (prefix, table) in &less.guards {
        tell(kernel.remove_route(&Route::unreachable(*prefix, *table)).await);
    }
}

/// That something is gone already does not matter; what the kernel keeps goes with the process.
fn tell(outcome: Result<(), Error>) {
    match outcome {
        Err(e)
            if matches!(
                e.errno(),
                Some(Errno::ESRCH | Errno::ENOENT | Errno::ENODEV | Errno::EADDRNOTAVAIL)
            ) => {}
        Err(error) => tracing::warn!("{error}"),
        Ok(()) => {}
    }
}

/// Every prefix with each of the files that carry it.
fn prefixes(configs: &[TunnelConfig]) -> impl Iterator<Item = (IpNet, &TunnelConfig)> {
    configs.iter().flat_map(|config| {
        let allowed = config.peers.iter().flat_map(|peer| &peer.allowed_ips);
        allowed.map(move |prefix| (*prefix, config))
    })
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

//! What the kernel must know for `run`: the TUN's addresses and routes, and the fail-closed routes that
//! stand before and behind them.

use std::collections::{BTreeSet, HashSet};

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

/// Fail-closed routes first, then the TUN with its addresses and MTU, then the routes to it, and the rules. What an
/// earlier run has left and nobody wants goes: a rule for another mark would lead our own packets into the TUN.
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
    // What fails here ends the start, and all of it goes then.
    route(kernel, wanted, &mut Wanted::default(), tun).await?;
    kernel.remove_rules_beyond(wanted.rules()).await
}

/// Adds what `next` has beyond `now`, in the order of [`set_up`]. When that fails, what was added is taken back:
/// then all is as it was.
///
/// # Errors
/// When the kernel refuses.
pub async fn extend(kernel: &Kernel, now: &Wanted, next: &Wanted, tun: InterfaceId) -> Result<(), Error> {
    let mut added = Wanted { mtu: now.mtu, ..Wanted::default() };
    let outcome = add(kernel, &next.beyond(now), &mut added, tun).await;
    if outcome.is_err() {
        take_rules(kernel, &added, now).await;
        take(kernel, &added, now, tun).await;
        if added.mtu != now.mtu {
            tell(kernel.set_mtu(tun, now.mtu).await);
        }
    }
    outcome
}

/// Removes the rules that `now` had beyond `next`. To be called as soon as the sockets have their new marks:
/// while the rules for two marks stand, what carries either of them goes into the TUN.
pub async fn withdraw_rules(kernel: &Kernel, now: &Wanted, next: &Wanted) {
    take_rules(kernel, &now.beyond(next), next).await;
}

/// Removes what else `now` had beyond `next`, in the reverse order.
pub async fn withdraw(kernel: &Kernel, now: &Wanted, next: &Wanted, tun: InterfaceId) {
    take(kernel, &now.beyond(next), next, tun).await;
}

/// Adds all of `more`, and notes in `added` what it did. Fail-closed routes and rules may be there already; a route
/// to the TUN or an address that is there is an error.
async fn add(kernel: &Kernel, more: &Wanted, added: &mut Wanted, tun: InterfaceId) -> Result<(), Error> {
    let present: HashSet<Route> = kernel.our_routes().await?.into_iter().collect();
    for (prefix, table) in &more.guards {
        let guard = Route::unreachable(*prefix, *table);
        // The operator's own route to the TUN may have brought it.
        if !present.contains(&guard) {
            kernel.add_route(&guard).await?;
            added.guards.insert((*prefix, *table));
        }
    }
    if more.mtu != added.mtu {
        kernel.set_mtu(tun, more.mtu).await?;
        added.mtu = more.mtu;
    }
    for address in &more.addresses {
        kernel.add_address(tun, *address).await?;
        added.addresses.insert(*address);
    }
    route(kernel, more, added, tun).await
}

async fn route(kernel: &Kernel, wanted: &Wanted, added: &mut Wanted, tun: InterfaceId) -> Result<(), Error> {
    for (prefix, table) in &wanted.routes {
        kernel.add_route(&Route::unicast(*prefix, tun, *table)).await?;
        added.routes.insert((*prefix, *table));
    }
    for (default, rules) in wanted.defaults.iter().zip(wanted.rules()) {
        // There are two, and the second may be refused.
        added.defaults.insert(*default);
        kernel.add_default_rules(&rules).await?;
    }
    Ok(())
}

/// Removes the rules of `less`; where `kept` has some of the family, they share the one for specific routes.
async fn take_rules(kernel: &Kernel, less: &Wanted, kept: &Wanted) {
    for rules in less.rules() {
        let shared = kept.rules().any(|kept| kept.family == rules.family);
        let removed = if shared {
            kernel.remove_mark_rule(&rules).await
        } else {
            kernel.remove_default_rules(&rules).await
        };
        tell(removed);
    }
}

/// Removes routes and addresses of `less`, the fail-closed routes last, and leaves what `kept` says.
async fn take(kernel: &Kernel, less: &Wanted, kept: &Wanted, tun: InterfaceId) {
    for (prefix, table) in &less.routes {
        tell(kernel.remove_route(&Route::unicast(*prefix, tun, *table)).await);
    }
    for address in &less.addresses {
        tell(kernel.remove_address(tun, *address).await);
    }
    if !less.addresses.is_empty() {
        // The kernel removes an address with the later ones of its subnet, and all routes with the last IPv4
        // address.
        for address in &kept.addresses {
            tell(kernel.add_address(tun, *address).await);
        }
        for (prefix, table) in &kept.routes {
            tell(kernel.add_route(&Route::unicast(*prefix, tun, *table)).await);
        }
    }
    for (prefix, table) in &less.guards {
        tell(kernel.remove_route(&Route::unreachable(*prefix, *table)).await);
    }
}

/// What is gone or there already does not matter; what the kernel keeps goes with the process.
fn tell(outcome: Result<(), Error>) {
    let Err(error) = outcome else { return };
    let done = [Errno::ESRCH, Errno::ENOENT, Errno::ENODEV, Errno::EADDRNOTAVAIL, Errno::EEXIST];
    if !error.errno().is_some_and(|errno| done.contains(&errno)) {
        tracing::warn!("{error}");
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::wg_quick;

    fn wanted(interface: &str, allowed: &str) -> Wanted {
        let text = format!(
            "[Interface]\nPrivateKey = 6AgToMKAU6mHoSgHQnIUKXvMhZ5vwcNuSj1T3KHfZ1Q=\n{interface}\n\
             [Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nAllowedIPs = {allowed}\n"
        );
        Wanted::new(&[wg_quick::parse("wg0", Path::new("wg0.conf"), text.as_bytes()).unwrap()], 1420)
    }

    fn set(prefixes: &[(&str, u32)]) -> BTreeSet<(IpNet, u32)> {
        prefixes.iter().map(|(prefix, table)| (prefix.parse().unwrap(), *table)).collect()
    }

    #[test]
    fn the_table_says_what_is_routed_and_what_is_guarded() {
        let allowed = "10.2.0.0/16, 0.0.0.0/0";
        let automatic = wanted("", allowed);
        let both = set(&[("10.2.0.0/16", TABLE_MAIN), ("0.0.0.0/0", TABLE_TUNNEL)]);
        assert_eq!((&automatic.guards, &automatic.routes), (&both, &both));
        assert_eq!(automatic.defaults, BTreeSet::from([(true, TABLE_TUNNEL)]));
        let off = wanted("Table = off", allowed);
        assert_eq!((off.guards, off.routes), (set(&[("10.2.0.0/16", TABLE_MAIN)]), set(&[])));
        assert!(off.defaults.is_empty());
        let other = wanted("Table = 7", allowed);
        let both = set(&[("10.2.0.0/16", 7), ("0.0.0.0/0", 7)]);
        assert_eq!((other.guards, other.routes, other.defaults.len()), (both.clone(), both, 0));
    }

    #[test]
    fn only_the_difference_comes_and_goes() {
        let now = wanted("Address = 10.9.0.1/24", "10.2.0.0/16, 10.3.0.0/16");
        let next = wanted("Address = 10.9.0.2/24", "10.3.0.0/16, 10.4.0.0/16");
        let (more, less) = (next.beyond(&now), now.beyond(&next));
        assert_eq!((more.routes, less.routes), (set(&[("10.4.0.0/16", 254)]), set(&[("10.2.0.0/16", 254)])));
        assert_eq!((more.guards, less.guards), (set(&[("10.4.0.0/16", 254)]), set(&[("10.2.0.0/16", 254)])));
        assert_eq!(more.addresses, BTreeSet::from(["10.9.0.2/24".parse().unwrap()]));
        assert_eq!(now.beyond(&now), Wanted { mtu: 1420, ..Wanted::default() });
    }
}

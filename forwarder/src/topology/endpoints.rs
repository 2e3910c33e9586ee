//! Endpoints that our own routes would cut off.

use std::net::IpAddr;

use ipnet::IpNet;

use super::TopologyError;
use crate::config::{Table, TunnelConfig};
use crate::kernel::{PROTOCOL, Route, RouteKind, TABLE_MAIN, View};

/// The endpoints whose packets our routes would catch, once they are installed: lead into our own TUN, or
/// (the fail-closed route of a file with `Table = off`) refuse.
///
/// A default route is no danger: it gets wg-quick's rule, which outer packets do not match. The mark of
/// a file that sets `FwMark` may obey rules that we do not know, so that is only remarked.
pub(super) fn loops(tunnels: &[TunnelConfig], view: &View, remarks: &mut Vec<String>) -> Vec<TopologyError> {
    let claims: Vec<Claim> = tunnels.iter().flat_map(claims).filter(|c| c.prefix.prefix_len() > 0).collect();
    let mut errors = Vec::new();
    for tunnel in tunnels {
        for endpoint in tunnel.peers.iter().filter_map(|p| p.endpoint) {
            let address = endpoint.ip();
            let present = present(view, address);
            let catches = |c: &&Claim| c.prefix.contains(&address) && c.beats(present);
            let Some(claim) = claims.iter().filter(catches).max_by_key(|c| c.prefix.prefix_len()) else {
                continue;
            };
            let error = TopologyError::EndpointLoop {
                tunnel: tunnel.name.clone(),
                endpoint,
                key: claim.key,
                prefix: claim.prefix,
                fix: fix(claim, address, present, view),
            };
            if tunnel.fwmark == 0 {
                errors.push(error);
            } else {
                remarks.push(format!("{error} (unless a rule for its FwMark says otherwise)"));
            }
        }
    }
    errors
}

/// wg-quick's rule for a `/0` lets out what carries one mark: files with a `/0` and different marks would
/// catch each other's outer packets.
pub(super) fn marks(tunnels: &[TunnelConfig]) -> Option<TopologyError> {
    let carries_default = |t: &&TunnelConfig| {
        t.table == Table::Auto && t.peers.iter().flat_map(|p| &p.allowed_ips).any(|p| p.prefix_len() == 0)
    };
    let mut defaults = tunnels.iter().filter(carries_default);
    let first = defaults.next()?;
    let other = defaults.find(|t| t.fwmark != first.fwmark)?;
    Some(TopologyError::Marks { tunnel: first.name.clone(), other: other.name.clone() })
}

/// A prefix that gets a route of ours in `main`.
struct Claim {
    prefix: IpNet,
    /// The key of the file that holds it.
    key: &'static str,
    /// To the TUN, rather than only the fail-closed route, whose metric is the worst.
    to_tun: bool,
}

impl Claim {
    /// Whether our route wins against one that is there, or (of the same prefix) cannot be added.
    fn beats(&self, present: Option<&Route>) -> bool {
        let Some(present) = present else { return true };
        let (ours, theirs) = (self.prefix.prefix_len(), present.prefix.prefix_len());
        ours > theirs || ours == theirs && self.to_tun
    }
}

fn claims(tunnel: &TunnelConfig) -> impl Iterator<Item = Claim> {
    let to_tun = tunnel.table != Table::Off;
    let in_main = matches!(tunnel.table, Table::Off | Table::Auto | Table::Number(TABLE_MAIN));
    let allowed = tunnel.peers.iter().flat_map(|p| &p.allowed_ips).filter(move |_| in_main);
    let allowed = allowed.map(move |p| Claim { prefix: *p, key: "AllowedIPs", to_tun });
    allowed.chain(tunnel.addresses.iter().map(|a| Claim { prefix: a.trunc(), key: "Address", to_tun: true }))
}

/// The most specific route that does not come from us.
fn present(view: &View, address: IpAddr) -> Option<&Route> {
    let others = view.routes.iter().filter(|r| r.protocol != PROTOCOL && r.prefix.contains(&address));
    others.max_by_key(|r| (r.prefix.prefix_len(), std::cmp::Reverse(r.metric)))
}

fn fix(claim: &Claim, address: IpAddr, present: Option<&Route>, view: &View) -> String {
    let narrow = format!("narrow {}", claim.key);
    if claim.prefix.prefix_len() == claim.prefix.max_prefix_len() {
        // No route is more specific than this.
        return narrow;
    }
    let forwards = present.filter(|r| r.kind == RouteKind::Unicast);
    let device = forwards.and_then(|r| view.link(r.interface?));
    let way = match (forwards.and_then(|r| r.gateway), device) {
        (Some(gateway), Some(device)) => format!("via {gateway} dev {}", device.name),
        (None, Some(device)) => format!("dev {}", device.name),
        _ => "via ROUTER".to_owned(),
    };
    format!("ip route add {} {way}, or {narrow}", IpNet::from(address))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::wg_quick;
    use crate::id::InterfaceId;
    use crate::kernel::Link;

    /// A tunnel to 10.2.0.1 with these lines in `[Interface]`.
    fn tunnel(interface: &str, allowed: &str) -> TunnelConfig {
        let text = format!(
            "[Interface]\nPrivateKey = 6AgToMKAU6mHoSgHQnIUKXvMhZ5vwcNuSj1T3KHfZ1Q=\n{interface}\n\
             [Peer]\nPublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\n\
             Endpoint = 10.2.0.1:51820\nAllowedIPs = {allowed}\n"
        );
        wg_quick::parse("wg0", Path::new("wg0.conf"), text.as_bytes()).unwrap()
    }

    /// A default route by a router on eth0, and more on-link prefixes.
    fn view(on_link: &[&str]) -> View {
        let eth0 = Link {
            name: "eth0".into(),
            mac: [2; 6],
            mtu: 1500,
            up: true,
            carrier: true,
            ..Link::new(InterfaceId(2))
        };
        let route = |prefix: &str| Route {
            protocol: 3,
            ..Route::unicast(prefix.parse().unwrap(), InterfaceId(2), TABLE_MAIN)
        };
        let default = Route { gateway: Some("192.0.2.1".parse().unwrap()), ..route("0.0.0.0/0") };
        let routes = std::iter::once(default).chain(on_link.iter().map(|p| route(p))).collect();
        View { links: vec![eth0], routes, ..View::default() }
    }

    fn errors(tunnel: TunnelConfig, view: &View) -> Vec<String> {
        let mut remarks = Vec::new();
        let errors = loops(&[tunnel], view, &mut remarks);
        assert!(remarks.is_empty(), "{remarks:?}");
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_endpoint_inside_allowed_ips_loops() {
        assert_eq!(
            errors(tunnel("", "10.0.0.0/8, 10.2.0.0/16"), &view(&[])),
            ["wg0: the endpoint 10.2.0.1:51820 lies inside AllowedIPs 10.2.0.0/16, so the tunnel's route \
              would catch the tunnel's own packets: ip route add 10.2.0.1/32 via 192.0.2.1 dev eth0, or narrow AllowedIPs"]
        );
    }

    #[test]
    fn a_more_specific_route_keeps_the_endpoint_out() {
        let tunnel = || tunnel("", "10.0.0.0/8");
        assert!(errors(tunnel(), &view(&["10.2.0.0/24"])).is_empty());
        let equal = errors(tunnel(), &view(&["10.0.0.0/8"]));
        assert!(equal[0].ends_with("ip route add 10.2.0.1/32 dev eth0, or narrow AllowedIPs"), "{equal:?}");
        assert_eq!(errors(tunnel(), &view(&["10.3.0.0/16"])).len(), 1, "a route to elsewhere");
    }

    #[test]
    fn a_route_of_ours_that_stayed_behind_does_not_count() {
        let mut view = view(&[]);
        view.routes.push(Route::unreachable("10.2.0.0/24".parse().unwrap(), TABLE_MAIN));
        assert_eq!(errors(tunnel("", "10.0.0.0/8"), &view).len(), 1);
    }

    #[test]
    fn without_routes_to_the_tun_the_fail_closed_ones_cut_off() {
        let tunnel = || tunnel("Table = off", "10.0.0.0/8");
        assert_eq!(errors(tunnel(), &view(&[])).len(), 1);
        assert!(errors(tunnel(), &view(&["10.0.0.0/8"])).is_empty(), "their metric is the worst");
    }

    #[test]
    fn what_installs_no_route_in_main_does_not_loop() {
        let view = view(&[]);
        assert!(errors(tunnel("", "0.0.0.0/0, ::/0"), &view).is_empty(), "wg-quick's rule");
        assert!(errors(tunnel("Table = off", "0.0.0.0/0, ::/0"), &view).is_empty(), "the recipe");
        assert!(errors(tunnel("Table = 100", "10.0.0.0/8"), &view).is_empty());
        assert_eq!(errors(tunnel("Table = 254", "10.0.0.0/8"), &view).len(), 1);
    }

    #[test]
    fn the_tuns_own_subnet_counts() {
        let error = errors(tunnel("Table = off\nAddress = 10.2.0.9/24", "192.0.2.0/24"), &view(&[]));
        assert!(error[0].contains("inside Address 10.2.0.0/24"), "{error:?}");
    }

    #[test]
    fn no_route_helps_against_a_host_prefix() {
        let error = errors(tunnel("", "10.2.0.1/32"), &view(&[]));
        assert!(error[0].ends_with("own packets: narrow AllowedIPs"), "{error:?}");
    }

    #[test]
    fn a_mark_may_have_rules_of_its_own() {
        let mut remarks = Vec::new();
        let errors = loops(&[tunnel("FwMark = 7", "10.0.0.0/8")], &view(&[]), &mut remarks);
        assert!(errors.is_empty() && remarks.len() == 1, "{errors:?} {remarks:?}");
    }
}

//! Changing the network state.

use std::net::IpAddr;

use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage as Message;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourFlags, NeighbourMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::Kernel;
use super::read::{device, family_of};
use crate::id::InterfaceId;
use crate::kernel::{DefaultRules, Error, PROTOCOL, Route, RouteKind, TABLE_MAIN};

const CREATE: u16 = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;

/// What [`Kernel::remove_ours`] removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Routes.
    pub routes: usize,
    /// Rules.
    pub rules: usize,
}

impl Kernel {
    /// Sets a device administratively up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_link_up(&self, interface: InterfaceId) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.set_link(interface, message, || format!("set {} up", device(interface))).await
    }

    /// Sets a device's MTU, in bytes.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn set_mtu(&self, interface: InterfaceId, mtu: u32) -> Result<(), Error> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.set_link(interface, message, || format!("set the MTU of {} to {mtu}", device(interface))).await
    }

    /// Keeps the kernel from giving a device an IPv6 link-local address when it goes up, as the
    /// kernel's own tunnels do: a TUN would otherwise start with router solicitations into the tunnels.
    ///
    /// # Errors
    /// When the kernel refuses; [`Errno::EAFNOSUPPORT`] without IPv6.
    pub async fn set_no_link_local(&self, interface: InterfaceId) -> Result<(), Error> {
        let mode = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::AfSpecUnspec(vec![mode]));
        let action = || format!("turn off link-local addresses on {}", device(interface));
        self.set_link(interface, message, action).await
    }

    /// Adds an address with its prefix length to a device.
    ///
    /// # Errors
    /// When the kernel refuses; [`Errno::EEXIST`] when the device has it.
    pub async fn add_address(&self, interface: InterfaceId, address: IpNet) -> Result<(), Error> {
        let message = address_message(interface, address);
        let action = || format!("add the address {address} to {}", device(interface));
        self.change(Message::NewAddress(message), CREATE, action).await
    }

    /// Removes an address from a device.
    ///
    /// # Errors
    /// When the kernel refuses; [`Errno::EADDRNOTAVAIL`] when the device has it not.
    pub async fn remove_address(&self, interface: InterfaceId, address: IpNet) -> Result<(), Error> {
        let message = address_message(interface, address);
        let action = || format!("remove the address {address} from {}", device(interface));
        self.change(Message::DelAddress(message), NLM_F_ACK, action).await
    }

    /// Adds a route.
    ///
    /// # Errors
    /// When the kernel refuses; [`Errno::EEXIST`] when the table has one of that prefix and metric.
    pub async fn add_route(&self, route: &Route) -> Result<(), Error> {
        let message = Message::NewRoute(route_message(route));
        self.change(message, CREATE, || format!("add the route {}", described(route))).await
    }

    /// Removes a route; it must be just so, protocol number included.
    ///
    /// # Errors
    /// When the kernel refuses; [`Errno::ESRCH`] when there is none.
    pub async fn remove_route(&self, route: &Route) -> Result<(), Error> {
        let message = Message::DelRoute(route_message(route));
        self.change(message, NLM_F_ACK, || format!("remove the route {}", described(route))).await
    }

    /// Adds wg-quick's two rules for a `/0`: unmarked packets look into `rules.table`, after the specific
    /// routes of `main` had their turn, which they have at every moment. What of them is there already, for another
    /// mark or from a kept guard, is taken over; a rule for another mark stays.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn add_default_rules(&self, rules: &DefaultRules) -> Result<(), Error> {
        let present = self.our_rule_messages().await?;
        let find = |wanted: &RuleMessage| present.iter().find(|told| is_rule(told, wanted));
        let add = async |rule| {
            self.change(Message::NewRule(rule), CREATE, || format!("add the rules {rules}")).await
        };
        let [mut unmarked, specific] = rule_messages(rules);
        let first = find(&specific);
        if find(&unmarked).is_none() {
            // The kernel puts a rule without a preference before all others.
            let behind = first.map(|first| RuleAttribute::Priority(preference(first) + 1));
            unmarked.attributes.extend(behind);
            add(unmarked).await?;
        }
        // It would add one again: a new one has a preference of its own.
        if first.is_none() { add(specific).await } else { Ok(()) }
    }

    /// Removes what [`Self::add_default_rules`] added; that a rule is gone already does not matter.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_default_rules(&self, rules: &DefaultRules) -> Result<(), Error> {
        self.remove_rules(rule_messages(rules), || format!("remove the rules {rules}")).await.map(drop)
    }

    /// Removes the one of [`Self::add_default_rules`] that is about the mark, where there is another mark now.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_mark_rule(&self, rules: &DefaultRules) -> Result<(), Error> {
        let [unmarked, _] = rule_messages(rules);
        self.remove_rules([unmarked], || format!("remove the rules {rules}")).await.map(drop)
    }

    /// Removes those of our rules that belong to none of these: a kept guard may have left some.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_rules_beyond(
        &self,
        wanted: impl IntoIterator<Item = DefaultRules>,
    ) -> Result<(), Error> {
        let wanted: Vec<RuleMessage> = wanted.into_iter().flat_map(|rules| rule_messages(&rules)).collect();
        let mut present = self.our_rule_messages().await?;
        present.retain(|told| !wanted.iter().any(|wanted| is_rule(told, wanted)));
        self.remove_rules(present, || "remove the rules of an earlier run".into()).await.map(drop)
    }

    /// Removes every rule and route of our protocol number, in all tables. Those that are gone by then
    /// (a route goes with its device) do not matter.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_ours(&self) -> Result<Removed, Error> {
        let rules = self.our_rule_messages().await?;
        let rules = self.remove_rules(rules, || "remove our rules".into()).await?;
        let mut removed = Removed { routes: 0, rules };
        for route in self.our_route_messages().await? {
            let gone = self.change(Message::DelRoute(route), NLM_F_ACK, || "remove our routes".into()).await;
            removed.routes += usize::from(unless_gone(gone)?);
        }
        Ok(removed)
    }

    /// Tells the kernel that a neighbour is in use (`NTF_USE`), as sending a packet to it would: an unknown
    /// one is resolved by ARP or ND, a stale one is verified. The entry ages as any other.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn use_neighbour(&self, interface: InterfaceId, address: IpAddr) -> Result<(), Error> {
        let mut message = NeighbourMessage::default();
        message.header.family = family_of(address);
        message.header.ifindex = interface.0;
        message.header.flags = NeighbourFlags::Use;
        message.attributes.push(NeighbourAttribute::Destination(address.into()));
        let action = || format!("resolve the neighbour {address} on {}", device(interface));
        self.change(Message::NewNeighbour(message), NLM_F_ACK | NLM_F_CREATE, action).await
    }

    /// Returns how many there were.
    async fn remove_rules(
        &self,
        messages: impl IntoIterator<Item = RuleMessage>,
        action: impl Fn() -> String,
    ) -> Result<usize, Error> {
        let mut removed = 0;
        for message in messages {
            let gone = self.change(Message::DelRule(message), NLM_F_ACK, &action).await;
            removed += usize::from(unless_gone(gone)?);
        }
        Ok(removed)
    }

    async fn set_link(
        &self,
        interface: InterfaceId,
        mut message: LinkMessage,
        action: impl Fn() -> String,
    ) -> Result<(), Error> {
        message.header.index = interface.0;
        self.change(Message::SetLink(message), NLM_F_ACK, action).await
    }

    async fn change(&self, message: Message, flags: u16, action: impl Fn() -> String) -> Result<(), Error> {
        self.request(message, flags, action).await.map(|_| ())
    }
}

fn address_message(interface: InterfaceId, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family_of(address.addr());
    message.header.prefix_len = address.prefix_len();
    message.header.index = interface.0;
    message.attributes =
        vec![AddressAttribute::Local(address.addr()), AddressAttribute::Address(address.addr())];
    message
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    let header = &mut message.header;
    header.address_family = family_of(route.prefix.addr());
    header.destination_prefix_length = route.prefix.prefix_len();
    header.protocol = route.protocol.into();
    header.kind = match route.kind {
        RouteKind::Unicast => RouteType::Unicast,
        RouteKind::Local => RouteType::Local,
        RouteKind::Special => RouteType::Broadcast,
        RouteKind::Unreachable => RouteType::Unreachable,
    };
    // IPv4 wants to know that a route without a router ends on the link; IPv6 does not care.
    let on_link = route.kind == RouteKind::Unicast && route.gateway.is_none();
    header.scope = if on_link { RouteScope::Link } else { RouteScope::Universe };
    message.attributes = vec![
        RouteAttribute::Destination(route.prefix.network().into()),
        RouteAttribute::Table(route.table),
        RouteAttribute::Priority(route.metric),
    ];
    message.attributes.extend(route.interface.map(|i| RouteAttribute::Oif(i.0)));
    message.attributes.extend(route.gateway.map(|g| RouteAttribute::Gateway(g.into())));
    message
}

/// The kernel puts a later rule before the earlier ones, so the second of these is looked at first.
fn rule_messages(rules: &DefaultRules) -> [RuleMessage; 2] {
    let rule = |table: u32| {
        let mut message = RuleMessage::default();
        message.header.family = family_of(rules.family.unspecified());
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![RuleAttribute::Protocol(PROTOCOL.into()), RuleAttribute::Table(table)];
        message
    };
    let mut unmarked = rule(rules.table);
    unmarked.header.flags = RuleFlags::Invert;
    unmarked.attributes.push(RuleAttribute::FwMark(rules.mark));
    let mut specific = rule(TABLE_MAIN);
    specific.attributes.push(RuleAttribute::SuppressPrefixLen(0));
    [unmarked, specific]
}

/// Whether a rule that the kernel tells is the one that we would add.
fn is_rule(told: &RuleMessage, wanted: &RuleMessage) -> bool {
    told.header.family == wanted.header.family
        && told.header.flags.contains(wanted.header.flags)
        && wanted.attributes.iter().all(|a| told.attributes.contains(a))
}

/// Rules of smaller preference are looked at first.
fn preference(rule: &RuleMessage) -> u32 {
    let preference = |a: &RuleAttribute| match a {
        RuleAttribute::Priority(preference) => Some(*preference),
        _ => None,
    };
    rule.attributes.iter().find_map(preference).unwrap_or(0)
}

/// A route in an error, with its device.
fn described(route: &Route) -> String {
    let on = route.interface.map(|i| format!(" on {}", device(i)));
    format!("{route}{}", on.unwrap_or_default())
}

/// Whether something was removed; that it was gone already is no error.
fn unless_gone(removal: Result<(), Error>) -> Result<bool, Error> {
    match removal {
        Err(e) if matches!(e.errno(), Some(Errno::ESRCH | Errno::ENOENT | Errno::ENODEV)) => Ok(false),
        other => other.map(|()| true),
    }
}

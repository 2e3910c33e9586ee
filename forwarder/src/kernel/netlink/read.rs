//! Reading the network state.

use std::net::IpAddr;

use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_DUMP};
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkExtentMask, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAttribute, RuleMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::{Changed, Kernel, parse};
use crate::id::InterfaceId;
use crate::kernel::{Error, Link, PROTOCOL, Resolved, Route, TABLE_TUNNEL, View};

/// Asked for one by one. A kernel without IPv6 answers with IPv4 instead, so answers are checked.
const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

impl Kernel {
    /// Reads everything. The tables are read one after the other; a change in between is reported by
    /// a [`Watch`](super::Watch) that was there before.
    ///
    /// # Errors
    /// When a dump fails.
    pub async fn view(&self) -> Result<View, Error> {
        let mut view = View::default();
        self.refresh(&mut view, Changed::all()).await?;
        Ok(view)
    }

    /// Reads again what may have changed, and tells what has: a router's table may be large, and
    /// neighbours are announced more often than they change.
    ///
    /// # Errors
    /// When a dump fails.
    pub async fn refresh(&self, view: &mut View, mut changed: Changed) -> Result<Changed, Error> {
        // IPv4 announces no route that went with its device or with its source address.
        if changed.intersects(Changed::LINKS | Changed::ADDRESSES) {
            changed |= Changed::ROUTES;
        }
        let mut news = Changed::empty();
        if changed.contains(Changed::LINKS) {
            news.set(Changed::LINKS, replace(&mut view.links, self.links(Vec::new()).await?));
        }
        if changed.contains(Changed::ADDRESSES) {
            news.set(Changed::ADDRESSES, replace(&mut view.addresses, self.addresses().await?));
        }
        if changed.contains(Changed::ROUTES) {
            news.set(Changed::ROUTES, replace(&mut view.routes, self.routes().await?));
        }
        if changed.contains(Changed::NEIGHBOURS) {
            news.set(Changed::NEIGHBOURS, replace(&mut view.neighbours, self.neighbours().await?));
        }
        Ok(news)
    }

    /// The slaves of a bond alone, in order of their index: cheap enough to ask ten times a second.
    ///
    /// # Errors
    /// When the dump fails.
    pub async fn slaves(&self, bond: InterfaceId) -> Result<Vec<Link>, Error> {
        let mut slaves = self.links(vec![LinkAttribute::Controller(bond.0)]).await?;
        // Kernels that do not filter by master answer with every device.
        slaves.retain(|l| l.master == Some(bond));
        Ok(slaves)
    }

    /// Asks how a packet to `to` would leave if it carried the firewall mark `mark` (0 = none).
    ///
    /// # Errors
    /// When there is no route, or an unreachable one.
    pub async fn resolve(&self, to: IpAddr, mark: u32) -> Result<Resolved, Error> {
        let action = || format!("find the route to {to} (mark {mark:#x})");
        let mut question = RouteMessage::default();
        question.header.address_family = family_of(to);
        question.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
        question.attributes = vec![RouteAttribute::Destination(to.into()), RouteAttribute::Mark(mark)];
        let answers = self.request(Message::GetRoute(question), NLM_F_ACK, action).await?;
        answers
            .iter()
            .find_map(|m| match m {
                Message::NewRoute(route) => parse::resolved(route, to),
                _ => None,
            })
            .ok_or_else(|| Error::refused(action(), Errno::ENETUNREACH))
    }

    /// The number of RX queues that a device was made with.
    ///
    /// # Errors
    /// When the device is gone.
    pub async fn allocated_rx_queues(&self, interface: InterfaceId) -> Result<u32, Error> {
        let mut question = LinkMessage::default();
        question.header.index = interface.0;
        let action = || format!("read {}", device(interface));
        let answers = self.request(Message::GetLink(question), NLM_F_ACK, action).await?;
        let attributes = answers.into_iter().filter_map(|m| match m {
            Message::NewLink(link) => Some(link.attributes),
            _ => None,
        });
        let queues = attributes.flatten().find_map(|a| match a {
            LinkAttribute::NumRxQueues(n) => Some(n),
            _ => None,
        });
        Ok(queues.unwrap_or(1))
    }

    /// The routes of our protocol number, in all tables, as the kernel tells them.
    pub(super) async fn our_route_messages(&self) -> Result<Vec<RouteMessage>, Error> {
        let mut routes = self.route_messages(PROTOCOL).await?;
        routes.retain(|r| u8::from(r.header.protocol) == PROTOCOL);
        Ok(routes)
    }

    /// The routes of our protocol number, in all tables.
    ///
    /// # Errors
    /// When a dump fails.
    pub async fn our_routes(&self) -> Result<Vec<Route>, Error> {
        Ok(self.our_route_messages().await?.iter().filter_map(parse::route).collect())
    }

    /// The rules of our protocol number, as the kernel tells them.
    pub(super) async fn our_rule_messages(&self) -> Result<Vec<RuleMessage>, Error> {
        let mut rules = Vec::new();
        for family in FAMILIES {
            let mut question = RuleMessage::default();
            question.header.family = family;
            let answers =
                self.request(Message::GetRule(question), NLM_F_DUMP, || "list the rules".into()).await;
            let answers = unless_lacking(answers)?;
            rules.extend(answers.into_iter().filter_map(|m| match m {
                Message::NewRule(rule) if rule.header.family == family => Some(rule),
                _ => None,
            }));
        }
        let ours = |a: &RuleAttribute| matches!(a, RuleAttribute::Protocol(p) if u8::from(*p) == PROTOCOL);
        rules.retain(|r| r.attributes.iter().any(ours));
        Ok(rules)
    }

    async fn links(&self, filter: Vec<LinkAttribute>) -> Result<Vec<Link>, Error> {
        let mut question = LinkMessage::default();
        question.attributes = filter;
        question.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let answers =
            self.request(Message::GetLink(question), NLM_F_DUMP, || "list the devices".into()).await?;
        let mut links: Vec<Link> = answers
            .iter()
            .filter_map(|m| match m {
                Message::NewLink(link) => Some(parse::link(link)),
                _ => None,
            })
            .collect();
        links.sort_by_key(|l| l.id);
        Ok(links)
    }

    async fn addresses(&self) -> Result<Vec<crate::kernel::Address>, Error> {
        let question = Message::GetAddress(AddressMessage::default());
        let answers = self.request(question, NLM_F_DUMP, || "list the addresses".into()).await?;
        Ok(answers
            .iter()
            .filter_map(|m| match m {
                Message::NewAddress(address) => parse::address(address),
                _ => None,
            })
            .collect())
    }

    async fn routes(&self) -> Result<Vec<Route>, Error> {
        let consulted = |route: &Route| matches!(route.table, 253..=255 | TABLE_TUNNEL);
        let messages = self.route_messages(0).await?;
        Ok(messages.iter().filter_map(parse::route).filter(consulted).collect())
    }

    /// Routes of a protocol number; 0 = all. The kernel filters, which matters to a router with a full
    /// Internet table.
    async fn route_messages(&self, protocol: u8) -> Result<Vec<RouteMessage>, Error> {
        let mut routes = Vec::new();
        for family in FAMILIES {
            let mut question = RouteMessage::default();
            question.header.address_family = family;
            question.header.protocol = protocol.into();
            let answers =
                self.request(Message::GetRoute(question), NLM_F_DUMP, || "list the routes".into()).await;
            let answers = unless_lacking(answers)?;
            routes.extend(answers.into_iter().filter_map(|m| match m {
                Message::NewRoute(route) if route.header.address_family == family => Some(route),
                _ => None,
            }));
        }
        Ok(routes)
    }

    async fn neighbours(&self) -> Result<Vec<crate::kernel::Neighbour>, Error> {
        let question = Message::GetNeighbour(NeighbourMessage::default());
        let answers = self.request(question, NLM_F_DUMP, || "list the neighbours".into()).await?;
        Ok(answers
            .iter()
            .filter_map(|m| match m {
                Message::NewNeighbour(neighbour) => parse::neighbour(neighbour),
                _ => None,
            })
            .collect())
    }
}

/// Whether the new value differs.
fn replace<T: PartialEq>(old: &mut T, new: T) -> bool {
    let differs = *old != new;
    *old = new;
    differs
}

/// A kernel that was built without a family, or without its rules, has none of them.
fn unless_lacking(answers: Result<Vec<Message>, Error>) -> Result<Vec<Message>, Error> {
    match answers {
        Err(e) if matches!(e.errno(), Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => Ok(Vec::new()),
        other => other,
    }
}

/// A device in an error: by name while it has one.
pub(super) fn device(interface: InterfaceId) -> String {
    let name = nix::net::if_::if_indextoname(interface.0).unwrap_or_default();
    match name.to_string_lossy().as_ref() {
        "" => format!("device number {interface}"),
        name => format!("device {name}"),
    }
}

pub(super) fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

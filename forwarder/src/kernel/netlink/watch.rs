//! What changed, level-triggered and coalesced.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use futures::StreamExt;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::packet_route::RouteNetlinkMessage;
use tokio::sync::Notify;

use super::Kernel;
use crate::kernel::Error;

bitflags::bitflags! {
    /// Kinds of state that changed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Changed: u8 {
        /// Devices.
        const LINKS = 1;
        /// Addresses.
        const ADDRESSES = 2;
        /// Routes.
        const ROUTES = 4;
        /// Neighbours.
        const NEIGHBOURS = 8;
        /// Nothing is watched any more: the socket is closed. Stays set.
        const CLOSED = 128;
    }
}

/// Says that the kernel's state changed since it was last asked.
///
/// A bond tells of a slave's entry into and exit from the aggregate, but late (its own monitor's next
/// turn), and of other LACP state not at all: poll [`Kernel::slaves`] for those.
#[derive(Debug)]
pub struct Watch {
    pending: Arc<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    flags: AtomicU8,
    wake: Notify,
}

impl Kernel {
    /// Starts watching links, addresses, routes and neighbours. A view that is read later than this
    /// together with the changes reported from now on misses nothing.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    pub fn watch(&self) -> Result<Watch, Error> {
        let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&[
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Neigh,
        ])
        .map_err(|e| Error::io("watch the network state over netlink", &e))?;
        let pending = Arc::new(Pending::default());
        let watched = Arc::downgrade(&pending);
        tokio::spawn(connection);
        tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                let Some(pending) = watched.upgrade() else { return };
                pending.add(kind(&message.payload));
            }
            if let Some(pending) = watched.upgrade() {
                pending.add(Changed::CLOSED);
            }
        });
        Ok(Watch { pending })
    }
}

impl Watch {
    /// Waits until something changed since the last call, and tells what. May be cancelled at any time
    /// without losing a change.
    pub async fn changed(&mut self) -> Changed {
        loop {
            let sticky = Changed::CLOSED.bits();
            let flags = self.pending.flags.fetch_and(sticky, Ordering::AcqRel);
            if flags != 0 {
                return Changed::from_bits_retain(flags);
            }
            self.pending.wake.notified().await;
        }
    }
}

impl Pending {
    fn add(&self, changed: Changed) {
        if !changed.is_empty() {
            self.flags.fetch_or(changed.bits(), Ordering::AcqRel);
            self.wake.notify_one();
        }
    }
}

fn kind(payload: &NetlinkPayload<RouteNetlinkMessage>) -> Changed {
    use RouteNetlinkMessage as M;
    match payload {
        NetlinkPayload::InnerMessage(M::NewLink(_) | M::DelLink(_)) => Changed::LINKS,
        NetlinkPayload::InnerMessage(M::NewAddress(_) | M::DelAddress(_)) => Changed::ADDRESSES,
        NetlinkPayload::InnerMessage(M::NewRoute(_) | M::DelRoute(_)) => Changed::ROUTES,
        NetlinkPayload::InnerMessage(M::NewNeighbour(_) | M::DelNeighbour(_)) => Changed::NEIGHBOURS,
        // Messages were lost: anything may have changed.
        NetlinkPayload::Overrun(_) => Changed::all().difference(Changed::CLOSED),
        _ => Changed::empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_messages_mean_that_anything_changed() {
        assert_eq!(kind(&NetlinkPayload::Overrun(Vec::new())).bits(), 15);
        assert!(kind(&NetlinkPayload::Noop).is_empty());
    }
}

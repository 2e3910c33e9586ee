//! What lanes ask of the control thread. Nothing here blocks.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

use crate::drops::Drop;
use crate::id::{InterfaceId, PeerId, TunnelId};
use crate::wireguard::message::{CookieReply, INITIATION_LEN};

/// The control thread as lanes see it.
pub trait Control: Send + Sync {
    /// Packets wait for a session with the peer.
    fn want_session(&self, peer: PeerId);

    /// Packets wait for the MAC address of a next hop.
    fn want_neighbour(&self, interface: InterfaceId, address: IpAddr);

    /// What begins like a handshake message (types 1 to 3) came from `source` to the tunnel's listen port.
    ///
    /// # Errors
    /// Why it is not taken: [`Drop::Malformed`] when it is none.
    fn handshake(&self, tunnel: TunnelId, source: SocketAddr, message: &[u8]) -> Result<(), Refused>;
}

/// A handshake message that is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Drop,
    /// What the lane sends back to its source.
    pub reply: Option<CookieReply>,
}

impl From<Drop> for Refused {
    fn from(reason: Drop) -> Self {
        Self { reason, reply: None }
    }
}

/// A message that the control thread wants sent by a lane, so that it leaves by the path's own port.
#[derive(Clone, Debug)]
pub enum Injected {
    /// A handshake message for the peer's path.
    Message {
        /// Whose path.
        peer: PeerId,
        /// The WireGuard message.
        payload: ArrayVec<u8, INITIATION_LEN>,
    },
    /// An empty data message, to be sealed with the path's session.
    Keepalive(PeerId),
}

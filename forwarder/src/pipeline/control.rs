//! What lanes ask of the control thread. Nothing here blocks.

use std::net::{IpAddr, SocketAddr};

use arrayvec::ArrayVec;

use crate::drops::Drop;
use crate::id::{InterfaceId, PeerId, TunnelId};
use crate::wireguard::message::INITIATION_LEN;

/// The control thread as lanes see it.
pub trait Control: Send + Sync {
    /// Packets wait for a session with the peer.
    fn want_session(&self, peer: PeerId);

    /// Packets wait for the MAC address of a next hop.
    fn want_neighbour(&self, interface: InterfaceId, address: IpAddr);

    /// A handshake message arrived.
    ///
    /// # Errors
    /// Why it is not taken.
    fn handshake(&self, message: &Handshake) -> Result<(), Drop>;
}

/// A handshake message (types 1 to 3) on its way to the control thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// The tunnel whose listen port it came to.
    pub tunnel: TunnelId,
    /// Who sent it.
    pub source: SocketAddr,
    /// The message.
    pub message: ArrayVec<u8, INITIATION_LEN>,
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

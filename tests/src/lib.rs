//! What the tests share.

pub mod frames;
pub mod packet_socket;

pub use packet_socket::PacketSocket;

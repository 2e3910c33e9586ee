//! What the tests share.

pub mod datagrams;
pub mod frames;
pub mod lab;
pub mod packet_socket;

pub use packet_socket::PacketSocket;

//! The control socket of each tunnel, as `wg` speaks to it: the cross-platform configuration protocol of
//! <https://www.wireguard.com/xplatform/>.
//!
//! ```text
//!  wg --- NAME.sock --- connection (parser) --- call ---> control thread (apply, describe)
//!                                    <--- answer, by the call's own channel
//! ```
//!
//! [`parser`] reads requests without I/O, [`apply()`] changes a configuration by one, [`describe()`] writes
//! what `get=1` answers; [`server`] has the sockets. Every limit is there to keep a caller that is mistaken
//! from holding memory or a connection: whoever may connect is root, or we ourselves.

mod apply;
mod describe;
pub mod parser;
pub mod request;
pub mod server;
mod socket;

pub use apply::apply;
pub use describe::{Device, describe};
pub use parser::Parser;
pub use request::{PeerChange, PrefixChange, Request, Set};
pub use server::{Call, Server};
pub use socket::remove_stale;

//! The connection to the kernel over rtnetlink: readings in [`read`](self), changes, and the watch.
//!
//! Everything runs on the control thread's tokio runtime. A request is one message; its answers are
//! collected until the kernel says that it is done, so a connection that breaks is an error and never
//! an empty table.

mod change;
mod parse;
mod read;
mod watch;

use futures::StreamExt;
use nix::errno::Errno;
use rtnetlink::packet_core::{
    ErrorMessage, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator, parse_string,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::sys::AsyncSocket;

use super::{Cause, Error};
pub use change::Removed;
pub use watch::{Changed, Watch};

/// The one interface through which the kernel's network state is read and changed.
///
/// It belongs to the network namespace of the thread that connected.
#[derive(Clone, Debug)]
pub struct Kernel {
    handle: rtnetlink::Handle,
}

impl Kernel {
    /// Connects, on the current tokio runtime.
    ///
    /// # Errors
    /// When the kernel gives no netlink socket.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connect() -> Result<Self, Error> {
        let failed = |e: std::io::Error| Error::io("open a netlink socket", &e);
        let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check().map_err(failed)?;
        let socket = connection.socket_mut().socket_mut();
        socket.set_ext_ack(true).map_err(failed)?;
        // Errors then quote the request's header only, so the kernel's sentence has a fixed place.
        socket.set_cap_ack(true).map_err(failed)?;
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Sends one request and collects its answers. `flags` hold `NLM_F_DUMP` or `NLM_F_ACK`, which make
    /// the kernel close every answer; `action` completes "cannot ...".
    async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
        action: impl Fn() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let closed = || Error::Closed { action: action() };
        let mut answers = self.handle.clone().request(request).map_err(|_| closed())?;
        let mut messages = Vec::new();
        while let Some(answer) = answers.next().await {
            let code = match answer.payload {
                NetlinkPayload::InnerMessage(message) => {
                    messages.push(message);
                    continue;
                }
                NetlinkPayload::Done(done) => done.code,
                NetlinkPayload::Error(error) if error.code.is_none() => 0,
                NetlinkPayload::Error(error) => {
                    return Err(Error::Refused { action: action(), cause: cause(&error) });
                }
                _ => continue,
            };
            return if code < 0 {
                Err(Error::refused(action(), Errno::from_raw(-code)))
            } else {
                Ok(messages)
            };
        }
        Err(closed())
    }
}

/// The error number, and the sentence among the attributes that follow the quoted header.
fn cause(error: &ErrorMessage) -> Cause {
    const QUOTED_HEADER: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let attributes = error.header.get(QUOTED_HEADER..).unwrap_or_default();
    let sentence = NlasIterator::new(attributes)
        .flatten()
        .find(|a| a.kind() == NLMSGERR_ATTR_MSG)
        .and_then(|a| parse_string(a.value()).ok());
    Cause { errno: Errno::from_raw(error.raw_code().saturating_neg()), sentence }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtnetlink::packet_core::{ErrorBuffer, Parseable};

    #[test]
    fn the_kernels_sentence_is_found_behind_the_quoted_header() {
        let mut bytes = (-22_i32).to_ne_bytes().to_vec();
        bytes.extend([0; 16]);
        bytes.extend(9_u16.to_ne_bytes());
        bytes.extend(1_u16.to_ne_bytes());
        bytes.extend(b"nope\0\0\0\0");
        let error = ErrorMessage::parse(&ErrorBuffer::new(&bytes)).expect("well-formed");
        assert_eq!(cause(&error), Cause { errno: Errno::EINVAL, sentence: Some("nope".into()) });
    }
}

//! What stands before a tunnel's handshakes (section 5.3): mac1 always, mac2 and the source's rate under
//! load. It needs no peer, so whoever receives the messages can ask it before anything is queued.

use std::net::SocketAddr;
use std::time::Duration;

use rand::CryptoRng;

use super::cookie::Checker;
use super::crypto::PublicKey;
use super::limiter::{Bucket, Limiter, Rate};
use super::mac::Mac1Key;
use super::message::{CookieReply, Handshake};
use crate::clock::Boottime;

/// Cookie replies per tunnel: a bound for the time that they take, far above any rate at which genuine peers
/// come. They are smaller than what they answer, so nobody gains by having them sent to others.
const COOKIE_REPLIES: Rate = Rate { every: Duration::from_micros(10), burst: 1000 };

/// The door of one tunnel.
pub struct Door {
    mac1: Mac1Key,
    checker: Checker,
    limiter: Limiter,
    cookie_replies: Bucket,
}

/// Why a message may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// Not a message of type 1 to 3 with its exact length.
    Malformed,
    /// Its mac1 is wrong.
    Mac1,
    /// Under load and without a valid mac2. The reply goes to the source, unless there were too many.
    CookieRequired(Option<CookieReply>),
    /// Under load and the source exceeded its rate.
    RateLimited,
}

impl Door {
    pub(super) fn new(own: &PublicKey, now: Boottime, rng: &mut dyn CryptoRng) -> Self {
        Self {
            mac1: Mac1Key::new(own),
            checker: Checker::new(own, now, rng),
            limiter: Limiter::new(now),
            cookie_replies: Bucket::default(),
        }
    }

    /// Stands before another key of ours from now on; what sources have taken of their rates still counts.
    pub(super) fn set_key(&mut self, own: &PublicKey, now: Boottime, rng: &mut dyn CryptoRng) {
        self.mac1 = Mac1Key::new(own);
        self.checker = Checker::new(own, now, rng);
    }

    /// Looks at a message (types 1 to 3) that `source` sent, and gives it back in its parts.
    ///
    /// # Errors
    /// Why it is stopped.
    pub fn admit(
        &mut self,
        now: Boottime,
        rng: &mut dyn CryptoRng,
        source: SocketAddr,
        message: &[u8],
        under_load: bool,
    ) -> Result<Handshake, Stopped> {
        let parsed = Handshake::parse(message).ok_or(Stopped::Malformed)?;
        let sender = match &parsed {
            Handshake::Initiation(initiation) => initiation.sender,
            Handshake::Response(response) => response.sender,
            // It has no macs; only who waits for it can open it.
            Handshake::CookieReply(_) => return Ok(parsed),
        };
        if !self.mac1.verify(message) {
            return Err(Stopped::Mac1);
        }
        if !under_load {
            return Ok(parsed);
        }
        if !self.checker.verify(now, rng, source, message) {
            let allowed = self.cookie_replies.take(now, COOKIE_REPLIES);
            let reply = allowed.then(|| self.checker.reply(now, rng, source, sender, message));
            return Err(Stopped::CookieRequired(reply));
        }
        if self.limiter.allow(now, source) { Ok(parsed) } else { Err(Stopped::RateLimited) }
    }
}

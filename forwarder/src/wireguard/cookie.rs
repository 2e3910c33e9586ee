//! Cookies (section 5.3): under load, a sender proves that it owns its address before we compute.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use chacha20poly1305::aead::{Aead, AeadInPlace, Payload};
use chacha20poly1305::{KeyInit, XChaCha20Poly1305};
use rand::CryptoRng;
use zeroize::Zeroizing;

use super::crypto::{PublicKey, Secret, hash, mac};
use super::mac;
use super::message::{CookieReply, MAC_LEN};
use crate::clock::Boottime;

const LABEL_COOKIE: &[u8] = b"cookie--";
/// Life of the secret that cookies are made from.
const SECRET_LIFE: Duration = Duration::from_secs(120);
/// How long a cookie is used: less than its maker's secret lives, so that it is still good on arrival.
const COOKIE_LIFE: Duration = Duration::from_secs(115);

/// The side under load: hands out cookies and checks mac2.
pub(super) struct Checker {
    secret: Secret,
    born: Boottime,
    seal: XChaCha20Poly1305,
}

impl Checker {
    pub(super) fn new(own: &PublicKey, now: Boottime, rng: &mut dyn CryptoRng) -> Self {
        Self { secret: random(rng), born: now, seal: cipher(own) }
    }

    /// Whether the message's mac2 proves that its sender receives at `source`.
    pub(super) fn verify(
        &mut self,
        now: Boottime,
        rng: &mut dyn CryptoRng,
        source: SocketAddr,
        message: &[u8],
    ) -> bool {
        mac::has_mac2(message) && mac::verify_mac2(message, &self.cookie(now, rng, source))
    }

    /// The cookie reply to a message whose sender calls itself `receiver`.
    pub(super) fn reply(
        &mut self,
        now: Boottime,
        rng: &mut dyn CryptoRng,
        source: SocketAddr,
        receiver: u32,
        message: &[u8],
    ) -> CookieReply {
        let cookie = self.cookie(now, rng, source);
        let mut nonce = [0; 24];
        rng.fill_bytes(&mut nonce);
        let mut sealed_cookie = [0; MAC_LEN + 16];
        let (text, tag) = sealed_cookie.split_at_mut(MAC_LEN);
        text.copy_from_slice(&cookie);
        let computed = self
            .seal
            .encrypt_in_place_detached(&nonce.into(), &mac::mac1_of(message), text)
            .expect("a cookie is far shorter than the cipher's limit");
        tag.copy_from_slice(&computed);
        CookieReply { receiver, nonce, sealed_cookie }
    }

    fn cookie(&mut self, now: Boottime, rng: &mut dyn CryptoRng, source: SocketAddr) -> [u8; MAC_LEN] {
        if now.since(self.born) >= SECRET_LIFE {
            self.secret = random(rng);
            self.born = now;
        }
        let port = source.port().to_be_bytes();
        match source.ip() {
            IpAddr::V4(address) => mac(&self.secret[..], &[&address.octets(), &port]),
            IpAddr::V6(address) => mac(&self.secret[..], &[&address.octets(), &port]),
        }
    }
}

/// The other side: keeps the latest cookie of one peer for the next message to it.
pub(super) struct Jar {
    open: XChaCha20Poly1305,
    /// mac1 of the last message to the peer, until a reply to it was taken.
    mac1: Option<[u8; MAC_LEN]>,
    cookie: Option<(Zeroizing<[u8; MAC_LEN]>, Boottime)>,
}

impl Jar {
    pub(super) fn new(peer: &PublicKey) -> Self {
        Self { open: cipher(peer), mac1: None, cookie: None }
    }

    /// Notes the mac1 of a message to the peer.
    pub(super) fn sent(&mut self, mac1: [u8; MAC_LEN]) {
        self.mac1 = Some(mac1);
    }

    /// Takes a reply; `false` when it answers nothing that we sent. One reply is taken per message.
    pub(super) fn take(&mut self, now: Boottime, reply: &CookieReply) -> bool {
        let Some(aad) = self.mac1 else { return false };
        let payload = Payload { msg: &reply.sealed_cookie, aad: &aad };
        let Ok(cookie) = self.open.decrypt(&reply.nonce.into(), payload).map(Zeroizing::new) else {
            return false;
        };
        let Some(cookie) = cookie.first_chunk() else { return false };
        self.cookie = Some((Zeroizing::new(*cookie), now));
        self.mac1 = None;
        true
    }

    /// The cookie for the next message, while it is good.
    pub(super) fn cookie(&self, now: Boottime) -> Option<&[u8; MAC_LEN]> {
        let (cookie, born) = self.cookie.as_ref()?;
        (now.since(*born) < COOKIE_LIFE).then_some(cookie)
    }
}

fn cipher(receiver: &PublicKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&hash(&[LABEL_COOKIE, &receiver.0]).into())
}

fn random(rng: &mut dyn CryptoRng) -> Secret {
    let mut secret = Secret::default();
    rng.fill_bytes(&mut secret[..]);
    secret
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::super::crypto::PrivateKey;
    use super::super::mac::Mac1Key;
    use super::super::message::INITIATION_LEN;
    use super::*;

    struct Pair {
        checker: Checker,
        jar: Jar,
        mac1: Mac1Key,
        rng: StdRng,
    }

    fn pair() -> Pair {
        let mut rng = StdRng::seed_from_u64(1);
        let public = PrivateKey::generate(&mut rng).public();
        let checker = Checker::new(&public, at(0), &mut rng);
        Pair { checker, jar: Jar::new(&public), mac1: Mac1Key::new(&public), rng }
    }

    impl Pair {
        fn message(&mut self, now: Boottime) -> [u8; INITIATION_LEN] {
            let mut message = [1; INITIATION_LEN];
            let mac1 = self.mac1.fill(&mut message, self.jar.cookie(now));
            self.jar.sent(mac1);
            message
        }

        fn verify(&mut self, now: Boottime, source: &str, message: &[u8]) -> bool {
            self.checker.verify(now, &mut self.rng, source.parse().expect("an address"), message)
        }

        fn reply(&mut self, now: Boottime, source: &str, message: &[u8]) -> CookieReply {
            let source = source.parse().expect("an address");
            self.checker.reply(now, &mut self.rng, source, 7, message)
        }
    }

    fn at(seconds: u64) -> Boottime {
        Boottime::default() + Duration::from_secs(1000 + seconds)
    }

    /// Section 5.4.7: the cookie holds for one address and one port.
    #[test]
    fn cookie_is_bound_to_address_and_port() {
        let mut pair = pair();
        let first = pair.message(at(0));
        assert!(!pair.verify(at(0), "192.0.2.1:9", &first));
        let reply = pair.reply(at(0), "192.0.2.1:9", &first);
        assert!(pair.jar.take(at(0), &reply));
        let second = pair.message(at(1));
        assert!(pair.verify(at(1), "192.0.2.1:9", &second));
        assert!(!pair.verify(at(1), "192.0.2.2:9", &second));
        assert!(!pair.verify(at(1), "192.0.2.1:8", &second));
        assert!(!pair.verify(at(1), "[2001:db8::1]:9", &second));
    }

    /// Section 5.4.7: a reply counts for the message that it answers, once.
    #[test]
    fn reply_is_taken_once_per_message() {
        let mut pair = pair();
        let message = pair.message(at(0));
        let reply = pair.reply(at(0), "192.0.2.1:9", &message);
        let mut forged = reply;
        forged.sealed_cookie[3] ^= 1;
        assert!(!pair.jar.take(at(0), &forged));
        assert!(pair.jar.take(at(0), &reply));
        assert!(!pair.jar.take(at(0), &reply));

        let other = pair.reply(at(0), "192.0.2.1:9", &[2; INITIATION_LEN]);
        pair.message(at(1));
        assert!(!pair.jar.take(at(1), &other), "a reply to another message");
    }

    /// Sections 5.3 and 6: the secret lives 120 s, a cookie is used for 115 s.
    #[test]
    fn cookies_age() {
        let mut pair = pair();
        let message = pair.message(at(0));
        let reply = pair.reply(at(0), "192.0.2.1:9", &message);
        assert!(pair.jar.take(at(0), &reply));
        let with_cookie = pair.message(at(114));
        assert!(pair.verify(at(119), "192.0.2.1:9", &with_cookie));
        assert!(!pair.verify(at(120), "192.0.2.1:9", &with_cookie));
        assert!(pair.jar.cookie(at(114)).is_some() && pair.jar.cookie(at(115)).is_none());
    }
}

//! mac1 and mac2 (section 5.4.4), the last 32 bytes of an initiation or a response.

use subtle::ConstantTimeEq;

use super::crypto::{PublicKey, hash, mac};
use super::message::MAC_LEN;

const LABEL_MAC1: &[u8] = b"mac1----";

/// The key of the mac1 of messages to one receiver.
pub(super) struct Mac1Key([u8; 32]);

impl Mac1Key {
    pub(super) fn new(receiver: &PublicKey) -> Self {
        Self(hash(&[LABEL_MAC1, &receiver.0]))
    }

    /// Fills in mac1, and mac2 if there is a cookie; returns mac1.
    pub(super) fn fill(&self, message: &mut [u8], cookie: Option<&[u8; MAC_LEN]>) -> [u8; MAC_LEN] {
        let at = message.len() - 2 * MAC_LEN;
        let mac1 = mac(&self.0, &[&message[..at]]);
        message[at..at + MAC_LEN].copy_from_slice(&mac1);
        if let Some(cookie) = cookie {
            let mac2 = mac(cookie, &[&message[..at + MAC_LEN]]);
            message[at + MAC_LEN..].copy_from_slice(&mac2);
        }
        mac1
    }

    /// Whether the message's mac1 is right.
    pub(super) fn verify(&self, message: &[u8]) -> bool {
        let Some((body, macs)) = message.split_last_chunk::<{ 2 * MAC_LEN }>() else { return false };
        mac(&self.0, &[body]).ct_eq(&macs[..MAC_LEN]).into()
    }
}

/// The message's mac1; zero when it is too short to have one.
pub(super) fn mac1_of(message: &[u8]) -> [u8; MAC_LEN] {
    let macs = message.last_chunk::<{ 2 * MAC_LEN }>();
    macs.and_then(|m| m.first_chunk().copied()).unwrap_or_default()
}

/// Whether the message has a mac2: without a cookie it is all zero.
pub(super) fn has_mac2(message: &[u8]) -> bool {
    message.last_chunk::<MAC_LEN>().is_some_and(|mac2| *mac2 != [0; MAC_LEN])
}

/// Whether the message's mac2 was made with `cookie`.
pub(super) fn verify_mac2(message: &[u8], cookie: &[u8; MAC_LEN]) -> bool {
    let Some((body, mac2)) = message.split_last_chunk::<MAC_LEN>() else { return false };
    mac(cookie, &[body]).ct_eq(mac2).into()
}

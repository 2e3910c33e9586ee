//! The shapes of WireGuard's messages (section 5.4).

/// Length of a handshake initiation, in bytes.
pub const INITIATION_LEN: usize = 148;
/// Length of a handshake response, in bytes.
pub const RESPONSE_LEN: usize = 92;
/// Length of a cookie reply, in bytes.
pub const COOKIE_REPLY_LEN: usize = 64;
/// Length of a data message's header (type, receiver, counter), in bytes.
pub const DATA_HEADER_LEN: usize = 16;
/// Length of the shortest data message: header and tag of an empty packet.
pub const DATA_MIN_LEN: usize = DATA_HEADER_LEN + crate::aead::TAG_LEN;

/// First byte (and little-endian 32-bit word) of a handshake initiation.
pub const TYPE_INITIATION: u8 = 1;
/// First byte of a handshake response.
pub const TYPE_RESPONSE: u8 = 2;
/// First byte of a cookie reply.
pub const TYPE_COOKIE_REPLY: u8 = 3;
/// First byte of a data message.
pub const TYPE_DATA: u8 = 4;

/// Length of a mac1 or mac2.
pub const MAC_LEN: usize = 16;

/// A handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    /// Type 1.
    Initiation(Initiation),
    /// Type 2.
    Response(Response),
    /// Type 3.
    CookieReply(CookieReply),
}

impl Handshake {
    /// Reads a message of type 1 to 3 that has exactly its type's length, else `None`.
    pub fn parse(message: &[u8]) -> Option<Self> {
        match *message.first()? {
            TYPE_INITIATION => Initiation::parse(message).map(Self::Initiation),
            TYPE_RESPONSE => Response::parse(message).map(Self::Response),
            TYPE_COOKIE_REPLY => CookieReply::parse(message).map(Self::CookieReply),
            _ => None,
        }
    }
}

/// A handshake initiation (section 5.4.2) without its macs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Initiation {
    /// The initiator's index.
    pub sender: u32,
    /// Unencrypted ephemeral key.
    pub ephemeral: [u8; 32],
    /// The initiator's static key, sealed.
    pub sealed_static: [u8; 48],
    /// TAI64N timestamp, sealed.
    pub sealed_timestamp: [u8; 28],
}

impl Initiation {
    /// Reads a message of exactly [`INITIATION_LEN`] bytes and type 1, else `None`.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let message: &[u8; INITIATION_LEN] = message.try_into().ok()?;
        typed(message, TYPE_INITIATION)?;
        Some(Self {
            sender: u32::from_le_bytes(field(message, 4)?),
            ephemeral: field(message, 8)?,
            sealed_static: field(message, 40)?,
            sealed_timestamp: field(message, 88)?,
        })
    }

    /// The message, both macs zero.
    pub fn to_bytes(self) -> [u8; INITIATION_LEN] {
        let mut bytes = [0; INITIATION_LEN];
        bytes[0] = TYPE_INITIATION;
        bytes[4..8].copy_from_slice(&self.sender.to_le_bytes());
        bytes[8..40].copy_from_slice(&self.ephemeral);
        bytes[40..88].copy_from_slice(&self.sealed_static);
        bytes[88..116].copy_from_slice(&self.sealed_timestamp);
        bytes
    }
}

/// A handshake response (section 5.4.3) without its macs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The responder's index.
    pub sender: u32,
    /// The initiator's index.
    pub receiver: u32,
    /// Unencrypted ephemeral key.
    pub ephemeral: [u8; 32],
    /// Nothing, sealed.
    pub sealed_empty: [u8; 16],
}

impl Response {
    /// Reads a message of exactly [`RESPONSE_LEN`] bytes and type 2, else `None`.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let message: &[u8; RESPONSE_LEN] = message.try_into().ok()?;
        typed(message, TYPE_RESPONSE)?;
        Some(Self {
            sender: u32::from_le_bytes(field(message, 4)?),
            receiver: u32::from_le_bytes(field(message, 8)?),
            ephemeral: field(message, 12)?,
            sealed_empty: field(message, 44)?,
        })
    }

    /// The message, both macs zero.
    pub fn to_bytes(self) -> [u8; RESPONSE_LEN] {
        let mut bytes = [0; RESPONSE_LEN];
        bytes[0] = TYPE_RESPONSE;
        bytes[4..8].copy_from_slice(&self.sender.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.receiver.to_le_bytes());
        bytes[12..44].copy_from_slice(&self.ephemeral);
        bytes[44..60].copy_from_slice(&self.sealed_empty);
        bytes
    }
}

/// A cookie reply (section 5.4.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CookieReply {
    /// The index of whoever sent the message that this answers.
    pub receiver: u32,
    /// XChaCha20-Poly1305 nonce.
    pub nonce: [u8; 24],
    /// The cookie, sealed.
    pub sealed_cookie: [u8; 32],
}

impl CookieReply {
    /// Reads a message of exactly [`COOKIE_REPLY_LEN`] bytes and type 3, else `None`.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let message: &[u8; COOKIE_REPLY_LEN] = message.try_into().ok()?;
        typed(message, TYPE_COOKIE_REPLY)?;
        Some(Self {
            receiver: u32::from_le_bytes(field(message, 4)?),
            nonce: field(message, 8)?,
            sealed_cookie: field(message, 32)?,
        })
    }

    /// The message.
    pub fn to_bytes(self) -> [u8; COOKIE_REPLY_LEN] {
        let mut bytes = [0; COOKIE_REPLY_LEN];
        bytes[0] = TYPE_COOKIE_REPLY;
        bytes[4..8].copy_from_slice(&self.receiver.to_le_bytes());
        bytes[8..32].copy_from_slice(&self.nonce);
        bytes[32..64].copy_from_slice(&self.sealed_cookie);
        bytes
    }
}

/// The header of a data message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// Index by which the receiver knows the session.
    pub receiver: u32,
    /// Counter, the AEAD's nonce.
    pub counter: u64,
}

impl DataHeader {
    /// Reads the header of a message that is at least [`DATA_MIN_LEN`] long and of type 4, else `None`.
    pub fn parse(message: &[u8]) -> Option<Self> {
        if message.len() < DATA_MIN_LEN || message[..4] != [TYPE_DATA, 0, 0, 0] {
            return None;
        }
        let receiver = u32::from_le_bytes(message[4..8].try_into().ok()?);
        let counter = u64::from_le_bytes(message[8..16].try_into().ok()?);
        Some(Self { receiver, counter })
    }

    /// The header's bytes.
    pub fn to_bytes(self) -> [u8; DATA_HEADER_LEN] {
        let mut bytes = [0; DATA_HEADER_LEN];
        bytes[0] = TYPE_DATA;
        bytes[4..8].copy_from_slice(&self.receiver.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.counter.to_le_bytes());
        bytes
    }
}

/// `Some` when the message begins with the type and three reserved zeros.
fn typed(message: &[u8], kind: u8) -> Option<()> {
    (message.first_chunk() == Some(&[kind, 0, 0, 0])).then_some(())
}

fn field<const N: usize>(message: &[u8], at: usize) -> Option<[u8; N]> {
    message.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Section 5.4.2 to 5.4.7: what is parsed is emitted again, byte for byte, except the macs.
    #[test]
    fn every_shape_survives_a_round_trip() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut message = bytes[..INITIATION_LEN].to_vec();
        message[..4].copy_from_slice(&[TYPE_INITIATION, 0, 0, 0]);
        let emitted = Initiation::parse(&message).expect("parses").to_bytes();
        assert_eq!((&emitted[..116], &emitted[116..]), (&message[..116], &[0; 32][..]));

        let mut message = bytes[..RESPONSE_LEN].to_vec();
        message[..4].copy_from_slice(&[TYPE_RESPONSE, 0, 0, 0]);
        let emitted = Response::parse(&message).expect("parses").to_bytes();
        assert_eq!((&emitted[..60], &emitted[60..]), (&message[..60], &[0; 32][..]));

        let mut message = bytes[..COOKIE_REPLY_LEN].to_vec();
        message[..4].copy_from_slice(&[TYPE_COOKIE_REPLY, 0, 0, 0]);
        assert_eq!(CookieReply::parse(&message).expect("parses").to_bytes()[..], message);

        let header = DataHeader { receiver: 0x0403_0201, counter: 7 };
        let mut message = header.to_bytes().to_vec();
        assert_eq!(DataHeader::parse(&message), None);
        message.extend_from_slice(&[0; 16]);
        assert_eq!(DataHeader::parse(&message), Some(header));
    }

    proptest! {
        #[test]
        fn only_the_exact_length_and_type_parse(length in 0_usize..200, kind: u8, reserved in 0_u8..2) {
            let mut message = vec![9; length];
            for (byte, value) in message.iter_mut().zip([kind % 6, reserved, 0, 0]) {
                *byte = value;
            }
            let good = |k, len| message.len() == len && message[..4] == [k, 0, 0, 0];
            prop_assert_eq!(Initiation::parse(&message).is_some(), good(TYPE_INITIATION, INITIATION_LEN));
            prop_assert_eq!(Response::parse(&message).is_some(), good(TYPE_RESPONSE, RESPONSE_LEN));
            prop_assert_eq!(
                CookieReply::parse(&message).is_some(),
                good(TYPE_COOKIE_REPLY, COOKIE_REPLY_LEN)
            );
        }
    }
}

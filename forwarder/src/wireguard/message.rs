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

//! What the lanes look up of the packets, one array for each kind.

use super::super::plan::{BLOCK, Packet};
use super::lanes::LANES;
use super::{GROUP, poly};

/// Of each packet; from the last one on, that one again.
#[repr(C, align(64))]
pub struct Table {
    /// The nonces, in halves.
    pub nonces: [[u32; GROUP]; 2],
    pub texts: [*const u8; GROUP],
    pub lens: [u64; GROUP],
    /// Blocks of the text in whole sets, and all of them.
    pub whole: [u32; GROUP],
    pub blocks: [u32; GROUP],
    /// Whether all packets have the same key.
    pub same_key: bool,
}

impl Table {
    /// Not for the vector units: a compiler would gather these words with them, which is slow.
    #[inline(never)]
    pub fn new(packets: &[Packet]) -> Self {
        let mut table = Self {
            nonces: [[0; GROUP]; 2],
            texts: [std::ptr::null(); GROUP],
            lens: [0; GROUP],
            whole: [0; GROUP],
            blocks: [0; GROUP],
            same_key: true,
        };
        let count = packets.len().min(GROUP);
        for (i, packet) in packets.iter().take(count).enumerate() {
            table.put(i, packet);
            table.same_key &= packet.key == packets[0].key;
        }
        for i in count..count.next_multiple_of(poly::LANES) {
            table.put(i, &packets[count - 1]);
        }
        table
    }

    #[inline]
    fn put(&mut self, i: usize, packet: &Packet) {
        self.nonces[0][i] = packet.nonce as u32;
        self.nonces[1][i] = (packet.nonce >> 32) as u32;
        self.texts[i] = packet.ciphertext;
        self.lens[i] = packet.len as u64;
        self.whole[i] = (packet.source_len / (LANES * BLOCK) * LANES) as u32;
        self.blocks[i] = packet.len.div_ceil(BLOCK) as u32;
    }
}

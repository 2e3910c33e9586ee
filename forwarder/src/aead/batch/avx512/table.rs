//! What the lanes look up of the packets, one array for each kind; and which packet each lane has.

use super::super::packet::{BLOCK, Packet};
use super::lanes::LANES;
use super::{GROUP, poly};

/// Lanes of key blocks and tails, and room for writing many of them at once.
const ROOM: usize = GROUP + GROUP * LANES + LANES;

/// Of each packet. A last group of Poly1305's that is not full has its last packet several times.
#[repr(C, align(64))]
pub struct Table {
    pub nonces: [u64; GROUP],
    pub lens: [u64; GROUP],
    /// Which block of the text lane 0 would have if this packet's blocks began there.
    pub first: [u32; GROUP],
    pub texts: [*const u8; GROUP],
    /// Whether all packets have the same key.
    pub same_key: bool,
    /// How many packets there are: the first lanes have their key blocks.
    pub keys: usize,
    /// How many lanes there are: the other ones have what is left of the texts beyond whole sets.
    pub end: usize,
    /// Each lane's packet, and nothing that matters from the end on.
    pub lanes: [u8; ROOM],
}

impl Table {
    pub const EMPTY: Self = Self {
        nonces: [0; GROUP],
        lens: [0; GROUP],
        first: [0; GROUP],
        texts: [std::ptr::null(); GROUP],
        same_key: false,
        keys: 0,
        end: 0,
        lanes: [0; ROOM],
    };

    /// Fills an empty table.
    ///
    /// Not for the vector units: a compiler would gather these words with them, which is slow.
    #[inline(never)]
    pub fn fill(&mut self, packets: &[Packet]) {
        let count = packets.len();
        let (mut lane, mut same_key) = (count, true);
        for (i, packet) in packets.iter().enumerate() {
            self.nonces[i] = packet.nonce;
            self.lens[i] = packet.len as u64;
            self.texts[i] = packet.ciphertext;
            same_key &= packet.key == packets[0].key;
            let whole = whole_blocks(packet);
            self.first[i] = (whole as u32).wrapping_sub(lane as u32);
            self.lanes[i] = i as u8;
            self.lanes[lane..][..LANES].fill(i as u8);
            lane += packet.len.div_ceil(BLOCK).wrapping_sub(whole);
        }
        (self.keys, self.end, self.same_key) = (count, lane, same_key);
        for i in count..count.next_multiple_of(poly::LANES) {
            self.lens[i] = self.lens[count - 1];
            self.texts[i] = self.texts[count - 1];
        }
    }
}

/// How many blocks of the packet's text are in whole sets.
#[inline]
pub fn whole_blocks(packet: &Packet) -> usize {
    packet.len / (LANES * BLOCK) * LANES
}

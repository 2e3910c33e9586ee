//! Which blocks share a set of lanes: those of all packets, one after the other, each packet's key block first.
//! What a set has written can be authenticated while the next one is encrypted.

use arrayvec::ArrayVec;

use super::super::packet::{BLOCK, Packet};
use super::chacha::LANES;

/// Successive blocks of one packet, each in a lane of its own.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// The packet, and its number.
    pub packet: &'a Packet,
    pub number: usize,
    /// The first block, 0 for the one whose beginning is the one-time key.
    pub block: usize,
    /// The first lane.
    pub lane: usize,
    /// How many lanes.
    pub lanes: usize,
}

/// The runs that fill one set of lanes.
pub type Set<'a> = ArrayVec<Run<'a>, LANES>;

/// So far everything is in a set: all blocks of earlier packets, and the blocks of this one before that one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Front {
    pub number: usize,
    pub block: usize,
}

/// Hands out sets.
pub struct Sets<'a> {
    packets: &'a [Packet],
    front: Front,
}

impl<'a> Sets<'a> {
    pub fn new(packets: &'a [Packet]) -> Self {
        Self { packets, front: Front { number: 0, block: 0 } }
    }

    /// Where the next set begins.
    pub fn front(&self) -> Front {
        self.front
    }

    /// Puts the next blocks into the set; none are left if it stays empty.
    #[inline(always)]
    pub fn fill(&mut self, set: &mut Set<'a>) {
        set.clear();
        let mut lane = 0;
        while lane < LANES {
            let Front { number, block } = self.front;
            let Some(packet) = self.packets.get(number) else { break };
            let left = packet.len.div_ceil(BLOCK).wrapping_add(1).wrapping_sub(block);
            let lanes = left.min(LANES - lane);
            set.push(Run { packet, number, block, lane, lanes });
            lane += lanes;
            self.front = if lanes == left {
                Front { number: number.wrapping_add(1), block: 0 }
            } else {
                Front { number, block: block.wrapping_add(lanes) }
            };
        }
    }
}

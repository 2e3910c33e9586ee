//! Poly1305 of a batch in small steps: two packets at a time, as one alone would wait for its own
//! multiplications.

use super::super::plan::{BLOCK, Packet};
use super::super::TAG_LEN;
use super::poly::{self, Mac};
use super::sets::Front;

/// Blocks of each packet in a step.
pub const STEP: usize = 2;

/// A little of the weave's work, if there is any, between four parts of other work.
///
/// A macro, as a closure's registers would be memory.
macro_rules! step {
    ($weave:ident, $a:expr, $b:expr, $c:expr, $d:expr) => {
        if $weave.both >= STEP {
            let [x, y] = &mut $weave.streams;
            let (rx, ry) = (&raw const x.mac.r, &raw const y.mac.r);
            $a;
            let hx = poly::block(x.mac.h, rx, x.at);
            $b;
            let hy = poly::block(y.mac.h, ry, y.at);
            $c;
            let hx = poly::block(hx, rx, x.at.wrapping_add(poly::BLOCK));
            $d;
            let hy = poly::block(hy, ry, y.at.wrapping_add(poly::BLOCK));
            (x.mac.h, y.mac.h) = (hx, hy);
            (x.left, y.left) = (x.left.wrapping_sub(STEP), y.left.wrapping_sub(STEP));
            (x.at, y.at) = (x.at.wrapping_add(STEP * poly::BLOCK), y.at.wrapping_add(STEP * poly::BLOCK));
            $weave.both = $weave.both.wrapping_sub(STEP);
            if $weave.both < STEP {
                $weave.plan();
            }
        } else {
            $a;
            $b;
            $c;
            $d;
            if $weave.ends {
                $weave.seldom();
            }
        }
    };
}
pub(super) use step;

/// One packet that is being authenticated.
pub struct Stream {
    pub mac: Mac,
    /// The packet's number; none if all that are encrypted have a stream.
    number: Option<usize>,
    /// The next block.
    pub at: *const u8,
    /// Blocks from there on that are encrypted.
    pub left: usize,
    /// Whether the packet is, up to its end.
    complete: bool,
}

/// What is left to authenticate.
pub struct Weave<'a> {
    packets: &'a [Packet],
    keys: *const [u64; 4],
    tags: *mut [u8; TAG_LEN],
    pub streams: [Stream; 2],
    /// Blocks that both streams have.
    pub both: usize,
    /// Whether a packet is about to end.
    pub ends: bool,
    /// The first packet that has no stream yet.
    next: usize,
    front: Front,
}

impl<'a> Weave<'a> {
    /// `keys` and `tags` have as many entries as there are packets.
    pub fn new(packets: &'a [Packet], keys: *const [u64; 4], tags: *mut [u8; TAG_LEN]) -> Self {
        let idle = || Stream { mac: Mac::IDLE, number: None, at: std::ptr::null(), left: 0, complete: false };
        Self {
            packets,
            keys,
            tags,
            streams: [idle(), idle()],
            both: 0,
            ends: false,
            next: 0,
            front: Front { number: 0, block: 0 },
        }
    }

    /// Takes what lies before the front as encrypted.
    ///
    /// # Safety
    /// It is; one-time keys are there, too.
    #[target_feature(enable = "avx2,bmi2")]
    #[inline]
    pub unsafe fn release(&mut self, front: Front) {
        self.front = front;
        for stream in 0..2 {
            self.look(stream);
        }
    }

    /// How far the stream can go, now.
    #[target_feature(enable = "avx2,bmi2")]
    fn look(&mut self, stream: usize) {
        let stream = &mut self.streams[stream];
        if stream.number.is_none() && (self.next, 0) < (self.front.number, self.front.block) {
            let packet = &self.packets[self.next];
            // SAFETY: the key is there, as its block is before the front.
            stream.mac = Mac::new(unsafe { &*self.keys.add(self.next) });
            (stream.number, stream.at) = (Some(self.next), packet.ciphertext);
            self.next += 1;
        }
        if let Some(number) = stream.number {
            let packet = &self.packets[number];
            let sealing = packet.ciphertext == packet.destination.cast_const();
            stream.complete = number < self.front.number || !sealing;
            let whole = if stream.complete {
                packet.len / poly::BLOCK
            } else {
                (self.front.block - 1) * (BLOCK / poly::BLOCK)
            };
            stream.left = whole - (stream.at as usize - packet.ciphertext as usize) / poly::BLOCK;
        }
        self.plan();
    }

    #[inline(always)]
    pub fn plan(&mut self) {
        self.both = self.streams[0].left.min(self.streams[1].left);
        self.ends = self.streams.iter().any(|stream| stream.complete && stream.left < STEP);
    }

    /// The last blocks of packets.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx2,bmi2")]
    #[inline(never)]
    pub unsafe fn seldom(&mut self) {
        for i in 0..2 {
            let stream = &mut self.streams[i];
            let Some(number) = stream.number else { continue };
            if !stream.complete || stream.left >= STEP {
                continue;
            }
            for i in 0..stream.left {
                // SAFETY: there are that many blocks.
                unsafe { stream.mac.block(stream.at.wrapping_add(i * poly::BLOCK)) };
            }
            let end = stream.at.wrapping_add(stream.left * poly::BLOCK);
            // SAFETY: the packet is encrypted up to its end.
            unsafe {
                *self.tags.add(number) = stream.mac.finish(self.packets[number].len, end, &*self.keys.add(number));
            }
            (stream.number, stream.complete, stream.left) = (None, false, 0);
            self.look(i);
        }
        self.plan();
    }

    /// All the rest.
    ///
    /// # Safety
    /// As above.
    #[target_feature(enable = "avx2,bmi2")]
    pub unsafe fn finish(mut self) {
        loop {
            while self.both >= STEP || self.ends {
                // SAFETY: the caller's promise.
                unsafe { step!(self, {}, {}, {}, {}) };
            }
            let Some(stream) = self.streams.iter_mut().find(|stream| stream.number.is_some()) else { return };
            while stream.left >= STEP {
                for i in 0..STEP {
                    // SAFETY: there are that many blocks.
                    unsafe { stream.mac.block(stream.at.wrapping_add(i * poly::BLOCK)) };
                }
                stream.left -= STEP;
                stream.at = stream.at.wrapping_add(STEP * poly::BLOCK);
            }
            self.plan();
        }
    }
}

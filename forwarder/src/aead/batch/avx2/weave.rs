//! Poly1305 of a batch in small steps: two packets at a time, as one alone would wait for its own
//! multiplications.
//!
//! Which steps there are depends on lengths only.

use super::super::TAG_LEN;
use super::super::packet::{BLOCK, Packet};
use super::poly::{self, Mac};
use super::sets::Front;

/// Bytes of each packet in a step.
pub const STEP: usize = 2 * poly::BLOCK;

/// A step, if both streams have so much, between four parts of other work.
///
/// A macro, as a closure's registers would be memory.
macro_rules! step {
    ($weave:ident, $a:expr, $b:expr, $c:expr, $d:expr) => {
        if $weave.steps > 0 {
            let [x, y] = &mut $weave.streams;
            $a;
            let hx = poly::block(x.mac.h, &raw const x.mac.r, x.at);
            $b;
            let hy = poly::block(y.mac.h, &raw const y.mac.r, y.at);
            $c;
            x.mac.h = poly::block(hx, &raw const x.mac.r, x.at.wrapping_add(poly::BLOCK));
            $d;
            y.mac.h = poly::block(hy, &raw const y.mac.r, y.at.wrapping_add(poly::BLOCK));
            (x.at, y.at) = (x.at.wrapping_add(STEP), y.at.wrapping_add(STEP));
            $weave.steps = $weave.steps.wrapping_sub(1);
        } else {
            $a;
            $b;
            $c;
            $d;
            if $weave.due {
                $weave.turn();
            }
        }
    };
}
pub(super) use step;

/// A packet that is being authenticated.
pub struct Stream {
    pub mac: Mac,
    /// The packet's number.
    number: usize,
    /// The next block.
    pub at: *const u8,
    /// The end of the whole blocks that are encrypted.
    end: *const u8,
    /// Whether the packet is, up to its own end.
    complete: bool,
}

/// What is left to authenticate.
pub struct Weave<'a> {
    packets: &'a [Packet],
    /// Where the one-time keys are, and are put meanwhile: all go there by this pointer.
    pub keys: *mut [u64; 4],
    tags: *mut [u8; TAG_LEN],
    pub streams: [Stream; 2],
    /// Steps that both streams can make.
    pub steps: usize,
    /// Whether a packet ends after them.
    pub due: bool,
    /// The first packet that has no stream yet.
    next: usize,
    front: Front,
}

/// The number of no packet.
const NONE: usize = usize::MAX;

impl Stream {
    const IDLE: Self =
        Self { mac: Mac::IDLE, number: NONE, at: std::ptr::null(), end: std::ptr::null(), complete: false };

    #[inline(always)]
    fn left(&self) -> usize {
        (self.end as usize).wrapping_sub(self.at as usize)
    }
}

impl<'a> Weave<'a> {
    /// `keys` and `tags` have as many entries as there are packets.
    pub fn new(packets: &'a [Packet], keys: *mut [u64; 4], tags: *mut [u8; TAG_LEN]) -> Self {
        Self {
            packets,
            keys,
            tags,
            streams: [Stream::IDLE, Stream::IDLE],
            steps: 0,
            due: false,
            next: 0,
            front: Front { number: 0, block: 0 },
        }
    }

    /// Takes what lies before the front as encrypted.
    ///
    /// # Safety
    /// It is; one-time keys are there, too.
    #[inline(always)]
    pub unsafe fn release(&mut self, front: Front) {
        self.front = front;
        for stream in 0..2 {
            if !self.streams[stream].complete {
                self.advance(stream);
            }
        }
        self.plan();
    }

    /// How far the stream can go, now.
    #[inline(always)]
    fn advance(&mut self, stream: usize) {
        let stream = &mut self.streams[stream];
        let Front { number, block } = self.front;
        if stream.number == NONE && (self.next < number || self.next == number && block > 0) {
            // SAFETY: the key is there, as its block is before the front.
            stream.mac = Mac::new(unsafe { &*self.keys.add(self.next) });
            stream.number = self.next;
            stream.at = self.packets[self.next].ciphertext;
            self.next += 1;
        }
        if stream.number != NONE {
            let packet = &self.packets[stream.number];
            let opening = packet.ciphertext != packet.destination.cast_const();
            stream.complete = stream.number < number || opening;
            let encrypted = if stream.complete {
                packet.len & !(poly::BLOCK - 1)
            } else {
                block.wrapping_sub(1).wrapping_mul(BLOCK)
            };
            stream.end = packet.ciphertext.wrapping_add(encrypted);
        }
    }

    /// What can be done with that.
    #[inline(always)]
    fn plan(&mut self) {
        let [x, y] = &mut self.streams;
        if self.next == self.packets.len() {
            // The last packet is alone: the other stream runs along, for nothing.
            if x.number == NONE {
                (x.at, x.end) = (y.at, y.end);
            } else if y.number == NONE {
                (y.at, y.end) = (x.at, x.end);
            }
        }
        self.steps = x.left().min(y.left()) / STEP;
        let rest = self.steps.wrapping_add(1).wrapping_mul(STEP);
        self.due = x.complete & (x.left() < rest) | y.complete & (y.left() < rest);
    }

    /// Ends packets, and begins others.
    ///
    /// # Safety
    /// The processor has BMI2. Ciphertexts can be read.
    #[inline(always)]
    pub unsafe fn turn(&mut self) {
        for i in 0..2 {
            let stream = &mut self.streams[i];
            if !stream.complete || stream.left() >= STEP {
                continue;
            }
            // SAFETY: the packet is encrypted up to its end; its key and its tag are there.
            unsafe {
                if stream.left() > 0 {
                    stream.mac.block(stream.at);
                }
                let key = &*self.keys.add(stream.number);
                *self.tags.add(stream.number) =
                    stream.mac.finish(self.packets[stream.number].len, stream.end, key);
            }
            *stream = Stream { mac: stream.mac, ..Stream::IDLE };
            self.advance(i);
        }
        self.plan();
    }

    /// All the rest.
    ///
    /// # Safety
    /// As above; everything is released.
    #[target_feature(enable = "avx2,bmi2")]
    #[inline(never)]
    pub unsafe fn finish(&mut self) {
        while self.steps > 0 || self.due {
            // SAFETY: the caller's promise.
            unsafe { step!(self, {}, {}, {}, {}) };
        }
    }
}

//! Hostile frames: genuine ones, cut, lengthened, bent and filled with noise. A fixed seed gives the same
//! series for the same genuine ones.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tests::frames::{VLAN, mend};

/// Shortest and longest frame that a packet socket and a veth let pass: a header, and the MTU with a tag.
const SHORTEST: usize = 14;
const LONGEST: usize = 1518;
/// Where an untagged frame's IP header begins.
const IP: usize = 14;

/// Addresses that no packet from outside may carry, or not as a source.
const V4: [[u8; 4]; 6] =
    [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4], [192, 168, 2, 10], [10, 99, 0, 1]];
const V6: [[u8; 16]; 5] = [
    [0; 16],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
    [0xfd, 0, 1, 0x92, 1, 0x68, 0, 2, 0, 0, 0, 0, 0, 0, 0, 10],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1],
];

/// A source of hostile frames.
pub struct Storm(StdRng);

impl Storm {
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// A frame made from one of the `genuine` ones.
    pub fn frame(&mut self, genuine: &[Vec<u8>]) -> Vec<u8> {
        let mut frame = genuine[self.0.random_range(0..genuine.len())].clone();
        match self.0.random_range(0..12) {
            0 => {} // replayed
            1 => frame.truncate(self.0.random_range(SHORTEST..=frame.len())),
            2 => self.lengthen(&mut frame),
            3 => self.0.fill_bytes(&mut frame[12..]),
            4 => frame = self.noise(),
            5 => self.flip_bits(&mut frame),
            6 => self.tag(&mut frame),
            7 => self.change_udp_length(&mut frame),
            8 => self.fragment(&mut frame),
            9 => self.fill_message(&mut frame, 8), // keeps type and receiver index
            10 => self.retype(&mut frame),
            _ => self.readdress(&mut frame),
        }
        // Half of them with checksums that let them in further.
        if self.0.random() {
            mend(&mut frame);
        }
        frame
    }

    /// A number below `n`.
    pub fn pick(&mut self, n: usize) -> usize {
        self.0.random_range(0..n)
    }

    /// A handshake message with random content behind its type, in the place of the genuine one.
    pub fn handshake(&mut self, genuine: &[Vec<u8>]) -> Vec<u8> {
        let mut frame = genuine[self.0.random_range(0..genuine.len())].clone();
        let from = self.0.random_range(4..frame.len() - message_at(&frame));
        self.fill_message(&mut frame, from);
        mend(&mut frame);
        frame
    }

    fn lengthen(&mut self, frame: &mut Vec<u8>) {
        let len = self.0.random_range(frame.len()..=LONGEST);
        frame.resize(len, 0x5a);
        if self.0.random() {
            // The IP packet claims it all, or more than there is.
            let claimed = len - IP - if frame[IP] >> 4 == 6 { 40 } else { 0 } + self.0.random_range(0..2);
            let at = if frame[IP] >> 4 == 4 { IP + 2 } else { IP + 4 };
            frame[at..at + 2].copy_from_slice(&(claimed as u16).to_be_bytes());
        }
    }

    fn noise(&mut self) -> Vec<u8> {
        let mut frame = vec![0; self.0.random_range(SHORTEST..=LONGEST)];
        self.0.fill_bytes(&mut frame);
        frame
    }

    fn flip_bits(&mut self, frame: &mut [u8]) {
        for _ in 0..self.0.random_range(1..5) {
            let reach = if self.0.random() { frame.len() } else { frame.len().min(64) };
            frame[self.0.random_range(0..reach)] ^= 1 << self.0.random_range(0..8);
        }
    }

    /// One to three tags, of customers or services.
    fn tag(&mut self, frame: &mut Vec<u8>) {
        for _ in 0..self.0.random_range(1..=3) {
            let kind = if self.0.random() { VLAN } else { 0x88a8 };
            let id = self.0.random_range(0..4096_u16);
            frame.splice(12..12, kind.to_be_bytes().into_iter().chain(id.to_be_bytes()));
        }
        frame.truncate(LONGEST);
    }

    fn change_udp_length(&mut self, frame: &mut [u8]) {
        let at = message_at(frame) - 4;
        self.change_word(frame, at);
    }

    fn change_word(&mut self, frame: &mut [u8], at: usize) {
        if let Some(word) = frame.get_mut(at..at + 2) {
            self.0.fill_bytes(word);
        }
    }

    /// A first or a later fragment; of IPv6, by a header that takes the place of UDP's.
    fn fragment(&mut self, frame: &mut [u8]) {
        if frame[IP] >> 4 == 4 {
            self.change_word(frame, IP + 6);
        } else {
            frame[IP + 6] = 44;
            frame[IP + 40] = 17;
            self.change_word(frame, IP + 42);
        }
    }

    fn fill_message(&mut self, frame: &mut [u8], from: usize) {
        let at = message_at(frame) + from;
        if let Some(content) = frame.get_mut(at..) {
            self.0.fill_bytes(content);
        }
    }

    /// Another type, known or unknown, with random content.
    fn retype(&mut self, frame: &mut [u8]) {
        self.fill_message(frame, 0);
        let at = message_at(frame);
        if let Some(kind) = frame.get_mut(at..at + 4) {
            kind.copy_from_slice(&[self.0.random_range(0..6), 0, 0, 0]);
        }
    }

    /// A source or a destination that cannot be, or anything.
    fn readdress(&mut self, frame: &mut [u8]) {
        let is_source: bool = self.0.random();
        if frame[IP] >> 4 == 4 {
            let at = IP + if is_source { 12 } else { 16 };
            let anything: [u8; 4] = self.0.random();
            let special = V4[self.0.random_range(0..V4.len())];
            frame[at..at + 4].copy_from_slice(if self.0.random() { &special } else { &anything });
        } else {
            let at = IP + if is_source { 8 } else { 24 };
            let special = V6[self.0.random_range(0..V6.len())];
            frame[at..at + 16].copy_from_slice(&special);
        }
    }
}

/// Where the message of an untagged UDP frame begins.
fn message_at(frame: &[u8]) -> usize {
    IP + 8 + if frame[IP] >> 4 == 4 { 20 } else { 40 }
}

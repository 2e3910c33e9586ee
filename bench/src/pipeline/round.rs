//! One round: a burst from LAN to LAN through both gateways, and the same work of the AEAD alone, in turns.

use anyhow::{Context as _, ensure};
use forwarder::clock::boottime;

use super::batch::Batch;
use super::sealing::{CIPHERTEXT, Sealing};
use super::site::{Gateway, Site};
use super::stages::{self, Stages};
use crate::aead::nanoseconds;
use crate::size::Size;

/// Nanoseconds of a batch, both directions, outbound first.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub total: [f64; 2],
    pub aead: [f64; 2],
    pub stages: [[f64; stages::MOST]; 2],
}

impl Times {
    /// The pipeline's, the AEAD's, their difference, the stages', in that direction.
    pub fn parts(&self, direction: usize) -> [f64; 3 + stages::MOST] {
        let (total, aead) = (self.total[direction], self.aead[direction]);
        let [s0, s1, s2, s3, s4] = self.stages[direction];
        [total, aead, total - aead, s0, s1, s2, s3, s4]
    }
}

/// Two gateways, a burst, and the AEAD beside them.
pub struct Bench {
    a: Gateway,
    b: Gateway,
    batch: Batch,
    sealing: Sealing,
    stages: Stages,
    /// What gateway A has sent last, in order of arrival.
    wire: Vec<Vec<u8>>,
    rounds: usize,
}

impl Bench {
    /// A bench for packets of that inner IP length to so many hosts.
    ///
    /// # Errors
    /// There is no memory for the frames.
    pub fn new(size: Size, hosts: u8) -> anyhow::Result<Self> {
        let (a, b) = (Gateway::new(Site(1))?, Gateway::new(Site(2))?);
        let batch = Batch::new(size, hosts, &a.snapshot)?;
        let sealing = Sealing::new(&batch)?;
        Ok(Self { a, b, batch, sealing, stages: Stages::new()?, wire: Vec::new(), rounds: 0 })
    }

    /// Packets of the burst.
    pub fn packets(&self) -> usize {
        self.batch.frames.len()
    }

    /// Carries one burst. What comes out is compared with what must, byte by byte.
    ///
    /// # Errors
    /// Something else comes out.
    pub fn round(&mut self) -> anyhow::Result<Times> {
        let mut times = Times::default();
        // Each goes first as often as the other: the second one finds warm caches.
        if self.rounds.is_multiple_of(2) {
            times.total[0] = self.outbound()?;
            times.aead[0] = self.sealing.seal();
            times.total[1] = self.inbound()?;
            times.aead[1] = self.sealing.open()?;
        } else {
            times.aead[0] = self.sealing.seal();
            times.total[0] = self.outbound()?;
            times.aead[1] = self.sealing.open()?;
            times.total[1] = self.inbound()?;
        }
        self.compare()?;
        times.stages = self.stages.measure(&self.a.snapshot, &self.b.snapshot, &self.batch, &self.wire)?;
        self.sealing.next_round();
        self.rounds += 1;
        Ok(times)
    }

    fn outbound(&mut self) -> anyhow::Result<f64> {
        self.batch.frames.iter().for_each(|frame| self.a.lan.push(frame));
        let now = boottime();
        let time = nanoseconds(|| self.a.turn(now));
        self.wire.clear();
        for wire in &self.a.wires {
            wire.take(|frame| self.wire.push(frame.to_vec()));
        }
        let (sent, count) = (self.wire.len(), self.packets());
        ensure!(sent == count, "{sent} of {count} packets were sealed: {}", self.a.drops());
        Ok(time)
    }

    fn inbound(&mut self) -> anyhow::Result<f64> {
        for (frame, &position) in self.wire.iter().zip(&self.sealing.arrival) {
            self.b.wires[self.batch.paths[position]].push(frame);
        }
        let now = boottime();
        let time = nanoseconds(|| self.b.turn(now));
        let mut arrival = self.sealing.arrival.iter();
        let (mut delivered, mut right) = (0, true);
        self.b.lan.take(|frame| {
            delivered += 1;
            right &= arrival.next().is_some_and(|&position| frame == self.batch.delivered[position]);
        });
        let count = self.packets();
        ensure!(delivered == count, "{delivered} of {count} packets were delivered: {}", self.b.drops());
        ensure!(right, "what was delivered is not what was sent");
        Ok(time)
    }

    /// Gateway A's messages are what the AEAD alone makes of the same packets.
    fn compare(&self) -> anyhow::Result<()> {
        for (frame, &position) in self.wire.iter().zip(&self.sealing.arrival) {
            let ciphertext = frame.get(CIPHERTEXT..).context("a frame is too short for a message")?;
            let counter = self.sealing.counter(position).to_le_bytes();
            let same =
                ciphertext == self.sealing.ciphertext(position) && frame[CIPHERTEXT - 8..][..8] == counter;
            ensure!(same, "the pipeline has sealed something else than the AEAD alone");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::site::HOSTS;
    use super::*;

    #[test]
    fn bursts_come_out_as_they_must() {
        for size in [Size::One(46), Size::One(1420), Size::Imix] {
            for hosts in [1, HOSTS] {
                let mut bench = Bench::new(size, hosts).unwrap();
                for _ in 0..3 {
                    let times = bench.round().unwrap();
                    assert!(times.total.iter().chain(&times.aead).all(|time| *time > 0.0));
                }
            }
        }
    }

    /// Planted: the other gateway delivers to somebody else, and to nobody; A seals with another counter.
    #[test]
    fn what_is_wrong_is_caught() {
        let error = |break_it: fn(&mut Bench)| {
            let mut bench = Bench::new(Size::One(46), 1).unwrap();
            bench.round().unwrap();
            break_it(&mut bench);
            bench.round().unwrap_err().to_string()
        };
        let text = error(|bench| bench.batch.delivered[5][20] ^= 1);
        assert_eq!(text, "what was delivered is not what was sent");
        let text = error(|bench| bench.b.snapshot.neighbours = std::sync::Arc::default());
        assert!(text.starts_with("0 of 64 packets were delivered"), "{text}");
        let text = error(|bench| bench.a.snapshot.routes = std::sync::Arc::default());
        assert_eq!(text, "0 of 64 packets were sealed: source_spoofed 64");
        let text = error(|bench| bench.sealing.next_round());
        assert_eq!(text, "the pipeline has sealed something else than the AEAD alone");
    }
}

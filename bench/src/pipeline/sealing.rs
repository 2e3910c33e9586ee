//! The AEAD's work on a batch and nothing else: the same packets, keys, counters and places in memory as in the
//! pipeline.

use anyhow::ensure;
use forwarder::aead::{self, Open, Seal, TAG_LEN};
use forwarder::port::Frame;
use forwarder::wireguard::Session;
use forwarder::wireguard::message::DATA_HEADER_LEN;

use super::batch::Batch;
use super::port::frames;
use super::site::{PATHS, Site};
use crate::aead::nanoseconds;
use crate::packet::{ETHERNET, HEADERS};

/// Where the ciphertext begins in a frame on a wire.
pub const CIPHERTEXT: usize = HEADERS + DATA_HEADER_LEN;
/// Where padding stops.
const MTU: usize = 1420;

/// Both sites' ends.
pub struct Sealing {
    plaintexts: Vec<Vec<u8>>,
    /// Each packet's path, and its counter in this round.
    paths: Vec<usize>,
    counters: Vec<u64>,
    /// Positions of the packets as the other gateway finds them: path by path.
    pub arrival: Vec<usize>,
    sessions: [[Session; PATHS]; 2],
    sources: Vec<Frame>,
    sealed: Vec<Frame>,
    opened: Vec<Frame>,
}

impl Sealing {
    /// # Errors
    /// There is no memory for the frames.
    pub fn new(batch: &Batch) -> anyhow::Result<Self> {
        let count = batch.frames.len();
        let mut next = [0; PATHS];
        let counters = batch.paths.iter().map(|&path| {
            next[path] += 1;
            next[path] - 1
        });
        let counters = counters.collect();
        let mut arrival: Vec<_> = (0..count).collect();
        arrival.sort_by_key(|&position| batch.paths[position]);
        let sessions = [1, 2].map(|site| std::array::from_fn(|path| Site(site).session(path)));
        Ok(Self {
            plaintexts: (0..count).map(|position| batch.plaintext(position)).collect(),
            paths: batch.paths.clone(),
            counters,
            arrival,
            sessions,
            sources: frames(count)?,
            sealed: frames(count)?,
            opened: frames(count)?,
        })
    }

    /// Seals the batch; in nanoseconds.
    pub fn seal(&mut self) -> f64 {
        for ((plaintext, source), sealed) in
            self.plaintexts.iter().zip(&mut self.sources).zip(&mut self.sealed)
        {
            source.set_range(ETHERNET, plaintext.len());
            source.bytes_mut().copy_from_slice(plaintext);
            let padded = plaintext.len().next_multiple_of(16).min(MTU);
            sealed.set_range(CIPHERTEXT, padded + TAG_LEN);
        }
        let jobs = self.sources.iter().zip(&mut self.sealed).zip(self.paths.iter().zip(&self.counters));
        let mut jobs: Vec<_> = jobs
            .map(|((source, sealed), (&path, &counter))| Seal {
                key: &self.sessions[0][path].keys.send,
                counter,
                source: source.bytes(),
                destination: sealed.bytes_mut(),
            })
            .collect();
        nanoseconds(|| aead::seal(&mut jobs))
    }

    /// Opens what was sealed, in the order in which it arrives; in nanoseconds.
    ///
    /// # Errors
    /// A message is not authentic.
    pub fn open(&mut self) -> anyhow::Result<f64> {
        for (&position, opened) in self.arrival.iter().zip(&mut self.opened) {
            opened.set_range(ETHERNET, self.sealed[position].len() - TAG_LEN);
        }
        let jobs = self.arrival.iter().zip(&mut self.opened);
        let mut jobs: Vec<_> = jobs
            .map(|(&position, opened)| Open {
                key: &self.sessions[1][self.paths[position]].keys.receive,
                counter: self.counters[position],
                source: self.sealed[position].bytes(),
                destination: opened.bytes_mut(),
                authentic: false,
            })
            .collect();
        let time = nanoseconds(|| aead::open(&mut jobs));
        ensure!(jobs.iter().all(|job| job.authentic), "the AEAD alone has not opened what it sealed");
        Ok(time)
    }

    /// The counter of the packet at this position.
    pub fn counter(&self, position: usize) -> u64 {
        self.counters[position]
    }

    /// The ciphertext and tag of the packet at this position.
    pub fn ciphertext(&self, position: usize) -> &[u8] {
        self.sealed[position].bytes()
    }

    /// Goes on to the counters of the next round.
    pub fn next_round(&mut self) {
        for (counter, path) in self.counters.iter_mut().zip(&self.paths) {
            *counter += self.paths.iter().filter(|other| *other == path).count() as u64;
        }
    }
}

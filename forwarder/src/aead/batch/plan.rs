//! Which `ChaCha20` blocks share a pass: a list of work over all packets, so that key blocks and tails
//! of many packets fill the lanes together.

use arrayvec::ArrayVec;

/// Bytes of a `ChaCha20` block.
pub const BLOCK: usize = 64;

/// One packet of a batch.
#[derive(Clone, Copy)]
pub struct Packet {
    /// Which job of the batch it is.
    pub job: usize,
    /// The key.
    pub key: *const [u8; 32],
    /// The packet's counter.
    pub nonce: u64,
    /// The text to encrypt or decrypt.
    pub source: *const u8,
    /// Its length in bytes; beyond it the text is zero.
    pub source_len: usize,
    /// Where the result goes.
    pub destination: *mut u8,
    /// Its length in bytes, not less than the source's.
    pub len: usize,
    /// The ciphertext, source or destination.
    pub ciphertext: *const u8,
}

/// Successive blocks of one packet, each in a lane of its own.
#[derive(Clone, Copy)]
pub struct Run {
    /// The key.
    pub key: *const [u8; 32],
    /// The packet's counter.
    pub nonce: u64,
    /// The number of the first block.
    pub block: u32,
    /// The first lane.
    pub lane: u32,
    /// How many lanes.
    pub lanes: u32,
    /// What to encrypt.
    pub source: *const u8,
    /// Bytes from there on that there are; beyond them the text is zero.
    pub source_len: usize,
    /// Where the result goes.
    pub destination: *mut u8,
    /// Bytes from there on that there are.
    pub len: usize,
}

/// The runs that fill one set of lanes.
pub type Lanes<const N: usize> = ArrayVec<Run, N>;

/// Encrypts the lanes of one or two sets.
///
/// # Safety
/// The processor has what the pass needs. The runs are of packets whose sources can be read and whose
/// destinations can be written.
pub type Pass<const N: usize> = unsafe fn(&[Lanes<N>]);

struct Plan<const N: usize> {
    sets: [Lanes<N>; 2],
    /// The set that is being filled, and how many of its lanes are.
    set: usize,
    used: usize,
    pass: Pass<N>,
}

/// Encrypts the text of every packet, and block 0 of every packet into `keys`.
///
/// # Safety
/// As for the pass.
pub unsafe fn run<const N: usize>(packets: &[Packet], keys: &mut [[u64; 8]], pass: Pass<N>) {
    static ZERO: [u8; BLOCK] = [0; BLOCK];
    let mut plan = Plan { sets: [Lanes::new(), Lanes::new()], set: 0, used: 0, pass };
    // Sets of one packet's blocks alone are the cheapest; the rest follows.
    for packet in packets {
        let mut run = Run::texts(packet);
        for _ in 0..whole_sets::<N>(packet) {
            plan.push(Run { lanes: N as u32, ..run });
            run.skip(N);
        }
    }
    for (packet, key) in packets.iter().zip(keys) {
        let (source, destination) = (ZERO.as_ptr(), key.as_mut_ptr().cast());
        let Packet { key, nonce, .. } = *packet;
        plan.push(Run {
            key,
            nonce,
            block: 0,
            lane: 0,
            lanes: 1,
            source,
            source_len: BLOCK,
            destination,
            len: BLOCK,
        });
    }
    for packet in packets {
        let mut run = Run::texts(packet);
        let whole = whole_sets::<N>(packet) * N;
        let mut left = packet.len.div_ceil(BLOCK) - whole;
        run.skip(whole);
        while left > 0 {
            let lanes = left.min(N - plan.used);
            plan.push(Run { lanes: lanes as u32, ..run });
            run.skip(lanes);
            left -= lanes;
        }
    }
    plan.flush();
}

fn whole_sets<const N: usize>(packet: &Packet) -> usize {
    packet.source_len / (N * BLOCK)
}

impl Run {
    #[inline]
    fn texts(packet: &Packet) -> Self {
        let Packet { key, nonce, source, source_len, destination, len, .. } = *packet;
        Self { key, nonce, block: 1, lane: 0, lanes: 0, source, source_len, destination, len }
    }

    #[inline]
    fn skip(&mut self, blocks: usize) {
        let bytes = blocks * BLOCK;
        self.block = self.block.wrapping_add(blocks as u32);
        self.source = self.source.wrapping_add(bytes);
        self.source_len = self.source_len.saturating_sub(bytes);
        self.destination = self.destination.wrapping_add(bytes);
        self.len = self.len.saturating_sub(bytes);
    }
}

impl<const N: usize> Plan<N> {
    /// Adds a run for which there are lanes.
    #[inline]
    fn push(&mut self, run: Run) {
        self.sets[self.set].push(Run { lane: self.used as u32, ..run });
        self.used += run.lanes as usize;
        if self.used == N {
            self.used = 0;
            self.set += 1;
            if self.set == 2 {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let sets = self.set + usize::from(self.used > 0);
        if sets > 0 {
            // SAFETY: the promise of `run`'s caller.
            unsafe { (self.pass)(&self.sets[..sets]) };
        }
        self.sets.iter_mut().for_each(Lanes::clear);
        (self.set, self.used) = (0, 0);
    }
}

//! Which packets of each flow arrived, how often, and in which order.

use std::collections::BTreeMap;
use std::ops::Range;

/// Sequence numbers from here on are damage, not packets: no trial is that long.
const LARGEST_SEQUENCE: u32 = 1 << 28;

/// How a packet arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// After all earlier packets of its flow that arrive at all.
    InOrder,
    /// After a later packet of its flow (type-P-reordered in RFC 4737).
    Reordered,
    /// Again.
    Duplicate,
    /// It belongs to no flow.
    Foreign,
}

/// The packets of all flows that arrived in one trial.
#[derive(Debug)]
pub struct Account {
    flows: Vec<Flow>,
    /// Packets that arrived, each counted once.
    pub received: u64,
    /// Arrivals after a later packet of the same flow.
    pub reordered: u64,
    /// Arrivals of a packet that had arrived before.
    pub duplicates: u64,
    /// Most packets of one flow that overtook one packet: the extent of RFC 4737, unless other late packets arrived
    /// in between, which that counts, too.
    pub extent: u64,
}

#[derive(Clone, Debug, Default)]
struct Flow {
    /// The sequence number after the highest one that arrived.
    next: u32,
    /// One bit for each sequence number.
    arrived: Vec<u64>,
    /// Sequence numbers as they arrived: those that came one after another together.
    runs: Vec<Range<u32>>,
}

impl Account {
    /// No packet has arrived in any of `flows` flows.
    pub fn new(flows: u16) -> Self {
        Self {
            flows: vec![Flow::default(); usize::from(flows)],
            received: 0,
            reordered: 0,
            duplicates: 0,
            extent: 0,
        }
    }

    /// Takes note of a packet.
    pub fn arrive(&mut self, flow: u16, sequence: u32) -> Arrival {
        let Some(flow) = self.flows.get_mut(usize::from(flow)).filter(|_| sequence < LARGEST_SEQUENCE) else {
            return Arrival::Foreign;
        };
        let arrival = flow.arrive(sequence);
        match arrival {
            Arrival::Duplicate => self.duplicates += 1,
            Arrival::Reordered => {
                self.reordered += 1;
                self.extent = self.extent.max(flow.overtook(sequence));
            }
            Arrival::InOrder | Arrival::Foreign => {}
        }
        self.received += u64::from(arrival != Arrival::Duplicate);
        arrival
    }

    /// The reorder density of RFC 5236: how many packets arrived by so many places early (below 0), late
    /// (above 0) or in their place. A packet's place has the sequence number that would arrive there if none of
    /// those that did arrive had overtaken another. What arrives before the trial ends counts as arrived,
    /// however late: the threshold of displacement is as long as the trial.
    pub fn density(&self) -> BTreeMap<i64, u64> {
        let mut density = BTreeMap::new();
        if self.reordered == 0 {
            density.insert(0, self.received);
            return density;
        }
        for flow in &self.flows {
            let arrivals: Vec<u32> = flow.runs.iter().cloned().flatten().collect();
            let mut places = arrivals.clone();
            places.sort_unstable();
            for (place, sequence) in places.into_iter().zip(arrivals) {
                *density.entry(i64::from(place) - i64::from(sequence)).or_default() += 1;
            }
        }
        density
    }
}

impl Flow {
    fn arrive(&mut self, sequence: u32) -> Arrival {
        let (word, bit) = (sequence as usize / 64, 1 << (sequence % 64));
        if word >= self.arrived.len() {
            self.arrived.resize(word + 1, 0);
        }
        if self.arrived[word] & bit != 0 {
            return Arrival::Duplicate;
        }
        self.arrived[word] |= bit;
        match self.runs.last_mut() {
            Some(run) if run.end == sequence => run.end += 1,
            _ => self.runs.push(sequence..sequence + 1),
        }
        if sequence < self.next {
            return Arrival::Reordered;
        }
        self.next = sequence + 1;
        Arrival::InOrder
    }

    /// How many later packets have arrived.
    fn overtook(&self, sequence: u32) -> u64 {
        let (word, bit) = (sequence as usize / 64, sequence % 64);
        let later: u32 = self.arrived[word + 1..].iter().map(|word| word.count_ones()).sum();
        u64::from(later + (self.arrived[word] >> bit >> 1).count_ones())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account_of(arrivals: &[(u16, u32)]) -> (u64, u64, u64) {
        let mut account = Account::new(2);
        for &(flow, sequence) in arrivals {
            account.arrive(flow, sequence);
        }
        (account.received, account.reordered, account.duplicates)
    }

    #[test]
    fn in_order_with_losses() {
        assert_eq!(account_of(&[(0, 0), (0, 1), (0, 4), (0, 200)]), (4, 0, 0));
    }

    #[test]
    fn flows_are_independent() {
        assert_eq!(account_of(&[(0, 5), (1, 0), (0, 6), (1, 1)]), (4, 0, 0));
    }

    #[test]
    fn a_late_packet_is_reordered_once() {
        assert_eq!(account_of(&[(0, 0), (0, 2), (0, 1), (0, 3)]), (4, 1, 0));
        // One early packet overtook three others.
        assert_eq!(account_of(&[(0, 3), (0, 0), (0, 1), (0, 2)]), (4, 3, 0));
    }

    #[test]
    fn the_extent_is_the_number_of_packets_that_overtook() {
        for (arrivals, extent) in [
            (vec![0, 1, 2, 5], 0),
            (vec![0, 2, 1, 3], 1),
            (vec![1, 2, 3, 200, 0], 4),
            (vec![0, 200, 63, 64, 70], 1),
            (vec![300, 63], 1),
        ] {
            let mut account = Account::new(1);
            for sequence in &arrivals {
                account.arrive(0, *sequence);
            }
            assert_eq!(account.extent, extent, "{arrivals:?}");
        }
    }

    #[test]
    fn the_density_has_every_packet_at_its_displacement() {
        for (arrivals, density) in [
            (vec![], vec![(0, 0)]),
            (vec![0, 1, 2, 5], vec![(0, 4)]),
            // A late packet, an early one, one that is lost (2), and some that come twice.
            (vec![1, 2, 4, 5, 3, 6], vec![(-1, 2), (0, 3), (2, 1)]),
            (vec![1, 5, 2, 3, 4, 6], vec![(-3, 1), (0, 2), (1, 3)]),
            (vec![1, 3, 5, 4, 6], vec![(-1, 1), (0, 3), (1, 1)]),
            (vec![1, 3, 2, 3, 2, 64, 63], vec![(-1, 2), (0, 1), (1, 2)]),
            (vec![0, 200, 63, 64, 70], vec![(-137, 1), (0, 1), (1, 1), (6, 1), (130, 1)]),
        ] {
            let mut account = Account::new(2);
            for sequence in &arrivals {
                account.arrive(1, *sequence);
            }
            assert_eq!(account.density().into_iter().collect::<Vec<_>>(), density, "{arrivals:?}");
        }
    }

    #[test]
    fn a_duplicate_is_not_received_again_nor_reordered() {
        assert_eq!(account_of(&[(0, 0), (0, 0), (0, 1), (0, 0), (1, 64), (1, 64)]), (3, 0, 3));
    }

    #[test]
    fn what_belongs_to_no_flow_is_not_counted() {
        let mut account = Account::new(2);
        assert_eq!(account.arrive(2, 0), Arrival::Foreign);
        assert_eq!(account.arrive(0, LARGEST_SEQUENCE), Arrival::Foreign);
        assert_eq!(account.received, 0);
    }

    #[test]
    fn random_arrivals_agree_with_a_plain_model() {
        let mut account = Account::new(1);
        let mut seen = std::collections::BTreeSet::new();
        let (mut reordered, mut duplicates, mut random) = (0, 0, 1u32);
        for _ in 0..10_000 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let sequence = random >> 19;
            let late = seen.last().is_some_and(|last| sequence < *last);
            let new = seen.insert(sequence);
            reordered += u64::from(new && late);
            duplicates += u64::from(!new);
            account.arrive(0, sequence);
        }
        assert_eq!((account.received, account.reordered), (seen.len() as u64, reordered));
        assert_eq!(account.duplicates, duplicates);
    }
}

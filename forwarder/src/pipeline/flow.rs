//! Which path a flow takes: a hash of the packet's flow picks a bucket, the bucket names the path.

use crate::id::PeerId;
use crate::pipeline::parse::Ip;

/// Buckets of a group. Divisible by every number of paths up to eight, so that they split evenly.
pub const BUCKETS: usize = 840;

/// Which of so many buckets takes the flow that a packet belongs to.
#[inline]
pub fn bucket(ip: Ip, packet: &[u8], buckets: usize) -> usize {
    // The hash as a fraction of the buckets: what a remainder gives too, without a division.
    ((u64::from(hash(ip, packet)) * buckets as u64) >> 32) as usize
}

/// The hash of a flow: addresses, protocol and ports of whole TCP, UDP, SCTP, DCCP and UDP-Lite packets;
/// addresses and protocol of all others. A fragment has no ports in all but the first, so every fragment
/// goes by addresses and protocol.
#[inline]
fn hash(ip: Ip, packet: &[u8]) -> u32 {
    let word = |at: usize| {
        packet.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| u64::from_be_bytes(*word))
    };
    let upper = u64::from(ip.protocol) << 32 | u64::from(ports(ip, packet));
    let hash = if ip.is_ipv4 {
        mix(word(12), upper)
    } else {
        let source = mix(word(8), word(16));
        mix(mix(word(24) ^ source, word(32)), upper)
    };
    (hash >> 32) as u32
}

/// The path of each bucket. Buckets are dealt to all paths in turn; those of an unhealthy path are
/// dealt on to the healthy ones, so that a path's loss or return moves no other flow. When no path is
/// healthy all keep their share.
pub fn buckets(paths: &[(PeerId, bool)]) -> Box<[PeerId]> {
    let healthy: Vec<PeerId> = paths.iter().filter(|(_, healthy)| *healthy).map(|(peer, _)| *peer).collect();
    let mut dealt = 0;
    let owners = paths.iter().cycle().take(if paths.is_empty() { 0 } else { BUCKETS });
    owners
        .map(|&(owner, owner_healthy)| {
            if owner_healthy || healthy.is_empty() {
                return owner;
            }
            dealt += 1;
            healthy[dealt % healthy.len()]
        })
        .collect()
}

/// Source and destination port, or 0 where there are none.
fn ports(ip: Ip, packet: &[u8]) -> u32 {
    const DCCP: u8 = 33;
    const SCTP: u8 = 132;
    const UDP_LITE: u8 = 136;
    if ip.fragment || !matches!(ip.protocol, super::parse::TCP | super::parse::UDP | DCCP | SCTP | UDP_LITE) {
        return 0;
    }
    let ports = packet.get(ip.header_len()..).and_then(|upper| upper.first_chunk());
    ports.map_or(0, |ports| u32::from_be_bytes(*ports))
}

/// Multiplies two words into 128 bits and folds the halves: every bit of both moves half of the result.
fn mix(a: u64, b: u64) -> u64 {
    // Odd constants with bits in no pattern (digits of pi), so that zeros in a header do not absorb.
    let product = u128::from(a ^ 0x243f_6a88_85a3_08d3) * u128::from(b ^ 0x1319_8a2e_0370_7344);
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(table: &[PeerId], peer: u32) -> usize {
        table.iter().filter(|p| p.0 == peer).count()
    }

    #[test]
    fn up_to_eight_paths_split_evenly() {
        for n in 1..=8 {
            let paths: Vec<_> = (0..n).map(|i| (PeerId(i), true)).collect();
            let table = buckets(&paths);
            assert!((0..n).all(|i| share(&table, i) == BUCKETS / n as usize));
        }
    }

    #[test]
    fn a_lost_path_moves_only_its_own_buckets() {
        for n in 2..=8 {
            let all: Vec<_> = (0..n).map(|i| (PeerId(i), true)).collect();
            let before = buckets(&all);
            let mut less = all.clone();
            less[0].1 = false;
            let after = buckets(&less);
            assert_eq!(share(&after, 0), 0);
            assert!(before.iter().zip(&after).all(|(b, a)| b == a || b.0 == 0));
            let shares: Vec<_> = (1..n).map(|i| share(&after, i)).collect();
            assert!(
                shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1,
                "{n} paths: {shares:?}"
            );
        }
    }

    #[test]
    fn without_a_healthy_path_all_keep_their_share() {
        let down = buckets(&[(PeerId(0), false), (PeerId(1), false)]);
        assert_eq!(down, buckets(&[(PeerId(0), true), (PeerId(1), true)]));
        assert!(buckets(&[]).is_empty());
    }
}

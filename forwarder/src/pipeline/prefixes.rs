//! Longest-prefix match for the packet path.
//!
//! Prefixes nest, so they cut the addresses into ranges, each with one answer. Which range has an address is a
//! binary search in one array: a few cache lines where a trie follows pointers.

use std::net::IpAddr;

use ipnet::IpNet;

/// What prefixes of both families say.
#[derive(Clone, Debug)]
pub struct Prefixes<V> {
    v4: Ranges<u32, V>,
    v6: Ranges<u128, V>,
}

/// Ranges of addresses as numbers; each ends where the next one starts.
#[derive(Clone, Debug)]
struct Ranges<A, V> {
    starts: Box<[A]>,
    values: Box<[Option<V>]>,
}

impl<V: Copy> Prefixes<V> {
    /// What the most specific prefix of `address` says; `None` when there is none.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<V> {
        match address {
            IpAddr::V4(address) => self.v4.lookup(address.to_bits()),
            IpAddr::V6(address) => self.v6.lookup(address.to_bits()),
        }
    }
}

impl<V> Default for Prefixes<V> {
    fn default() -> Self {
        Self { v4: Ranges::default(), v6: Ranges::default() }
    }
}

impl<V> Default for Ranges<u32, V> {
    fn default() -> Self {
        Self { starts: Box::default(), values: Box::default() }
    }
}

impl<V> Default for Ranges<u128, V> {
    fn default() -> Self {
        Self { starts: Box::default(), values: Box::default() }
    }
}

/// Of equal prefixes the last one counts.
impl<V: Copy> FromIterator<(IpNet, V)> for Prefixes<V> {
    fn from_iter<I: IntoIterator<Item = (IpNet, V)>>(prefixes: I) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for (prefix, value) in prefixes {
            match prefix {
                IpNet::V4(net) => v4.push((net.network().to_bits(), net.broadcast().to_bits(), value)),
                IpNet::V6(net) => v6.push((net.network().to_bits(), net.broadcast().to_bits(), value)),
            }
        }
        Self {
            v4: Ranges::new(v4, |last| last.checked_add(1)),
            v6: Ranges::new(v6, |last| last.checked_add(1)),
        }
    }
}

impl<A: Copy + Ord, V: Copy> Ranges<A, V> {
    /// From first and last address and value of prefixes.
    fn new(mut prefixes: Vec<(A, A, V)>, after: impl Fn(A) -> Option<A>) -> Self {
        // Those around others first; the sort is stable.
        prefixes.sort_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
        let mut cuts: Vec<(A, Option<V>)> = Vec::new();
        let mut open: Vec<(A, V)> = Vec::new();
        let close = |open: &mut Vec<(A, V)>, cuts: &mut Vec<_>, before: Option<A>| {
            while let Some((last, _)) = open.pop_if(|(last, _)| before.is_none_or(|before| *last < before)) {
                // Behind the last address there is none to answer for.
                if let Some(next) = after(last) {
                    cut(cuts, next, open.last().map(|(_, value)| *value));
                }
            }
        };
        for (first, last, value) in prefixes {
            close(&mut open, &mut cuts, Some(first));
            open.push((last, value));
            cut(&mut cuts, first, Some(value));
        }
        close(&mut open, &mut cuts, None);
        let (starts, values): (Vec<_>, Vec<_>) = cuts.into_iter().unzip();
        Self { starts: starts.into(), values: values.into() }
    }

    #[inline]
    fn lookup(&self, address: A) -> Option<V> {
        let after = self.starts.partition_point(|start| *start <= address);
        *self.values.get(after.checked_sub(1)?)?
    }
}

/// From `at` on the answer is `value`.
fn cut<A: PartialEq, V>(cuts: &mut Vec<(A, Option<V>)>, at: A, value: Option<V>) {
    cuts.pop_if(|(start, _)| *start == at);
    cuts.push((at, value));
}

#[cfg(test)]
mod tests {
    use ipnet::{Ipv4Net, Ipv6Net};
    use prefix_trie::PrefixMap;
    use proptest::prelude::*;

    use super::*;

    fn prefixes(list: &[(&str, u32)]) -> Prefixes<u32> {
        list.iter().map(|(net, value)| (net.parse().unwrap(), *value)).collect()
    }

    fn lookup(prefixes: &Prefixes<u32>, address: &str) -> Option<u32> {
        prefixes.lookup(address.parse().unwrap())
    }

    #[test]
    fn the_most_specific_prefix_answers() {
        let table =
            prefixes(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.1.1/32", 3), ("2001:db8::/32", 4)]);
        for (address, value) in [
            ("9.255.255.255", None),
            ("10.0.0.0", Some(1)),
            ("10.1.0.0", Some(2)),
            ("10.1.1.0", Some(2)),
            ("10.1.1.1", Some(3)),
            ("10.1.1.2", Some(2)),
            ("10.2.0.0", Some(1)),
            ("11.0.0.0", None),
            ("2001:db8::1", Some(4)),
            ("2001:db9::", None),
        ] {
            assert_eq!(lookup(&table, address), value, "{address}");
        }
        assert_eq!(lookup(&prefixes(&[]), "10.0.0.1"), None);
    }

    /// Ends that are shared, the ends of all addresses, and a prefix that comes twice.
    #[test]
    fn edges() {
        let table = prefixes(&[("0.0.0.0/0", 1), ("255.255.255.0/24", 2), ("255.255.255.255/32", 3)]);
        assert_eq!(lookup(&table, "0.0.0.0"), Some(1));
        assert_eq!(lookup(&table, "255.255.255.254"), Some(2));
        assert_eq!(lookup(&table, "255.255.255.255"), Some(3));
        let table =
            prefixes(&[("::/0", 1), ("ff00::/8", 2), ("ff00::/8", 3), ("10.0.0.0/9", 4), ("10.0.0.0/8", 5)]);
        assert_eq!(lookup(&table, "ffff::"), Some(3));
        assert_eq!(lookup(&table, "10.0.0.0"), Some(4));
        assert_eq!(lookup(&table, "10.128.0.0"), Some(5));
    }

    proptest! {
        /// A trie answers the same, of prefixes that lie close together.
        #[test]
        fn as_a_trie_does(
            nets in proptest::collection::vec((any::<u8>(), 22_u8..=32, any::<u8>()), 0..40),
            addresses in proptest::collection::vec(any::<u16>(), 50),
        ) {
            let v4 = |low: u32| std::net::Ipv4Addr::from_bits(0x0a00_0000 | low);
            let v6 = |low: u32| std::net::Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(low));
            let (mut trie4, mut trie6) = (PrefixMap::new(), PrefixMap::new());
            let mut list = Vec::new();
            for (low, len, value) in nets {
                let net4 = Ipv4Net::new(v4(u32::from(low) << 2), len).unwrap().trunc();
                let net6 = Ipv6Net::new(v6(u32::from(low) << 2), len + 96).unwrap().trunc();
                trie4.insert(net4, value);
                trie6.insert(net6, value);
                list.extend([(IpNet::V4(net4), value), (IpNet::V6(net6), value)]);
            }
            let table: Prefixes<u8> = list.into_iter().collect();
            for low in addresses {
                let low = u32::from(low % 1100);
                let expected = trie4.get_lpm(&v4(low).into()).map(|(_, value)| *value);
                prop_assert_eq!(table.lookup(v4(low).into()), expected);
                let expected = trie6.get_lpm(&v6(low).into()).map(|(_, value)| *value);
                prop_assert_eq!(table.lookup(v6(low).into()), expected);
            }
        }
    }
}

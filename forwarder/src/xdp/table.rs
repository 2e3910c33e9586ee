//! A map of the program, and what we wrote into it: an update costs only the difference.

use std::{collections::HashMap, hash::Hash};

use aya::{
    Pod,
    maps::{self, LpmTrie, MapData, MapError, lpm_trie::Key},
};
use forwarder_contract::Steering;
use ipnet::IpNet;

/// A map that only we write.
#[derive(Debug)]
pub(super) struct Table<M, K, V> {
    map: M,
    written: HashMap<K, V>,
}

impl<M: Entries<K, V>, K: Copy + Eq + Hash, V: Copy + PartialEq> Table<M, K, V> {
    /// An empty map.
    pub fn new(map: M) -> Self {
        Self { map, written: HashMap::new() }
    }

    /// Makes the map equal to `wanted`; of equal keys the last counts. Writes before it removes, so
    /// that a frame in between finds the old entry or the new one.
    ///
    /// After an error the map holds a part of the change; the next call completes it.
    pub fn set(&mut self, wanted: impl IntoIterator<Item = (K, V)>) -> Result<(), MapError> {
        let wanted: HashMap<K, V> = wanted.into_iter().collect();
        for (key, value) in &wanted {
            if self.written.get(key) != Some(value) {
                self.map.write(key, *value)?;
                self.written.insert(*key, *value);
            }
        }
        let obsolete: Vec<K> = self.written.keys().filter(|k| !wanted.contains_key(k)).copied().collect();
        for key in obsolete {
            self.map.erase(&key)?;
            self.written.remove(&key);
        }
        Ok(())
    }
}

/// What [`Table`] needs of a map.
pub(super) trait Entries<K, V> {
    fn write(&mut self, key: &K, value: V) -> Result<(), MapError>;
    fn erase(&mut self, key: &K) -> Result<(), MapError>;
}

impl<K: Pod, V: Pod> Entries<K, V> for maps::HashMap<MapData, K, V> {
    fn write(&mut self, key: &K, value: V) -> Result<(), MapError> {
        self.insert(key, value, 0)
    }

    fn erase(&mut self, key: &K) -> Result<(), MapError> {
        self.remove(key)
    }
}

/// The steering tries of both families. Prefixes have no host bits.
#[derive(Debug)]
pub(super) struct Tries {
    pub v4: LpmTrie<MapData, [u8; 4], u32>,
    pub v6: LpmTrie<MapData, [u8; 16], u32>,
}

impl Entries<IpNet, Steering> for Tries {
    fn write(&mut self, prefix: &IpNet, steering: Steering) -> Result<(), MapError> {
        let (length, value) = (u32::from(prefix.prefix_len()), steering as u32);
        match prefix {
            IpNet::V4(p) => self.v4.insert(&Key::new(length, p.addr().octets()), value, 0),
            IpNet::V6(p) => self.v6.insert(&Key::new(length, p.addr().octets()), value, 0),
        }
    }

    fn erase(&mut self, prefix: &IpNet) -> Result<(), MapError> {
        let length = u32::from(prefix.prefix_len());
        match prefix {
            IpNet::V4(p) => self.v4.remove(&Key::new(length, p.addr().octets())),
            IpNet::V6(p) => self.v6.remove(&Key::new(length, p.addr().octets())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map with little room that notes what is done to it.
    struct Noted {
        room: usize,
        log: Vec<(char, u8)>,
    }

    impl Entries<u8, u8> for Noted {
        fn write(&mut self, key: &u8, _: u8) -> Result<(), MapError> {
            self.room = self.room.checked_sub(1).ok_or(MapError::ElementNotFound)?;
            self.log.push(('w', *key));
            Ok(())
        }

        fn erase(&mut self, key: &u8) -> Result<(), MapError> {
            self.log.push(('e', *key));
            Ok(())
        }
    }

    fn table(room: usize) -> Table<Noted, u8, u8> {
        Table::new(Noted { room, log: Vec::new() })
    }

    #[test]
    fn only_the_difference_is_written_and_removal_comes_last() {
        let mut table = table(9);
        table.set([(1, 1), (2, 2), (3, 3)]).unwrap();
        table.map.log.clear();
        table.set([(2, 2), (3, 9), (4, 4)]).unwrap();
        let (writes, removal) = table.map.log.split_at_mut(2);
        writes.sort_unstable();
        assert_eq!(writes, [('w', 3), ('w', 4)]);
        assert_eq!(removal, [('e', 1)]);
    }

    #[test]
    fn a_failed_update_is_completed_by_the_next() {
        let mut table = table(2);
        assert!(table.set([(1, 1), (2, 2), (3, 3)]).is_err());
        table.map.room = 1;
        table.set([(1, 1), (2, 2), (3, 3)]).unwrap();
        let mut written = table.map.log.clone();
        written.sort_unstable();
        assert_eq!(written, [('w', 1), ('w', 2), ('w', 3)], "each exactly once");
    }
}

//! How long packets are.

use std::fmt;
use std::str::FromStr;

use crate::packet::{LARGEST, SMALLEST};

/// The mix of sizes that stands for Internet traffic: 28 x 46, 16 x 552, 4 x 1420 bytes, evenly spread.
const IMIX: [u16; 12] = [46, 552, 46, 46, 552, 46, 1420, 46, 552, 46, 552, 46];

/// Lengths of IP packets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// All have this one.
    One(u16),
    /// [`IMIX`] within every flow: where short packets would overtake long ones they show as reordered, and every
    /// path carries the same mix, however few flows it has.
    Imix,
}

impl Size {
    /// Length of the packet `sequence` of a flow. Flows begin at different places of the mix, so that it is right
    /// at any time, too.
    pub fn of(self, flow: u16, sequence: u32) -> u16 {
        match self {
            Self::One(size) => size,
            Self::Imix => IMIX[(usize::from(flow) + sequence as usize) % IMIX.len()],
        }
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Self::Imix);
        }
        let size = text.parse().ok().filter(|size| (SMALLEST..=LARGEST).contains(&usize::from(*size)));
        size.map(Self::One).ok_or_else(|| format!("it is {SMALLEST} to {LARGEST}, or imix"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(size) => size.fmt(f),
            Self::Imix => f.write_str("imix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_right_in_every_flow_and_at_any_time() {
        let count =
            |sizes: Vec<u16>| [46, 552, 1420].map(|size| sizes.iter().filter(|s| **s == size).count());
        assert_eq!(count((0..48).map(|sequence| Size::Imix.of(5, sequence)).collect()), [28, 16, 4]);
        assert_eq!(count((0..48).map(|flow| Size::Imix.of(flow, 9)).collect()), [28, 16, 4]);
    }

    #[test]
    fn sizes_are_read_and_shown() {
        for text in ["46", "1500", "imix"] {
            assert_eq!(text.parse::<Size>().map(|size| size.to_string()), Ok(text.to_owned()));
        }
        for wrong in ["45", "1501", "IMIX", ""] {
            assert!(wrong.parse::<Size>().is_err());
        }
    }
}

//! The figures of one measure, as rows and columns.

use crate::bench::figures::{Figure, Results};

/// Who comes first among the columns.
const OURS: &str = "forwarder";
/// What bounds every gateway in the lab: no peers.
const BOUNDS: [&str; 3] = ["null", "kernel ip_forward", "generator"];

/// One measure. `name: part` is a part of the measure `name`, and stands beside the other parts.
#[derive(Debug)]
pub struct Block<'a> {
    /// Its name.
    pub measure: &'a str,
    /// Its unit.
    pub unit: &'a str,
    /// The columns: of our systems, of what bounds them, of the peers.
    pub columns: Vec<Column<'a>>,
    /// The sizes, in order of appearance.
    pub sizes: Vec<&'a str>,
    /// A row for each size, a cell for each column.
    pub rows: Vec<Vec<Option<&'a Figure>>>,
}

/// A system, or a part of what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column<'a> {
    /// The system.
    pub system: &'a str,
    /// Which part of the measure.
    pub part: Option<&'a str>,
}

impl Column<'_> {
    /// What stands above it.
    pub fn name(&self) -> String {
        match self.part {
            Some(part) if self.system == OURS => part.to_owned(),
            Some(part) => format!("{} {part}", self.system),
            None => self.system.to_owned(),
        }
    }
}

/// Our figure by another's.
#[derive(Debug)]
pub struct Ratio {
    /// The column's name.
    pub name: &'static str,
    /// A text for each size, `-` where one of the two is missing.
    pub of: Vec<String>,
}

impl<'a> Block<'a> {
    /// All measures, in order of appearance.
    pub fn all(results: &'a Results) -> Vec<Self> {
        let names = unique(results.figures.iter().map(|figure| (split(figure).0, &*figure.unit)));
        names.into_iter().map(|(measure, unit)| Self::new(results, measure, unit)).collect()
    }

    fn new(results: &'a Results, measure: &'a str, unit: &'a str) -> Self {
        let mine = results.figures.iter().filter(|figure| split(figure).0 == measure && figure.unit == unit);
        let column = |figure: &'a Figure| Column { system: &figure.system, part: split(figure).1 };
        let mut columns = unique(mine.clone().map(column));
        columns.sort_by_key(|column| rank(column.system));
        let sizes = unique(mine.clone().map(|figure| &*figure.size));
        let find = |wanted: &Column<'_>, size: &str| {
            mine.clone().find(|figure| column(figure) == *wanted && figure.size == size)
        };
        let row = |size: &&str| columns.iter().map(|column| find(column, size)).collect();
        let rows = sizes.iter().map(row).collect();
        Self { measure, unit, columns, sizes, rows }
    }

    /// Whether a low figure is a good one: by its unit, and by its name where the unit does not tell.
    pub fn less_is_better(&self) -> bool {
        const COSTS: [&str; 9] =
            ["ns", "us", "ms", "ns/packet", "CPUs", "% of a CPU", "KiB", "MiB", "replies"];
        const FAULTS: [&str; 6] = ["loss", "lost", "reorder", "displaced", "duplicate", "retransmitted"];
        COSTS.contains(&self.unit) || FAULTS.iter().any(|fault| self.measure.contains(fault))
    }

    /// Our ratio to null and to the best peer, where the block has these.
    pub fn ratios(&self) -> Vec<Ratio> {
        // A part of ours and another part of theirs have no ratio.
        if self.columns.iter().any(|column| column.part.is_some()) {
            return Vec::new();
        }
        let null = |row: &[Option<&Figure>]| self.median(row, |system| system == "null");
        let peer = |row: &[Option<&Figure>]| self.median(row, |system| rank(system) == 2);
        let candidates = [self.ratio("to null", null), self.ratio("to best peer", peer)];
        candidates.into_iter().filter(|ratio| ratio.of.iter().any(|text| text != "-")).collect()
    }

    fn ratio(&self, name: &'static str, other: impl Fn(&[Option<&Figure>]) -> Option<f64>) -> Ratio {
        let of = self.rows.iter().map(|row| {
            let ours = self.median(row, |system| rank(system) == 0)?;
            let other = other(row).filter(|other| *other > 0.0)?;
            Some(format!("{:.2}", ours / other))
        });
        Ratio { name, of: of.map(|text| text.unwrap_or("-".to_owned())).collect() }
    }

    /// The best median among some systems.
    fn median(&self, row: &[Option<&Figure>], which: impl Fn(&str) -> bool) -> Option<f64> {
        let cells = self.columns.iter().zip(row).filter(|(column, _)| which(column.system));
        let medians = cells.filter_map(|(_, figure)| figure.map(|figure| figure.median));
        if self.less_is_better() { medians.min_by(f64::total_cmp) } else { medians.max_by(f64::total_cmp) }
    }
}

/// A measure and its part.
fn split(figure: &Figure) -> (&str, Option<&str>) {
    figure.measure.split_once(": ").map_or((&figure.measure, None), |(measure, part)| (measure, Some(part)))
}

/// 0 for ours, 1 for a bound, 2 for a peer.
pub fn rank(system: &str) -> u8 {
    match system {
        ours if ours.starts_with(OURS) => 0,
        bound if BOUNDS.contains(&bound) => 1,
        _ => 2,
    }
}

/// Each once, in order of appearance.
pub fn unique<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut unique = Vec::new();
    for one in all {
        if !unique.contains(&one) {
            unique.push(one);
        }
    }
    unique
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(measure: &str, unit: &str, figures: &[(&str, f64)]) -> Results {
        let figure = |(system, median): &(&str, f64)| Figure::of(system, measure, "46", unit, vec![*median]);
        Results { figures: figures.iter().filter_map(figure).collect(), ..Results::default() }
    }

    #[test]
    fn the_best_peer_is_the_one_with_the_lowest_latency() {
        let figures = [("wireguard-go", 200.0), ("gotatun", 100.0), ("null", 25.0), ("forwarder", 50.0)];
        let results = results("latency p99 at 50 % of pdr", "us", &figures);
        let [block] = &Block::all(&results)[..] else { panic!("one block") };
        let names: Vec<_> = block.columns.iter().map(Column::name).collect();
        assert_eq!(names, ["forwarder", "null", "wireguard-go", "gotatun"]);
        let [null, peer] = &block.ratios()[..] else { panic!("two ratios") };
        assert_eq!((&null.of[0][..], &peer.of[0][..]), ("2.00", "0.50"));
    }

    #[test]
    fn what_is_better_is_known() {
        let less = |measure, unit| Block::all(&results(measure, unit, &[("null", 1.0)]))[0].less_is_better();
        assert!(less("latency p99", "us") && less("loss", "%") && less("reordered", "packets"));
        assert!(
            less("cpu at the best peer's pdr", "CPUs") && less("idle cpu of both gateways", "% of a CPU")
        );
        assert!(!less("pdr", "packets/s") && !less("fill", "%") && !less("tcp", "Mbit/s"));
    }

    #[test]
    fn parts_of_a_measure_stand_beside_each_other() {
        let mut results = results("pipeline: seal", "ns/packet", &[("forwarder", 1.0), ("peer", 2.0)]);
        results.figures.extend(Figure::of("forwarder", "pipeline: route", "46", "ns/packet", vec![3.0]));
        let [block] = &Block::all(&results)[..] else { panic!("one block") };
        let names: Vec<_> = block.columns.iter().map(Column::name).collect();
        assert_eq!(
            (block.measure, &names[..]),
            ("pipeline", &["seal", "route", "peer seal"].map(String::from)[..])
        );
    }

    #[test]
    fn without_null_and_peers_there_are_no_ratios() {
        let results = results("pdr", "packets/s", &[("forwarder", 1.0), ("forwarder io_uring", 2.0)]);
        assert!(Block::all(&results)[0].ratios().is_empty());
    }
}

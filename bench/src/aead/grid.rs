//! No batch may be much slower than by ring: those of every number of packets are measured, of many lengths and
//! mixes.

use super::{Contender, IMIX, RUNS, Row, measure as measure_batch};
use crate::status::status;

/// Those around which lanes, blocks and dispatch change.
const LENGTHS: [usize; 20] =
    [0, 1, 16, 32, 63, 64, 65, 96, 128, 129, 200, 256, 300, 512, 700, 1024, 1025, 1280, 1424, 1500];
/// Mixes that repeat; in the latter two most lanes end early.
const MIXES: [(&str, &[usize]); 3] =
    [("imix", &IMIX), ("1424+64", &[1424, 64]), ("1424+3x0", &[1424, 0, 0, 0])];
const LARGEST: usize = 64;

/// Bytes of a run, which takes some milliseconds for each contender.
const SHORT: usize = 1_000_000;
/// What a ratio to ring may not be below.
const LEAST: f64 = 0.97;
/// How many of the worst are printed.
const PRINTED: usize = 12;

/// Measures all of them. What looks too slow may have had a busy neighbour: after all others it is measured
/// again, several times and each time after the others, and the median counts.
///
/// # Errors
/// Contenders disagree.
pub fn measure() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut slow = Vec::new();
    for batch in 1..=LARGEST {
        status(&format!("batches of {batch} of {LARGEST}"));
        let equal = LENGTHS.map(|length| (length.to_string(), vec![length; batch]));
        let mixed =
            MIXES.map(|(name, mix)| (name.to_owned(), mix.iter().copied().cycle().take(batch).collect()));
        for cell in equal.into_iter().chain(mixed) {
            let measured = measure_cell(&cell)?;
            if measured.iter().any(|row| row.ratio_to_ring < LEAST) {
                slow.push((cell, Vec::new()));
            } else {
                rows.extend(measured);
            }
        }
    }
    for pass in 1..=RUNS {
        status(&format!("{} batches again: {pass} of {RUNS}", slow.len()));
        for (cell, passes) in &mut slow {
            passes.push(measure_cell(cell)?);
        }
    }
    rows.extend(slow.into_iter().flat_map(|(_, passes)| medians(passes)));
    rows.sort_by(|a, b| a.ratio_to_ring.total_cmp(&b.ratio_to_ring));
    Ok(rows)
}

/// One batch by each own engine.
fn measure_cell((name, sizes): &(String, Vec<usize>)) -> anyhow::Result<Vec<Row>> {
    let mut rows = measure_batch(name, sizes, Contender::own_and_ring(), 1, SHORT)?;
    rows.retain(|row| row.engine != "ring");
    Ok(rows)
}

/// Of several measurements of the same rows, the median of each row.
fn medians(passes: Vec<Vec<Row>>) -> Vec<Row> {
    let mut rows: Vec<Row> = passes.into_iter().flatten().collect();
    rows.sort_by(|a, b| {
        (a.engine, a.op).cmp(&(b.engine, b.op)).then(a.ratio_to_ring.total_cmp(&b.ratio_to_ring))
    });
    rows.into_iter().skip(RUNS / 2).step_by(RUNS).collect()
}

/// Prints the worst ones.
///
/// # Errors
/// Some are too slow.
pub fn judge(rows: &[Row]) -> anyhow::Result<()> {
    println!("the worst of {}:", rows.len());
    for Row { engine, op, size, batch, ratio_to_ring, .. } in rows.iter().take(PRINTED) {
        println!("{op} {size:>8} x {batch:<3} {engine:<7} {ratio_to_ring:5.3} x ring");
    }
    let slow = rows.iter().filter(|row| row.ratio_to_ring < LEAST).count();
    println!("{slow} below {LEAST} x ring");
    anyhow::ensure!(slow == 0, "{slow} batches of {} are below {LEAST} x ring", rows.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_has_its_own_median() {
        let row = |op, ratio_to_ring| {
            let (engine, size, spread) = ("avx2", String::new(), [0.0; 2]);
            Row { engine, op, size, batch: 1, ns_per_packet: 0.0, ratio_to_ring, spread }
        };
        let passes = [1.0, 0.5, 0.9, 0.8, 1.1, 0.7, 0.6]
            .map(|ratio| vec![row("seal", ratio), row("open", 2.0 * ratio)]);
        let medians: Vec<_> = medians(passes.into()).iter().map(|row| (row.op, row.ratio_to_ring)).collect();
        assert_eq!(medians, [("open", 1.6), ("seal", 0.8)]);
    }
}

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
const RING: &str = "ring";

/// Bytes of a run, which takes some milliseconds for each contender.
const SHORT: usize = 1_000_000;
/// What a ratio to ring may not be below.
const LEAST: f64 = 0.97;
/// How many of the worst are printed.
const PRINTED: usize = 12;

/// Measures all of them. What looks too slow may have had a busy neighbour on the same core, who costs full
/// lanes more than he costs ring. So it is measured again after all others, several times and each time after the
/// others, and the fastest time of each counts.
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
    rows.extend(slow.into_iter().flat_map(|(_, passes)| fastest(passes)));
    rows.retain(|row| row.engine != RING);
    rows.sort_by(|a, b| a.ratio_to_ring.total_cmp(&b.ratio_to_ring));
    Ok(rows)
}

/// One batch by each own engine, and by ring.
fn measure_cell((name, sizes): &(String, Vec<usize>)) -> anyhow::Result<Vec<Row>> {
    measure_batch(name, sizes, Contender::own_and_ring(), 1, SHORT)
}

/// Of several measurements of the same rows, the fastest of each.
fn fastest(passes: Vec<Vec<Row>>) -> Vec<Row> {
    let mut rows: Vec<Row> = passes.into_iter().flatten().collect();
    let name = |row: &Row| (row.op, row.engine);
    rows.sort_by(|a, b| name(a).cmp(&name(b)).then(a.ns_per_packet.total_cmp(&b.ns_per_packet)));
    rows.dedup_by_key(|row| name(row));
    let ring: Vec<_> =
        rows.iter().filter(|row| row.engine == RING).map(|row| (row.op, row.ns_per_packet)).collect();
    for row in &mut rows {
        let ring = ring.iter().find(|(op, _)| *op == row.op);
        row.ratio_to_ring = ring.map_or(f64::NAN, |(_, ring)| ring / row.ns_per_packet);
    }
    rows
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
    fn the_fastest_of_each_are_compared() {
        let row = |op, engine, ns_per_packet| {
            let (size, spread) = (String::new(), [0.0; 2]);
            Row { engine, op, size, batch: 1, ns_per_packet, ratio_to_ring: 0.0, spread, runs: 1 }
        };
        let pass = |own, ring| {
            let slower = 2.0 * own;
            vec![
                row("seal", "avx2", own),
                row("seal", RING, ring),
                row("open", "avx2", slower),
                row("open", RING, 3.0),
            ]
        };
        let rows = fastest(vec![pass(5.0, 6.0), pass(1.0, 9.0), pass(4.0, 2.0)]);
        let ratio =
            |op| rows.iter().find(|row| row.op == op && row.engine == "avx2").map(|row| row.ratio_to_ring);
        assert_eq!((rows.len(), ratio("seal"), ratio("open")), (4, Some(2.0), Some(1.5)));
    }
}

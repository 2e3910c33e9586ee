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

/// Measures all of them.
///
/// # Errors
/// Contenders disagree.
pub fn measure() -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for batch in 1..=LARGEST {
        status(&format!("batches of {batch} of {LARGEST}"));
        for length in LENGTHS {
            rows.extend(measure_cell(&length.to_string(), &vec![length; batch])?);
        }
        for (name, mix) in MIXES {
            rows.extend(measure_cell(name, &mix.iter().copied().cycle().take(batch).collect::<Vec<_>>())?);
        }
    }
    rows.sort_by(|a, b| a.ratio_to_ring.total_cmp(&b.ratio_to_ring));
    Ok(rows)
}

/// One batch by each own engine. What looks too slow may have been noise: it is measured again.
fn measure_cell(name: &str, sizes: &[usize]) -> anyhow::Result<Vec<Row>> {
    let measure = |runs| measure_batch(name, sizes, Contender::own_and_ring(), runs, SHORT);
    let mut rows = measure(1)?;
    if rows.iter().any(|row| row.ratio_to_ring < LEAST) {
        rows = measure(RUNS)?;
    }
    rows.retain(|row| row.engine != "ring");
    Ok(rows)
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

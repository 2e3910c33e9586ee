//! The figures as a table on the terminal.

use std::fmt::Write as _;

use super::block::{Block, Column};
use crate::bench::figures::{Figure, Results};

/// A block for each measure: systems as columns, sizes as rows; the warnings in the end.
pub fn text(results: &Results) -> String {
    let tables: String = Block::all(results).iter().map(table).collect();
    let warnings: Vec<_> = results.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    let gap = if warnings.is_empty() { "" } else { "\n" };
    tables + gap + &warnings.concat()
}

fn table(block: &Block<'_>) -> String {
    let less = if block.less_is_better() { "; less is better" } else { "" };
    let ratios = block.ratios();
    let mut rows = vec![row("", block.columns.iter().map(Column::name), ratios.iter().map(|r| r.name))];
    for (y, size) in block.sizes.iter().enumerate() {
        let cells = block.rows[y]
            .iter()
            .map(|cell| cell.map_or("-".to_owned(), |f| format!("{} {}", number(f.median), spread(f))));
        rows.push(row(size, cells, ratios.iter().map(|ratio| ratio.of[y].as_str())));
    }
    format!("\n{}, {}{less}\n{}", block.measure, block.unit, aligned(&rows))
}

fn row<'a>(
    size: &str,
    cells: impl Iterator<Item = String>,
    ratios: impl Iterator<Item = &'a str>,
) -> Vec<String> {
    [size.to_owned()].into_iter().chain(cells).chain(ratios.map(str::to_owned)).collect()
}

/// Columns as wide as they must be, aligned to the right.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |x: usize| rows.iter().map(|row| row[x].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string does not fail.
            let _ = write!(text, "  {cell:>width$}");
        }
        text.push('\n');
    }
    text
}

/// Four digits, and a letter for their scale.
pub fn number(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 1e9 => (value / 1e9, " G"),
        size if size >= 1e6 => (value / 1e6, " M"),
        size if size >= 1e4 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        0.0 => 0,
        size if size < 0.1 => 4,
        size if size < 10.0 => 2,
        size if size < 100.0 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$}{unit}")
}

/// The farthest that a repetition lies from the median, in percent.
pub fn spread(figure: &Figure) -> String {
    if figure.samples < 2 {
        return "(once)".to_owned();
    }
    format!("±{:.0} %", 100.0 * figure.deviation())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(system: &str, measure: &str, unit: &str, median: f64) -> Figure {
        Figure::of(system, measure, "46", unit, vec![median]).expect("one sample")
    }

    #[test]
    fn numbers_have_four_digits() {
        let texts = [0.0, 0.0123, 1.5, 45.67, 999.4, 9999.0, 12_345.0, 2_570_000.0, 3e9].map(number);
        assert_eq!(texts, ["0", "0.0123", "1.50", "45.7", "999", "9999", "12.3 k", "2.57 M", "3.00 G"]);
    }

    #[test]
    fn systems_are_columns_and_a_missing_one_is_a_dash() {
        let mut results = Results::default();
        results.figures.push(figure("wireguard-go", "pdr", "packets/s", 250.0));
        results.figures.push(figure("forwarder", "pdr", "packets/s", 1000.0));
        results.figures.push(figure("null", "pdr", "packets/s", 1250.0));
        results
            .figures
            .push(Figure { size: "imix".into(), ..figure("forwarder", "pdr", "packets/s", 500.0) });
        results.warnings.push("noise".into());
        let expected = "
pdr, packets/s
          forwarder         null  wireguard-go  to null  to best peer
    46  1000 (once)  1250 (once)    250 (once)     0.80          4.00
  imix   500 (once)            -             -        -             -

warning: noise
";
        assert_eq!(text(&results), expected);
    }

    #[test]
    fn nothing_is_an_empty_table() {
        assert_eq!(text(&Results::default()), "");
    }
}

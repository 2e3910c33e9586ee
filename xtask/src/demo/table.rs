//! The table that the demo prints.

/// A row for each figure, a column for each system, and lists below.
#[derive(Debug)]
pub struct Table {
    lines: Vec<String>,
}

impl Table {
    /// An empty table, with columns to compare or without.
    pub fn new(compare: bool) -> Self {
        let other = if compare { format!("{:>14}{:>9}", "wireguard-go", "ratio") } else { String::new() };
        Self { lines: vec![String::new(), format!("{:<32}{:>14}{other}", "", "forwarder")] }
    }

    /// A figure of forwarder's and, if compared, the other system's.
    pub fn row(&mut self, name: &str, unit: &str, forwarder: f64, other: Option<f64>) {
        let other = other.map(|other| {
            let ratio = if other > 0.0 { format!("{:.2} x", forwarder / other) } else { String::new() };
            format!("{:>14}{ratio:>9}", figure(other))
        });
        let other = other.unwrap_or_default();
        self.lines.push(format!("{name:<32}{:>14}{other}  {unit}", figure(forwarder)));
    }

    /// A line with these entries.
    pub fn list(&mut self, name: &str, entries: impl Iterator<Item = String>) {
        let entries: Vec<_> = entries.collect();
        let entries = if entries.is_empty() { "none".to_owned() } else { entries.join(", ") };
        self.lines.push(format!("{name:<32}  {entries}"));
    }

    /// All of it.
    pub fn text(self) -> String {
        self.lines.join("\n") + "\n"
    }
}

/// Decimals only where they say something.
fn figure(value: f64) -> String {
    if value == 0.0 || value >= 100.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_forwarder_to_the_other() {
        let mut table = Table::new(true);
        table.row("rate", "packets/s", 1000.0, Some(250.0));
        table.row("reordered", "packets", 3.0, Some(0.0));
        let text = table.text();
        assert!(text.contains("4.00 x  packets/s"), "{text}");
        assert!(!text.contains("inf"), "{text}");
    }

    #[test]
    fn an_empty_list_says_so() {
        let mut table = Table::new(false);
        table.list("packets dropped", std::iter::empty());
        assert!(table.text().ends_with("none\n"));
    }
}

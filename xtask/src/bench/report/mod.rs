//! What a benchmark shows: a table on the terminal, and files if they are wanted: JSON for programs, HTML for people.

mod block;
mod html;
mod plot;
mod table;

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::{Deserialize, Serialize};

use super::figures::Results;
use super::machine::{Begun, Machine};
use crate::json;

/// Deviation from the median from which on a figure is a noisy one.
const NOISE: f64 = 0.2;

/// Where a benchmark's figures go, beside the terminal.
#[derive(Args, Clone, Debug, Default)]
pub struct Output {
    /// Write the figures to this file as one JSON object
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write a report with tables and plots to this file: one HTML file that needs nothing else
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Figures, and where they come from.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// The machine and the versions.
    pub machine: Machine,
    /// What was found.
    #[serde(flatten)]
    pub results: Results,
}

impl Output {
    /// Begins a run, if its files can be written: it may take hours, and would end in vain.
    ///
    /// # Errors
    /// A file cannot be written, or /proc is not mounted.
    pub fn begin(&self) -> Result<Begun> {
        [&self.json, &self.html].into_iter().flatten().try_for_each(|path| json::writable(path))?;
        Begun::now()
    }

    /// Prints what a run found and writes the files, with what makes the figures less true.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn show(&self, begun: Begun, mut results: Results) -> Result<()> {
        let (machine, warnings) = begun.end()?;
        results.warnings.splice(0..0, warnings);
        results.warnings.extend(noise(&results));
        results.warnings = once(results.warnings);
        print!("{}", table::text(&results));
        let report = Report { machine, results };
        if let Some(path) = &self.json {
            json::write(path, &report)?;
        }
        if let Some(path) = &self.html {
            fs::write(path, html::page(&report)).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(())
    }
}

/// Several rounds, and parts of `all`, warn of the same.
fn once(mut warnings: Vec<String>) -> Vec<String> {
    let mut told = HashSet::new();
    warnings.retain(|warning| told.insert(warning.clone()));
    warnings
}

/// A warning if repetitions differ much.
fn noise(results: &Results) -> Option<String> {
    // Counts of what hardly happens say nothing of noise.
    let rates = results.figures.iter().filter(|figure| !["packets", "replies"].contains(&&*figure.unit));
    let noisy = rates.filter(|figure| figure.deviation() > NOISE);
    let worst = noisy.clone().max_by(|a, b| a.deviation().total_cmp(&b.deviation()))?;
    Some(format!(
        "noise: in {} of {} figures a repetition lies more than {:.0} % from the median; the most in {} of {}, {}",
        noisy.count(),
        results.figures.len(),
        100.0 * NOISE,
        worst.measure,
        worst.system,
        worst.size
    ))
}

/// A text as HTML and SVG show it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::figures::Figure;

    #[test]
    fn what_html_reads_is_escaped() {
        assert_eq!(escape("<a href=\"x\">'&'</a>"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
        assert_eq!(escape("46 bytes, ±3 %"), "46 bytes, ±3 %");
    }

    #[test]
    fn the_same_warning_is_told_once() {
        assert_eq!(once(["b", "a", "b", "b"].map(str::to_owned).to_vec()), ["b", "a"]);
    }

    #[test]
    fn noise_is_told() {
        let figure = |samples: &[f64]| Figure::of("null", "pdr", "46", "packets/s", samples.to_vec());
        let quiet = figure(&[100.0, 101.0, 99.0]);
        let mut results = Results { figures: quiet.into_iter().collect(), ..Results::default() };
        assert_eq!(noise(&results), None);
        results.figures.extend(figure(&[100.0, 101.0, 50.0]));
        let text = noise(&results).expect("it is noisy");
        assert!(
            text.starts_with("noise: in 1 of 2 figures") && text.ends_with("the most in pdr of null, 46"),
            "{text}"
        );
    }

    #[test]
    fn json_has_the_machine_beside_the_figures() {
        let report = Report::default();
        let value = serde_json::to_value(&report).expect("serializes");
        assert!(value["figures"].is_array() && value["machine"]["kernel"].is_string());
        assert_eq!(serde_json::from_value::<Report>(value).expect("reads"), report);
    }
}

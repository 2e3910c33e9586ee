//! The report as one HTML file that needs nothing else.

use super::block::{Block, Column, Ratio, rank, unique};
use super::plot::{self, Label, Scale, Series};
use super::table::{number, spread};
use super::{Report, escape};
use crate::bench::figures::{Curve, Figure, Plot, Results};
use crate::bench::machine::Machine;

const STYLE: &str = include_str!("style.css");

/// The whole file.
pub fn page(report: &Report) -> String {
    let Report { machine, results } = report;
    let colours = Colours::new(results);
    let blocks = Block::all(results);
    let blocks: String = blocks.iter().map(|block| measure(block, &colours)).collect();
    let plots: String = PLOTS.iter().map(|kind| curves(*kind, &results.curves, &colours)).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>forwarder: benchmarks, {date}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>forwarder and other WireGuard gateways</h1>\n\
         <p class=\"made\">Made on {date} by <code>{command}</code></p>\n\
         {warnings}{facts}{contents}{blocks}{plots}</body>\n</html>\n",
        date = escape(&machine.date),
        command = escape(&machine.command),
        warnings = warnings(&results.warnings),
        facts = facts(machine),
        contents = reading(),
    )
}

fn warnings(warnings: &[String]) -> String {
    if warnings.is_empty() {
        return String::new();
    }
    let item = |text: &String| format!("<li>{}</li>\n", escape(text));
    let items: String = warnings.iter().map(item).collect();
    format!(
        "<section class=\"warnings\">\n<h2>What makes these figures less true</h2>\n<ul>\n{items}</ul>\n</section>\n"
    )
}

fn facts(machine: &Machine) -> String {
    let unknown = || "not shown by this machine".to_owned();
    let threads = machine.threads_per_core.map_or_else(unknown, |threads| threads.to_string());
    let kind = if machine.virtual_machine { "virtual machine" } else { "no hypervisor seen" };
    let mut rows = vec![
        ["processor".to_owned(), machine.processor.clone()],
        ["cores".to_owned(), machine.cores.to_string()],
        ["threads per core".to_owned(), threads],
        ["frequency governor".to_owned(), machine.governor.clone().unwrap_or_else(unknown)],
        ["machine".to_owned(), kind.to_owned()],
        ["kernel".to_owned(), machine.kernel.clone()],
        ["load average at the start".to_owned(), format!("{:.2}", machine.load)],
    ];
    rows.extend(machine.versions.iter().cloned());
    let row = |[name, value]: &[String; 2]| {
        format!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(value))
    };
    let rows: String = rows.iter().map(row).collect();
    format!("<section>\n<h2>Machine and versions</h2>\n<table class=\"facts\">\n{rows}</table>\n</section>\n")
}

fn reading() -> String {
    "<p class=\"reading\">Figures are medians of the repetitions; below each stand the lowest and the highest, which \
     the whiskers show, too. Sizes are lengths of inner IP packets in bytes.</p>\n"
        .to_owned()
}

/// A measure: its plot and its table.
fn measure(block: &Block<'_>, colours: &Colours) -> String {
    let groups: Vec<String> = block.sizes.iter().map(|size| (*size).to_owned()).collect();
    let series = block.columns.iter().enumerate().map(|(x, column)| Series {
        name: column.name(),
        class: colours.of_column(column, x),
        values: block
            .rows
            .iter()
            .map(|row| row[x].map(|figure| (figure.median, figure.spread)))
            .collect::<Vec<_>>(),
    });
    let series: Vec<_> = series.collect();
    let plot = plot::bars(Label { text: block.unit, scale: Scale::Linear }, &groups, &series);
    let less = if block.less_is_better() { ", less is better" } else { "" };
    let figure = figure("", &plot, series.iter().map(|series| (&*series.name, &*series.class)));
    format!(
        "<section>\n<h2>{} <small>{}{less}</small></h2>\n{figure}{}</section>\n",
        escape(block.measure),
        escape(block.unit),
        table(block)
    )
}

fn table(block: &Block<'_>) -> String {
    let ratios = block.ratios();
    let heads =
        block.columns.iter().map(Column::name).chain(ratios.iter().map(|ratio| ratio.name.to_owned()));
    let head = |name: String| format!("<th>{}</th>", escape(&name));
    let heads: String = heads.map(head).collect();
    let row = |(y, size): (usize, &&str)| {
        let cells: String = block.rows[y].iter().map(|figure| cell(*figure)).collect();
        let ratio = |ratio: &Ratio| format!("<td class=\"ratio\">{}</td>", escape(&ratio.of[y]));
        let ratios: String = ratios.iter().map(ratio).collect();
        format!("<tr><th>{}</th>{cells}{ratios}</tr>\n", escape(size))
    };
    let rows: String = block.sizes.iter().enumerate().map(row).collect();
    format!("<div class=\"wide\"><table>\n<tr><th></th>{heads}</tr>\n{rows}</table></div>\n")
}

fn cell(figure: Option<&Figure>) -> String {
    let Some(figure) = figure else { return "<td>-</td>".to_owned() };
    let title = escape(&format!("{} of {}, {}", spread(figure), figure.samples, figure.unit));
    let [low, high] = figure.spread.map(number);
    let spread = if figure.samples < 2 { "once".to_owned() } else { format!("{low} to {high}") };
    format!("<td title=\"{title}\">{}<br><small>{spread}</small></td>", number(figure.median))
}

const PLOTS: [Plot; 3] = [Plot::Load, Plot::Latency, Plot::Slaves];

/// All curves of one kind: a plot for each size.
fn curves(kind: Plot, curves: &[Curve], colours: &Colours) -> String {
    let mine: Vec<_> = curves.iter().filter(|curve| curve.plot == kind).collect();
    if mine.is_empty() {
        return String::new();
    }
    let title = match kind {
        Plot::Latency => "Latency by percentile, at 50 % of each system's own PDR",
        Plot::Load => "Delivered against offered load",
        Plot::Slaves => "Bytes per slave",
    };
    let plots = unique(mine.iter().map(|curve| &*curve.size)).into_iter().map(|size| {
        let mut here: Vec<_> = mine.iter().filter(|curve| curve.size == size).collect();
        here.sort_by_key(|curve| rank(&curve.system));
        let series = here.iter().map(|curve| Series {
            name: curve.system.clone(),
            class: colours.of(&curve.system),
            values: &*curve.points,
        });
        let series: Vec<_> = series.collect();
        figure(size, &plotted(kind, &series), series.iter().map(|series| (&*series.name, &*series.class)))
    });
    let plots: String = plots.collect();
    format!("<section>\n<h2>{title}</h2>\n<div class=\"grid\">\n{plots}</div>\n</section>\n")
}

fn plotted(kind: Plot, series: &[Series<&[[f64; 2]]>]) -> String {
    let label = |text, scale| Label { text, scale };
    match kind {
        Plot::Latency => plot::lines(
            label("percentile", Scale::Nines),
            label("one-way latency, us", Scale::Log),
            series,
            false,
        ),
        Plot::Load => {
            let [x, y] =
                ["offered, packets/s", "delivered, packets/s"].map(|text| label(text, Scale::Linear));
            plot::lines(x, y, series, true)
        }
        Plot::Slaves => {
            let slaves = series.iter().map(|series| series.values.len()).max().unwrap_or_default();
            let names: Vec<_> = (0..slaves).map(|slave| format!("slave {slave}")).collect();
            let bars = series.iter().map(|series| Series {
                name: series.name.clone(),
                class: series.class.clone(),
                values: series
                    .values
                    .iter()
                    .map(|[_, bytes]| Some((*bytes, [*bytes; 2])))
                    .collect::<Vec<_>>(),
            });
            plot::bars(label("bytes", Scale::Linear), &names, &bars.collect::<Vec<_>>())
        }
    }
}

/// A plot with its title and its legend.
fn figure<'a>(title: &str, plot: &str, series: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let key = |(name, class): (&str, &str)| format!("<span class=\"key {class}\">{}</span>", escape(name));
    let keys: String = series.map(key).collect();
    format!("<figure><figcaption><b>{}</b> {keys}</figcaption>{plot}</figure>\n", escape(title))
}

/// Which colour each system has, the same in all plots.
struct Colours(Vec<(String, String)>);

impl Colours {
    fn new(results: &Results) -> Self {
        let figures = results.figures.iter().map(|figure| &*figure.system);
        let curves = results.curves.iter().map(|curve| &*curve.system);
        let mut next = [0; 3];
        let colour = |system: &str| {
            let rank = usize::from(rank(system));
            let (kind, count) = [("o", 7), ("b", 3), ("p", 10)][rank];
            let class = format!("{kind}{}", next[rank] % count);
            next[rank] += 1;
            (system.to_owned(), class)
        };
        Self(unique(["forwarder"].into_iter().chain(figures).chain(curves)).into_iter().map(colour).collect())
    }

    fn of(&self, system: &str) -> String {
        let found = self.0.iter().find(|(known, _)| known == system);
        found.map_or("p0".to_owned(), |(_, class)| class.clone())
    }

    /// A column's at that position: parts of a measure differ from each other.
    fn of_column(&self, column: &Column<'_>, position: usize) -> String {
        if column.part.is_some() { format!("o{}", position % 7) } else { self.of(column.system) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let figure = |system, size, median| {
            Figure::of(system, "pdr", size, "packets/s", vec![median, median * 1.1]).expect("samples")
        };
        let curve = |system: &str, plot, points: &[[f64; 2]]| Curve {
            system: system.into(),
            plot,
            size: "46".into(),
            points: points.to_vec(),
        };
        let results = Results {
            figures: vec![
                figure("null", "46", 9e5),
                figure("forwarder", "46", 8e5),
                figure("null", "imix", 5e5),
            ],
            curves: vec![
                curve("forwarder", Plot::Load, &[[1e5, 1e5], [2e6, 8e5]]),
                curve("<peer>", Plot::Load, &[]),
                curve("forwarder", Plot::Slaves, &[[0.0, 1e9], [1.0, 1.1e9]]),
            ],
            warnings: vec!["2 cores & noise".into()],
        };
        Report { machine: Machine { command: "x --size <46>".into(), ..Machine::default() }, results }
    }

    #[test]
    fn every_text_is_escaped() {
        let page = page(&report());
        for text in ["2 cores &amp; noise", "x --size &lt;46&gt;", "&lt;peer&gt;"] {
            assert!(page.contains(text), "{text}");
        }
        assert!(!page.contains("<46>") && !page.contains("<peer>"));
    }

    #[test]
    fn a_page_needs_nothing_from_elsewhere() {
        let page = page(&report());
        for text in ["<script", "http", "src=", "url(", "@import", "NaN", "inf\""] {
            assert!(!page.contains(text), "{text}");
        }
    }

    #[test]
    fn a_missing_system_is_a_dash_and_a_missing_kind_of_plot_is_left_out() {
        let page = page(&report());
        assert_eq!(page.matches("<td>-</td>").count(), 1, "{page}");
        assert!(page.contains("<h2>Bytes per slave</h2>") && !page.contains("<h2>Latency"));
        // Our ratio to null.
        assert!(page.contains("<td class=\"ratio\">0.89</td>"));
    }

    #[test]
    fn a_system_has_one_colour() {
        let colours = Colours::new(&report().results);
        assert_eq!(["forwarder", "null", "<peer>"].map(|system| colours.of(system)), ["o0", "b0", "p0"]);
    }
}

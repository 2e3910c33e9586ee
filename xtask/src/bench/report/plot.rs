//! Plots as SVG, drawn here: a report needs nothing from elsewhere.

use super::escape;
use super::table::number;

/// Size of a plot and of the margins that its labels need: left, right, top, bottom. In SVG's units.
const SIZE: [f64; 2] = [640.0, 320.0];
const MARGIN: [f64; 4] = [70.0, 16.0, 12.0, 46.0];
/// What a logarithm can show at least, relative to the greatest value.
const LEAST: f64 = 1e-9;
/// The percentile that stands for 100, which lies nowhere on an axis of nines.
const LAST_PERCENTILE: f64 = 99.9995;

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From 0.
    Linear,
    /// By their logarithm.
    Log,
    /// Percentiles, by how many nines they have.
    Nines,
}

/// What an axis shows.
#[derive(Clone, Copy, Debug)]
pub struct Label<'a> {
    /// Name and unit.
    pub text: &'a str,
    /// How values lie along it.
    pub scale: Scale,
}

/// One system in a plot; `class` is its colour in the style sheet.
#[derive(Clone, Debug)]
pub struct Series<T> {
    /// The system.
    pub name: String,
    /// Its colour.
    pub class: String,
    /// Its values.
    pub values: T,
}

/// A bar and its whisker: the median, the lowest and the highest repetition. None where nothing was measured.
pub type Bar = Option<(f64, [f64; 2])>;

/// Lines through points. `diagonal` adds the line on which both are the same.
pub fn lines(x: Label<'_>, y: Label<'_>, series: &[Series<&[[f64; 2]]>], diagonal: bool) -> String {
    let points = || series.iter().flat_map(|series| series.values.iter().copied());
    let Some(axes) = Axes::around([x, y], points()) else { return empty() };
    let mut body = axes.frame(x, y) + &axes.ticks(0) + &axes.ticks(1);
    if diagonal {
        let end = axes.x.range[1].min(axes.y.range[1]);
        body += &axes.path("diagonal", "", &[[0.0, 0.0], [end, end]]);
    }
    for Series { name, class, values } in series {
        body += &axes.path(&format!("line {class}"), name, values);
    }
    svg(&body)
}

/// Bars in groups: one group for each name, one bar in it for each series.
pub fn bars(y: Label<'_>, groups: &[String], series: &[Series<Vec<Bar>>]) -> String {
    let bars = series.iter().flat_map(|series| &series.values).flatten();
    let tops = bars.flat_map(|(median, spread)| [[0.0, *median], [1.0, spread[1]]]);
    let x = Label { text: "", scale: Scale::Linear };
    let Some(axes) = Axes::around([x, y], tops) else { return empty() };
    let mut body = axes.frame(x, y) + &axes.ticks(1);
    let width = (axes.x.pixels[1] - axes.x.pixels[0]) / groups.len().max(1) as f64;
    // A third of a bar between the groups.
    let bar = width / (series.len() as f64 + 0.67);
    for (g, group) in groups.iter().enumerate() {
        let left = axes.x.pixels[0] + g as f64 * width;
        body += &axes.name_below(left + width / 2.0, group);
        for (s, Series { name, class, values }) in series.iter().enumerate() {
            if let Some(Some(figure)) = values.get(g) {
                let title = format!("{name}, {group}");
                body += &axes.bar(&title, class, [left + bar * (s as f64 + 0.33), bar * 0.9], *figure);
            }
        }
    }
    svg(&body)
}

/// A plot of nothing.
fn empty() -> String {
    "<p class=\"none\">not measured</p>".to_owned()
}

fn svg(body: &str) -> String {
    let [width, height] = SIZE;
    format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\">{body}</svg>")
}

/// A plot's two axes.
#[derive(Debug)]
struct Axes {
    x: Axis,
    y: Axis,
}

/// From values to places in the plot.
#[derive(Debug)]
struct Axis {
    scale: Scale,
    range: [f64; 2],
    pixels: [f64; 2],
}

impl Axes {
    /// Axes that all points fit into; `None` without points.
    fn around(labels: [Label<'_>; 2], points: impl Iterator<Item = [f64; 2]>) -> Option<Self> {
        let points: Vec<_> = points.filter(|point| point.iter().all(|value| value.is_finite())).collect();
        let [left, right, top, bottom] = MARGIN;
        let axis =
            |i: usize, pixels| Axis::around(labels[i].scale, points.iter().map(|point| point[i]), pixels);
        Some(Self { x: axis(0, [left, SIZE[0] - right])?, y: axis(1, [SIZE[1] - bottom, top])? })
    }

    /// The two axes and their names.
    fn frame(&self, x: Label<'_>, y: Label<'_>) -> String {
        let ([left, right], [bottom, top]) = (self.x.pixels, self.y.pixels);
        let (middle, centre) = (f64::midpoint(left, right), f64::midpoint(bottom, top));
        format!(
            "<path class=\"axis\" d=\"M{left} {top}V{bottom}H{right}\"/>\
             <text class=\"label\" x=\"{middle}\" y=\"{}\">{}</text>\
             <text class=\"label\" transform=\"translate(14 {centre}) rotate(-90)\">{}</text>",
            SIZE[1] - 6.0,
            escape(x.text),
            escape(y.text),
        )
    }

    /// Marks and their values along x (0) or y (1).
    fn ticks(&self, axis: usize) -> String {
        let ([left, right], [bottom, top]) = (self.x.pixels, self.y.pixels);
        let tick = |value: f64| {
            if axis == 0 {
                let x = self.x.at(value);
                let line = format!("<path class=\"grid\" d=\"M{x:.1} {bottom}V{top}\"/>");
                line + &self.name_below(x, &self.x.name(value))
            } else {
                let y = self.y.at(value);
                format!(
                    "<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/>\
                     <text class=\"tick end\" x=\"{}\" y=\"{:.1}\">{}</text>",
                    left - 6.0,
                    y + 4.0,
                    self.y.name(value)
                )
            }
        };
        let values = if axis == 0 { self.x.ticks() } else { self.y.ticks() };
        values.into_iter().map(tick).collect()
    }

    fn name_below(&self, x: f64, name: &str) -> String {
        let y = self.y.pixels[0] + 16.0;
        format!("<text class=\"tick\" x=\"{x:.1}\" y=\"{y}\">{}</text>", escape(name))
    }

    /// A bar from 0 to the median, with its whisker; left end and width in pixels.
    fn bar(
        &self,
        title: &str,
        class: &str,
        [left, width]: [f64; 2],
        (median, spread): (f64, [f64; 2]),
    ) -> String {
        let (top, middle) = (self.y.at(median), left + width / 2.0);
        let height = self.y.pixels[0] - top;
        let ([low, high], [bottom, end]) = (spread.map(number), spread.map(|value| self.y.at(value)));
        let title = escape(&format!("{title}: {} ({low} to {high})", number(median)));
        format!(
            "<g class=\"{class}\"><title>{title}</title>\
             <rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>\
             <path class=\"whisker\" d=\"M{middle:.1} {bottom:.1}V{end:.1}\"/></g>"
        )
    }

    fn path(&self, class: &str, name: &str, points: &[[f64; 2]]) -> String {
        let points = points.iter().filter(|point| point.iter().all(|value| value.is_finite()));
        let place = |[x, y]: &[f64; 2]| format!("{:.1} {:.1}", self.x.at(*x), self.y.at(*y));
        let places: Vec<_> = points.map(place).collect();
        let title = escape(name);
        format!("<path class=\"{class}\" d=\"M{}\"><title>{title}</title></path>", places.join("L"))
    }
}

impl Axis {
    fn around(scale: Scale, values: impl Iterator<Item = f64> + Clone, pixels: [f64; 2]) -> Option<Self> {
        let high = values.clone().max_by(f64::total_cmp)?;
        let range = match scale {
            Scale::Linear => [0.0, if high > 0.0 { high } else { 1.0 }],
            Scale::Log => {
                let high = if high > 0.0 { high } else { 1.0 };
                let low = values.filter(|value| *value > 0.0).min_by(f64::total_cmp).unwrap_or(high);
                // Not all of it may be one value.
                [low.max(high * LEAST).min(high / 1.1), high]
            }
            Scale::Nines => [0.0, high.clamp(90.0, LAST_PERCENTILE)],
        };
        Some(Self { scale, range, pixels })
    }

    /// Where a value lies, at an end of the axis if it lies beyond.
    fn at(&self, value: f64) -> f64 {
        let project = |value: f64| match self.scale {
            Scale::Linear => value,
            Scale::Log => value.ln(),
            Scale::Nines => -(1.0 - value / 100.0).ln(),
        };
        let [low, high] = self.range;
        let value = value.clamp(low, high);
        let share = (project(value) - project(low)) / (project(high) - project(low));
        self.pixels[0] + share * (self.pixels[1] - self.pixels[0])
    }

    fn ticks(&self) -> Vec<f64> {
        let [low, high] = self.range;
        let within = |value: &f64| (low..=high).contains(value);
        match self.scale {
            Scale::Linear => {
                let step = step(high / 5.0);
                (0..=10).map(|i| f64::from(i) * step).filter(within).collect()
            }
            Scale::Log => {
                let decades = low.log10().floor() as i32..=high.log10().ceil() as i32;
                let few = high / low < 300.0;
                let steps: &[f64] = if few { &[1.0, 2.0, 5.0] } else { &[1.0] };
                decades
                    .flat_map(|n| steps.iter().map(move |step| step * 10_f64.powi(n)))
                    .filter(within)
                    .collect()
            }
            Scale::Nines => [50.0, 90.0, 99.0, 99.9, 99.99, 99.999].into_iter().filter(within).collect(),
        }
    }

    fn name(&self, value: f64) -> String {
        if self.scale == Scale::Nines { format!("{value} %") } else { number(value) }
    }
}

/// The next of 1, 2, 5, 10, 20, ...
fn step(least: f64) -> f64 {
    let decade = 10_f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|step| step * decade);
    steps.into_iter().find(|step| *step >= least).unwrap_or(10.0 * decade)
}

#[cfg(test)]
mod tests {
    use super::*;

    const X: Label<'_> = Label { text: "offered", scale: Scale::Linear };

    fn series<T>(values: T) -> Series<T> {
        Series { name: "<null>".to_owned(), class: "b0".to_owned(), values }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn values_lie_where_their_scale_says() {
        let axis = |scale, values: &[f64]| {
            Axis::around(scale, values.iter().copied(), [0.0, 100.0]).expect("values")
        };
        assert!(near(axis(Scale::Linear, &[50.0, 200.0]).at(50.0), 25.0));
        assert!(near(axis(Scale::Log, &[1.0, 100.0]).at(10.0), 50.0));
        let nines = axis(Scale::Nines, &[0.0, 99.99]);
        assert!(near(nines.at(90.0), 25.0) && near(nines.at(99.0), 50.0) && near(nines.at(100.0), 100.0));
        // Downwards, as y does.
        let down = Axis { pixels: [100.0, 0.0], ..axis(Scale::Linear, &[10.0]) };
        assert!(near(down.at(10.0), 0.0) && near(down.at(0.0), 100.0));
    }

    #[test]
    fn ticks_are_round_and_within() {
        let ticks = |scale, values: &[f64]| {
            Axis::around(scale, values.iter().copied(), [0.0, 1.0]).expect("values").ticks()
        };
        assert_eq!(ticks(Scale::Linear, &[930.0]), [0.0, 200.0, 400.0, 600.0, 800.0]);
        assert_eq!(ticks(Scale::Linear, &[1000.0]).len(), 6);
        assert_eq!(ticks(Scale::Log, &[0.9, 12_000.0]).len(), 5);
        assert_eq!(ticks(Scale::Log, &[10.0, 60.0]), [10.0, 20.0, 50.0]);
        assert_eq!(ticks(Scale::Nines, &[0.0, 99.9]), [50.0, 90.0, 99.0, 99.9]);
    }

    #[test]
    fn a_line_goes_through_its_points() {
        let points = [[0.0, 0.0], [100.0, 50.0]];
        let text = lines(X, Label { text: "a & b", scale: Scale::Linear }, &[series(&points[..])], true);
        // From the corner of the axes to the right end, at the top: 50 is the greatest.
        assert!(text.contains("class=\"line b0\" d=\"M70.0 274.0L624.0 12.0\""), "{text}");
        assert!(text.contains("a &amp; b") && text.contains("&lt;null&gt;") && !text.contains("<null>"));
        assert!(text.contains("class=\"diagonal\" d=\"M70.0 274.0L347.0 12.0\""), "{text}");
    }

    #[test]
    fn a_missing_bar_leaves_its_place_empty() {
        let y = Label { text: "packets/s", scale: Scale::Linear };
        let both = [
            series(vec![Some((50.0, [40.0, 100.0])), None]),
            series(vec![None, Some((100.0, [100.0, 100.0]))]),
        ];
        let text = bars(y, &["46".to_owned(), "imix".to_owned()], &both);
        assert_eq!(text.matches("<rect").count(), 2);
        // Half as high as the plot, and the whisker up to the top.
        assert!(text.contains("y=\"143.0\"") && text.contains("height=\"131.0\""), "{text}");
        assert!(text.contains(" 169.2V12.0\""), "{text}");
        assert!(text.contains(">imix</text>"));
    }

    #[test]
    fn a_plot_of_nothing_says_so() {
        for scale in [Scale::Linear, Scale::Log, Scale::Nines] {
            let label = Label { text: "", scale };
            assert_eq!(lines(label, label, &[], false), empty());
            assert_eq!(lines(label, label, &[series(&[][..])], true), empty());
            assert_eq!(lines(label, label, &[series(&[[f64::NAN, 1.0]][..])], true), empty());
            assert_eq!(bars(label, &["46".to_owned()], &[series(vec![None])]), empty());
            // One point, and zeros, have no extent.
            let text = lines(label, label, &[series(&[[0.0, 0.0]][..])], false);
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }
}

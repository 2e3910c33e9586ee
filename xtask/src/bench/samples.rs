//! Repetitions of measures, which become figures.

use super::figures::{Curve, Figure, Plot, Results};

/// Repetitions of measures, which become figures.
#[derive(Debug, Default)]
pub struct Samples {
    figures: Vec<(Figure, Vec<f64>)>,
    curves: Vec<Curve>,
}

impl Samples {
    /// One more repetition of a measure.
    pub fn add(&mut self, system: &str, measure: &str, size: &str, unit: &str, value: f64) {
        let same = |figure: &Figure| {
            figure.system == system && figure.measure == measure && figure.size == size && figure.unit == unit
        };
        if let Some((_, values)) = self.figures.iter_mut().find(|(figure, _)| same(figure)) {
            values.push(value);
        } else if let Some(figure) = Figure::of(system, measure, size, unit, vec![value]) {
            self.figures.push((figure, vec![value]));
        }
    }

    /// A curve; of several repetitions the last one stays.
    pub fn curve(&mut self, system: &str, plot: Plot, size: &str, points: Vec<[f64; 2]>) {
        self.curves
            .retain(|curve| (curve.system.as_str(), curve.plot, curve.size.as_str()) != (system, plot, size));
        self.curves.push(Curve { system: system.to_owned(), plot, size: size.to_owned(), points });
    }

    /// Medians and spreads.
    pub fn add_to(self, results: &mut Results) {
        let figures = self.figures.into_iter().filter_map(|(figure, values)| {
            Figure::of(&figure.system, &figure.measure, &figure.size, &figure.unit, values)
        });
        results.figures.extend(figures);
        results.curves.extend(self.curves);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_become_one_figure() {
        let mut samples = Samples::default();
        for value in [3.0, 1.0, 2.0] {
            samples.add("null", "pdr", "46", "packets/s", value);
            samples.curve("null", Plot::Load, "46", vec![[value, value]]);
        }
        samples.add("null", "pdr", "imix", "packets/s", 9.0);
        let mut results = Results::default();
        samples.add_to(&mut results);
        assert_eq!((results.figures.len(), results.curves.len()), (2, 1));
        assert!((results.figures[0].median, results.figures[0].samples) == (2.0, 3));
        assert_eq!(results.curves[0].points, [[2.0, 2.0]]);
    }
}

//! An axis: a range of values, and the values that are named along it. Plotters draws it.
//!
//! Not one of plotters' own ranges: their ticks are spaced by value or by decade alone, and their labels
//! overlap when they are long.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Values along one side of a panel.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    /// Named values, ascending, within the range.
    pub(crate) ticks: Vec<Tick>,
    /// What the values are, with their unit.
    pub(crate) title: String,
    /// Where something happens, ascending ([`crate::marks`]).
    pub(crate) marks: Vec<Tick>,
    /// Width that its labels take at least where it stands upright: that of the labels of its neighbours.
    pub(crate) label_width: f64,
}

/// A named value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tick {
    pub(crate) value: f64,
    pub(crate) label: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    Linear,
    Log,
}

/// How values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// With thousands separated.
    Number,
    /// With thousands and millions abbreviated.
    Short,
    /// Of a share, 0 to 1.
    Percent,
    /// Of milliseconds: the unit that makes the number short, and its name.
    Milliseconds,
}

impl Axis {
    /// From the last round value at or below `low` to the first one at or above `high`.
    pub(crate) fn linear(title: &str, low: f64, high: f64, format: Format) -> Self {
        let step = round_step(if high > low { (high - low) / 5.0 } else { 0.2 });
        let low = (low / step + 1e-9).floor() * step;
        let steps = ((high - low) / step - 1e-9).ceil().max(1.0);
        Self::with_step(title, low, low + steps * step, step, format)
    }

    fn new(scale: Scale, (low, high): (f64, f64), ticks: Vec<Tick>, title: &str) -> Self {
        let title = title.to_owned();
        Self { scale, low, high, ticks, title, marks: Vec::new(), label_width: 0.0 }
    }

    /// Of rows, each one high, by the names of those that have one, from the top.
    pub(crate) fn rows<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let high = names.len() as f64;
        let tick = |(row, name): (usize, &str)| Tick {
            value: high - row as f64 - 0.5,
            label: name.to_owned(),
        };
        let mut ticks: Vec<Tick> = names.enumerate().map(tick).collect();
        ticks.reverse();
        Self::new(Scale::Linear, (0.0, high), ticks, "")
    }

    /// Of a share, all of it.
    pub(crate) fn percent(title: &str) -> Self {
        Self::with_step(title, 0.0, 1.0, 0.25, Format::Percent)
    }

    /// Of time, exactly from zero to `end_s` seconds, in the unit that suits it.
    pub(crate) fn time(what: &str, end_s: f64) -> Self {
        let (unit, seconds) = match end_s {
            ..300.0 => ("s", 1.0),
            ..18_000.0 => ("min", 60.0),
            _ => ("h", 3600.0),
        };
        let end = (end_s / seconds).max(f64::MIN_POSITIVE);
        let step = round_step(end / 6.0);
        let mut axis = Self::with_step(&format!("{what} ({unit})"), 0.0, end, step, Format::Number);
        // Positions are asked for in seconds.
        axis.high *= seconds;
        for tick in &mut axis.ticks {
            tick.value *= seconds;
        }
        axis
    }

    fn with_step(title: &str, low: f64, high: f64, step: f64, format: Format) -> Self {
        let count = ((high - low) / step + 1e-9).floor() as usize;
        let values = (0..=count).map(|index| low + index as f64 * step);
        let ticks = values.map(|value| Tick { value, label: format.write(value) }).collect();
        Self::new(Scale::Linear, (low, high), ticks, title)
    }

    /// Logarithmic, around the samples, between values with a single significant digit. Samples that are
    /// not positive have no place on it.
    pub(crate) fn log(title: &str, samples: impl Iterator<Item = f64>, format: Format) -> Self {
        let positive = samples.filter(|sample| *sample > 0.0);
        let (least, most) = positive.fold((f64::INFINITY, 0.0_f64), |(least, most), sample| {
            (least.min(sample), most.max(sample))
        });
        let (least, most) = if least <= most { (least, most) } else { (1.0, 10.0) };
        let mark = |exponent: i32, digit: u8| (digit, f64::from(digit) * power_of_ten(exponent));
        let marks: Vec<(u8, f64)> = (decade(least)..=decade(most) + 1)
            .flat_map(|exponent| (1..=9).map(move |digit| mark(exponent, digit)))
            .collect();
        let below = marks.iter().rfind(|(_, mark)| *mark <= least * (1.0 + 1e-9));
        let low = below.expect("the power of ten below is a mark").1;
        let above = marks.iter().find(|(_, mark)| *mark >= most * (1.0 - 1e-9) && *mark > low);
        let high = above.expect("the power of ten above is a mark").1;
        // The longer the axis, the fewer of its marks have a name.
        let named: &[u8] = match high / low {
            ..3.0 => &[1, 2, 3, 4, 5, 6, 7, 8, 9],
            ..300.0 => &[1, 2, 5],
            _ => &[1],
        };
        let ticks = marks
            .into_iter()
            .filter(|(digit, mark)| named.contains(digit) && (low..=high).contains(mark))
            .map(|(_, value)| Tick { value, label: format.write(value) })
            .collect();
        Self::new(Scale::Log, (low, high), ticks, title)
    }

    /// Where a value lies, from 0 at the low end to 1 at the high one. What is outside lies at the end.
    pub(crate) fn position(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear => (value - self.low) / (self.high - self.low),
            Scale::Log => {
                (value / self.low).max(f64::MIN_POSITIVE).ln() / (self.high / self.low).ln()
            }
        };
        share.clamp(0.0, 1.0)
    }

    /// The least and the largest value that have a place of their own.
    pub(crate) fn ends(&self) -> [f64; 2] {
        [self.low, self.high]
    }

    /// Without the labels that would touch the one before, on an axis so long, when a label takes so much of it.
    pub(crate) fn legible(&self, length: f64, extent_of: impl Fn(&str) -> f64) -> Self {
        let mut legible = self.clone();
        let mut free_from = f64::NEG_INFINITY;
        for tick in &mut legible.ticks {
            let (at, half) = (self.position(tick.value) * length, extent_of(&tick.label) / 2.0);
            if at - half < free_from {
                tick.label.clear();
            } else {
                free_from = at + half;
            }
        }
        legible
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        start + (f64::from(end - start) * self.position(*value)).round() as i32
    }

    /// The named values, and no lighter ones between them.
    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.iter().map(|tick| tick.value).collect()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let tick = self.ticks.iter().find(|tick| tick.value.total_cmp(value).is_eq());
        tick.map_or_else(String::new, |tick| tick.label.clone())
    }
}

impl Format {
    pub(crate) fn write(self, value: f64) -> String {
        match self {
            Self::Short if value >= 1e6 => format!("{}M", number(value / 1e6)),
            Self::Short if value >= 1e3 => format!("{}k", number(value / 1e3)),
            Self::Number | Self::Short => number(value),
            Self::Percent => format!("{} %", number(value * 100.0)),
            Self::Milliseconds if value < 1.0 => format!("{} µs", number(value * 1e3)),
            Self::Milliseconds if value < 1e3 => format!("{} ms", number(value)),
            Self::Milliseconds => format!("{} s", number(value / 1e3)),
        }
    }
}

/// As few decimals as tell it from its neighbours on an axis, and thousands separated.
pub(crate) fn number(value: f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    let text = format!("{rounded}");
    let (whole, fraction) =
        text.split_once('.').map_or((text.as_str(), ""), |(whole, rest)| (whole, rest));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if fraction.is_empty() { grouped } else { format!("{grouped}.{fraction}") }
}

/// The smallest of 1, 2, 2.5 and 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    let unit = power_of_ten(decade(step));
    let factors = [1.0, 2.0, 2.5, 5.0, 10.0];
    factors
        .into_iter()
        .map(|factor| factor * unit)
        .find(|round| *round >= step * (1.0 - 1e-9))
        .unwrap_or(step)
}

/// The exponent of the largest power of ten that is not above a positive value.
fn decade(value: f64) -> i32 {
    (value.log10() + 1e-9).floor() as i32
}

fn power_of_ten(exponent: i32) -> f64 {
    10.0_f64.powi(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: &Axis) -> Vec<&str> {
        axis.ticks.iter().map(|tick| tick.label.as_str()).collect()
    }

    #[test]
    fn linear_axes_begin_and_end_on_a_round_value() {
        let axis = Axis::linear("", 0.83, 2.6, Format::Percent);
        assert_eq!(labels(&axis), ["50 %", "100 %", "150 %", "200 %", "250 %", "300 %"]);
        assert_eq!(
            labels(&Axis::linear("", 0.0, 37.0, Format::Number)),
            ["0", "10", "20", "30", "40"]
        );
        assert_eq!(
            labels(&Axis::linear("", 0.0, 4200.0, Format::Number))[..3],
            ["0", "1,000", "2,000"]
        );
        assert_eq!(labels(&Axis::linear("", 0.0, 0.0, Format::Number)).len(), 2);
    }

    #[test]
    fn log_axes_name_round_values() {
        let axis = Axis::log("", [3.2, 37_000.0].into_iter(), Format::Milliseconds);
        assert_eq!(labels(&axis), ["10 ms", "100 ms", "1 s", "10 s"]);
        assert!((axis.position(3.0) - 0.0).abs() < 1e-12);
        assert!((axis.position(40_000.0) - 1.0).abs() < 1e-12);
        let axis = Axis::log("", [0.0, 17.0, 95.0].into_iter(), Format::Milliseconds);
        assert_eq!(labels(&axis), ["10 ms", "20 ms", "50 ms", "100 ms"]);
        let axis = Axis::log("", [0.0613, 0.0614].into_iter(), Format::Milliseconds);
        assert_eq!(labels(&axis), ["60 µs", "70 µs"]);
        assert!(!Axis::log("", [].into_iter(), Format::Number).ticks.is_empty());
    }

    #[test]
    fn rows_are_named_from_the_top() {
        let axis = Axis::rows(["a", "b"].into_iter());
        assert_eq!(labels(&axis), ["b", "a"]);
        assert!((axis.position(axis.ticks[1].value) - 0.75).abs() < 1e-12);
    }

    #[test]
    fn labels_that_would_touch_are_blank() {
        let axis = Axis::linear("", 0.0, 40.0, Format::Number);
        let extent = |label: &str| 10.0 * label.len() as f64;
        assert_eq!(labels(&axis.legible(100.0, extent)), ["0", "10", "20", "30", "40"]);
        assert_eq!(labels(&axis.legible(60.0, extent)), ["0", "10", "", "30", ""]);
    }

    #[test]
    fn time_is_in_the_unit_that_suits() {
        let axis = Axis::time("simulated time", 1800.0);
        assert_eq!(axis.title, "simulated time (min)");
        assert_eq!(labels(&axis), ["0", "5", "10", "15", "20", "25", "30"]);
        assert!((axis.position(900.0) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(-1_000.5), "-1,000.5");
        assert_eq!(number(0.1 + 0.2), "0.3");
        assert_eq!(number(100.0), "100");
    }
}

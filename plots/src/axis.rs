//! An axis: a range of values, and the values that are named along it.
//!
//! Not plotters' coordinates: their ticks are spaced by value or by decade alone, and their labels
//! overlap when they are long.

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
    /// From `low` to the first round value at or above `high`.
    pub(crate) fn linear(title: &str, low: f64, high: f64, format: Format) -> Self {
        let step = round_step(if high > low { (high - low) / 5.0 } else { 0.2 });
        let steps = ((high - low) / step - 1e-9).ceil().max(1.0);
        Self::with_step(title, low, low + steps * step, step, format)
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
        Self { scale: Scale::Linear, low, high, ticks, title: title.to_owned() }
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
        Self { scale: Scale::Log, low, high, ticks, title: title.to_owned() }
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
    fn linear_axes_end_on_a_round_value() {
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

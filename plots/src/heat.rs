//! A heat map: a row an instance, a column an interval, darker where there is more.
//!
//! Lines would be the obvious choice for a handful of instances; for a fleet they are a hairball, and
//! the question is which instance is idle while another drowns, not how high a curve goes.

use crate::axis::{Axis, Format, Tick};
use crate::canvas::{Align, Canvas, Rect, TextStyle};
use crate::colour::{Colour, MAGNITUDE_STEPS, magnitude};
use crate::panel::draw_x_axis;

/// Values over rows and time.
#[derive(Clone, Debug)]
pub(crate) struct HeatMap {
    pub(crate) title: String,
    /// The name and the values of each row, from the top. `NaN` where nothing is known.
    pub(crate) rows: Vec<(String, Vec<f64>)>,
    pub(crate) shades: Shades,
    pub(crate) x: Axis,
}

/// How dark a value is. Nothing is the lightest shade.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shades {
    /// A share of a whole: in proportion.
    Share,
    /// A count: by its logarithm, or one overloaded instance would leave all others blank.
    LogCount { largest: f64 },
}

/// Length of the key.
const KEY_WIDTH: f64 = 230.0;
/// Height of the key with its labels.
pub(crate) const KEY_HEIGHT: f64 = 32.0;
/// Height of the title.
const HEAD: f64 = 24.0;
/// Height of the labels below.
const FOOT: f64 = 24.0;

/// Room for the longest name of a row.
pub(crate) fn name_width<'a>(names: impl Iterator<Item = &'a str>) -> f64 {
    names.map(|name| TextStyle::SMALL.width_of(name)).fold(0.0_f64, f64::max) + 8.0
}

impl HeatMap {
    /// The rows to the right of their names, for which `names` pixels are left.
    pub(crate) fn draw(&self, canvas: &mut Canvas, area: Rect, names: f64) {
        let frame = area.inset(names, HEAD, 0.0, FOOT);
        canvas.text(&self.title, (frame.left, area.top + 14.0), Align::Left, TextStyle::BODY);
        let height = frame.height() / self.rows.len().max(1) as f64;
        // Names are for rows that are tall enough to have one.
        let every = (TextStyle::SMALL.size / height).ceil().max(1.0) as usize;
        for (index, (name, values)) in self.rows.iter().enumerate() {
            let top = frame.top + index as f64 * height;
            let row = Rect { top, bottom: top + height, ..frame };
            if names > 0.0 && index.is_multiple_of(every) {
                let at =
                    (frame.left - 8.0, (row.top + row.bottom) / 2.0 + TextStyle::SMALL.size * 0.35);
                canvas.text(name, at, Align::Right, TextStyle::SMALL);
            }
            self.draw_row(canvas, row, values);
            if index > 0 {
                canvas.line(vec![(row.left, top), (row.right, top)], 0.5, Colour::WHITE);
            }
        }
        draw_x_axis(canvas, &self.x, frame);
    }

    fn draw_row(&self, canvas: &mut Canvas, row: Rect, values: &[f64]) {
        // Neighbours of one shade are drawn as one: an SVG of a thousand rectangles, not ten.
        let steps = f64::from(MAGNITUDE_STEPS);
        let shade = |value: f64| (self.shades.darkness(value) * steps).round() / steps;
        let width = row.width() / values.len().max(1) as f64;
        let mut start = 0;
        while start < values.len() {
            let first = shade(values[start]);
            let same = |value: &&f64| shade(**value).total_cmp(&first).is_eq();
            let end = start + values[start..].iter().take_while(same).count().max(1);
            if !first.is_nan() {
                // A little wider than it is, under the next one: adjoining edges would shine through.
                let right = (row.left + end as f64 * width + 0.5).min(row.right);
                let cell = Rect { left: row.left + start as f64 * width, right, ..row };
                canvas.fill(cell, magnitude(first));
            }
            start = end;
        }
    }
}

impl Shades {
    /// How dark a value is, 0 to 1.
    fn darkness(&self, value: f64) -> f64 {
        match self {
            Self::Share => value,
            Self::LogCount { largest } => value.ln_1p() / largest.ln_1p(),
        }
    }

    /// Values to name along the key: both ends, and what is round between them.
    fn ticks(&self) -> Vec<Tick> {
        let (values, format) = match self {
            Self::Share => (vec![0.0, 0.5, 1.0], Format::Percent),
            Self::LogCount { largest } => {
                let powers = [1.0, 10.0, 100.0, 1_000.0, 10_000.0];
                // A power too close to the end would not leave room for the end's own label.
                let between = powers.into_iter().filter(|power| self.darkness(*power) < 0.85);
                ([0.0].into_iter().chain(between).chain([*largest]).collect(), Format::Number)
            }
        };
        values.into_iter().map(|value| Tick { value, label: format.write(value) }).collect()
    }

    /// Draws the shades with their values, in two lines that end at the right of `area`.
    pub(crate) fn draw_key(&self, canvas: &mut Canvas, area: Rect) {
        const CELLS: u32 = MAGNITUDE_STEPS;
        let ticks = self.ticks();
        let overhang =
            ticks.last().map_or(0.0, |tick| TextStyle::SMALL.width_of(&tick.label) / 2.0);
        let right = area.right - overhang;
        let bar = Rect { left: right - KEY_WIDTH, right, top: area.top, bottom: area.top + 10.0 };
        for cell in 0..CELLS {
            let left = bar.left + f64::from(cell) / f64::from(CELLS) * KEY_WIDTH;
            let right = (left + KEY_WIDTH / f64::from(CELLS) + 0.5).min(bar.right);
            canvas.fill(
                Rect { left, right, ..bar },
                magnitude(f64::from(cell + 1) / f64::from(CELLS)),
            );
        }
        for tick in ticks {
            let x = bar.left + self.darkness(tick.value) * KEY_WIDTH;
            canvas.line(vec![(x, bar.bottom), (x, bar.bottom + 3.0)], 1.0, Colour::AXIS);
            canvas.text(&tick.label, (x, bar.bottom + 16.0), Align::Centre, TextStyle::SMALL);
        }
    }
}

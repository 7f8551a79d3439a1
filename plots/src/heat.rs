//! A heat map: a row an instance, a column an interval, darker where there is more.
//!
//! Lines would be the obvious choice for a handful of instances; for a fleet they are a hairball, and
//! the question is which instance is idle while another drowns, not how high a curve goes.

use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::element::{PathElement, Rectangle};

use crate::axis::{Axis, Format, Tick};
use crate::canvas::{Align, Canvas, Rect, TextStyle};
use crate::chart::{Chart, Drawn, GAP, draw_axes, fine};
use crate::colour::{Colour, MAGNITUDE_STEPS, magnitude};

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
    names.map(|name| TextStyle::SMALL.width_of(name)).fold(0.0_f64, f64::max) + GAP
}

impl HeatMap {
    /// The rows to the right of their names, for which `names` pixels are left.
    pub(crate) fn draw(&self, canvas: &mut Canvas, area: Rect, names: f64) {
        let frame = area.inset(names, HEAD, 0.0, FOOT);
        canvas.text(&self.title, (frame.left, area.top + 14.0), Align::Left, TextStyle::BODY);
        let x = self.x.legible(frame.width(), |label| TextStyle::SMALL.width_of(label) + GAP);
        let rows = Axis::rows(self.rows.iter().map(|(name, _)| name.as_str()));
        let rows = rows.legible(frame.height(), |_| TextStyle::SMALL.size);
        canvas.plot(area, |root| {
            let mut chart = ChartBuilder::on(root)
                .margin_top(fine(HEAD))
                .set_label_area_size(LabelAreaPosition::Left, fine(names))
                .set_label_area_size(LabelAreaPosition::Bottom, fine(FOOT))
                .build_cartesian_2d(x, rows)?;
            for (index, (_, values)) in self.rows.iter().enumerate() {
                let top = (self.rows.len() - index) as f64;
                self.draw_row(&mut chart, top, values, frame.width())?;
                if index > 0 {
                    let border = self.x.ends().map(|end| (end, top));
                    chart.draw_series([PathElement::new(border, Colour::WHITE.stroke(0.5))])?;
                }
            }
            draw_axes(&mut chart, false)
        });
    }

    fn draw_row(&self, chart: &mut Chart<'_>, top: f64, values: &[f64], width: f64) -> Drawn {
        // Neighbours of one shade are drawn as one: an SVG of a thousand rectangles, not ten.
        let steps = f64::from(MAGNITUDE_STEPS);
        let shade = |value: f64| (self.shades.darkness(value) * steps).round() / steps;
        let [low, high] = self.x.ends();
        let at = |column: f64| low + (high - low) * column / values.len().max(1) as f64;
        // A little wider than it is, under the next one: adjoining edges would shine through.
        let under = 0.5 * (high - low) / width;
        let mut start = 0;
        while start < values.len() {
            let first = shade(values[start]);
            let same = |value: &&f64| shade(**value).total_cmp(&first).is_eq();
            let end = start + values[start..].iter().take_while(same).count().max(1);
            if !first.is_nan() {
                let corners = [(at(start as f64), top), (at(end as f64) + under, top - 1.0)];
                chart.draw_series([Rectangle::new(corners, magnitude(first).filled())])?;
            }
            start = end;
        }
        Ok(())
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

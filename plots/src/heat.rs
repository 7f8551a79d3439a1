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
    /// The name and the values of each row, from the top. `NaN` where the instance is not in service, and
    /// after the end of the run.
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

/// Length of the shades in the key.
const KEY_WIDTH: f64 = 160.0;
/// What the key says of [`Colour::ABSENT`].
const ABSENT: &str = "not in service";
/// Height of the key with its labels.
pub(crate) const KEY_HEIGHT: f64 = 32.0;
/// Height of the title, above the labels of marks.
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
        let width = area.width() - names;
        let head = HEAD + self.x.marks_height(width);
        let frame = area.inset(names, head, 0.0, FOOT);
        canvas.text(&self.title, (frame.left, area.top + 14.0), Align::Left, TextStyle::BODY);
        let x = self.x.legible(width, |label| TextStyle::SMALL.width_of(label) + GAP);
        let rows = Axis::rows(self.rows.iter().map(|(name, _)| name.as_str()));
        let rows = rows.legible(frame.height(), |_| TextStyle::SMALL.size);
        canvas.plot(area, |root| {
            let mut chart = ChartBuilder::on(root)
                .margin_top(fine(head))
                .set_label_area_size(LabelAreaPosition::Left, fine(names))
                .set_label_area_size(LabelAreaPosition::Bottom, fine(FOOT))
                .build_cartesian_2d(x, rows)?;
            let ended = self.ended();
            for (index, (_, values)) in self.rows.iter().enumerate() {
                let top = (self.rows.len() - index) as f64;
                self.draw_row(&mut chart, top, values, (ended, width))?;
                if index > 0 {
                    let border = self.x.ends().map(|end| (end, top));
                    chart.draw_series([PathElement::new(border, Colour::WHITE.stroke(0.5))])?;
                }
            }
            self.x.draw_marks(&mut chart, [0.0, self.rows.len() as f64], width)?;
            draw_axes(&mut chart, false)
        });
    }

    /// Whether an instance is out of service at any time.
    fn has_absent(&self) -> bool {
        let ended = self.ended();
        self.rows.iter().any(|(_, values)| {
            let values = &values[..(ended * values.len() as f64).round() as usize];
            values.iter().any(|value| value.is_nan())
        })
    }

    /// The share of the time after which no row has values: the run is over.
    fn ended(&self) -> f64 {
        let end = |values: &[f64]| {
            values.iter().rposition(|value| !value.is_nan()).map_or(0, |last| last + 1)
        };
        let share =
            |(_, values): &(String, Vec<f64>)| end(values) as f64 / values.len().max(1) as f64;
        self.rows.iter().map(share).fold(0.0, f64::max)
    }

    /// A row of so many pixels, up to where the run `ended`.
    fn draw_row(
        &self,
        chart: &mut Chart<'_>,
        top: f64,
        values: &[f64],
        (ended, width): (f64, f64),
    ) -> Drawn {
        // Neighbours of one shade are drawn as one: an SVG of a thousand rectangles, not ten.
        let steps = f64::from(MAGNITUDE_STEPS);
        let shade = |value: f64| (self.shades.darkness(value) * steps).round() / steps;
        let [low, high] = self.x.ends();
        let columns = values.len().max(1);
        let at = |column: f64| low + (high - low) * column / columns as f64;
        // A little wider than it is, under the next one: adjoining edges would shine through.
        let under = 0.5 * (high - low) / width;
        let values = &values[..(ended * values.len() as f64).round() as usize];
        let mut start = 0;
        while start < values.len() {
            let first = shade(values[start]);
            let same = |value: &&f64| shade(**value).total_cmp(&first).is_eq();
            let end = start + values[start..].iter().take_while(same).count().max(1);
            let colour = if first.is_nan() { Colour::ABSENT } else { magnitude(first) };
            let corners = [(at(start as f64), top), (at(end as f64) + under, top - 1.0)];
            chart.draw_series([Rectangle::new(corners, colour.filled())])?;
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
}

/// Draws the shades of maps that share them, with their values, and what they do not say, in two lines that end at the right of
/// `area`.
pub(crate) fn draw_key(maps: &[HeatMap], canvas: &mut Canvas, area: Rect) {
    const CELLS: u32 = MAGNITUDE_STEPS;
    let Some(HeatMap { shades, .. }) = maps.first() else { return };
    let ticks = shades.ticks();
    let overhang = ticks.last().map_or(0.0, |tick| TextStyle::SMALL.width_of(&tick.label) / 2.0);
    let right = area.right - overhang;
    let bar = Rect { left: right - KEY_WIDTH, right, top: area.top, bottom: area.top + 10.0 };
    for cell in 0..CELLS {
        let left = bar.left + f64::from(cell) / f64::from(CELLS) * KEY_WIDTH;
        let right = (left + KEY_WIDTH / f64::from(CELLS) + 0.5).min(bar.right);
        canvas.fill(Rect { left, right, ..bar }, magnitude(f64::from(cell + 1) / f64::from(CELLS)));
    }
    let names = bar.bottom + 16.0;
    for tick in ticks {
        let x = bar.left + shades.darkness(tick.value) * KEY_WIDTH;
        canvas.line(vec![(x, bar.bottom), (x, bar.bottom + 3.0)], 1.0, Colour::AXIS);
        canvas.text(&tick.label, (x, names), Align::Centre, TextStyle::SMALL);
    }
    let beside = bar.left - 2.0 * GAP;
    if maps.iter().any(HeatMap::has_absent) {
        canvas.text(ABSENT, (beside, bar.bottom), Align::Right, TextStyle::SMALL);
        // Browsers without the font take a wider one.
        let right = beside - TextStyle::SMALL.width_of(ABSENT) * 1.15 - GAP / 2.0;
        canvas.fill(Rect { left: right - 14.0, right, ..bar }, Colour::ABSENT);
    }
    if matches!(shades, Shades::LogCount { .. }) {
        canvas.text("logarithmic", (beside, names), Align::Right, TextStyle::SMALL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canvas::Shape;

    #[test]
    fn an_instance_that_is_not_there_is_grey_until_the_run_ends() {
        let rows = [[1.0, f64::NAN, f64::NAN, f64::NAN], [0.0, 1.0, 1.0, f64::NAN]];
        let map = HeatMap {
            title: String::new(),
            rows: rows.map(|row| (String::new(), row.to_vec())).into(),
            shades: Shades::Share,
            x: Axis::time("", 4.0),
        };
        let mut canvas = Canvas::new(400.0, 100.0);
        map.draw(&mut canvas, Rect { left: 0.0, top: 0.0, right: 400.0, bottom: 100.0 }, 0.0);
        let ends = |wanted: Colour| -> Vec<(f64, f64)> {
            let of = |shape: &Shape| {
                let Shape::Fill { area, colour } = shape else { return None };
                (*colour == wanted).then_some((area.left.floor(), area.right.floor()))
            };
            canvas.shapes.iter().filter_map(of).collect()
        };
        assert_eq!(ends(Colour::ABSENT), [(100.0, 300.0)]);
        assert_eq!(ends(magnitude(1.0)), [(0.0, 100.0), (100.0, 300.0)]);

        let is_in_the_key = |map: HeatMap| {
            let mut canvas = Canvas::new(400.0, 100.0);
            draw_key(
                &[map],
                &mut canvas,
                Rect { left: 0.0, top: 0.0, right: 400.0, bottom: 100.0 },
            );
            let mut shapes = canvas.shapes.iter();
            shapes.any(|shape| matches!(shape, Shape::Fill { colour: Colour::ABSENT, .. }))
        };
        assert!(is_in_the_key(map.clone()));
        let ended = [[0.0, 1.0, f64::NAN, f64::NAN]; 2].map(|row| (String::new(), row.to_vec()));
        assert!(!is_in_the_key(HeatMap { rows: ended.into(), ..map }));
    }
}

//! A grid of ratios: a row a case, a column a policy, the number in each field; colour is the second way to read it.

use std::collections::BTreeMap;

use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::element::{Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::axis::Axis;
use crate::canvas::{Canvas, Rect, TextStyle};
use crate::chart::{draw_axes, fine};
use crate::colour::{self, Colour};

/// Least width of a field: the number fits.
const FIELD_WIDTH: f64 = 36.0;
const FIELD_HEIGHT: f64 = 22.0;
/// Between a name and its row or column.
const GAP: f64 = 8.0;
const NUMBER: TextStyle = TextStyle { size: 12.0, bold: false, colour: Colour::INK };

/// Ratios of policies to the best heuristic.
#[derive(Debug)]
pub(crate) struct RatioGrid<'a> {
    pub(crate) title: &'a str,
    /// From the left; those without any ratio are left out.
    pub(crate) policies: &'a [&'a str],
    /// From the top.
    pub(crate) rows: &'a [&'a str],
    /// By policy and place of the row; a field without one stays empty.
    pub(crate) ratios: &'a BTreeMap<(&'a str, usize), f64>,
}

impl RatioGrid<'_> {
    /// At least `width` wide.
    pub(crate) fn draw(&self, width: f64) -> Canvas {
        let has_ratio = |policy: &&str| self.ratios.keys().any(|(name, _)| name == policy);
        let policies: Vec<&str> = self.policies.iter().copied().filter(has_ratio).collect();
        // Browsers without the font take a wider one.
        let width_of = |name: &&str| TextStyle::SMALL.width_of(name) * 1.12;
        let longest = |names: &[&str]| names.iter().map(width_of).fold(0.0_f64, f64::max) + GAP;
        let (names, head) = (longest(self.rows), longest(&policies));
        let width = width.max(40.0 + names + policies.len() as f64 * FIELD_WIDTH);
        let height = self.rows.len() as f64 * FIELD_HEIGHT;
        let mut canvas = Canvas::new(width, 96.0 + head + height);
        let limit = colour::MOST_RATIO;
        let subtitle = format!(
            "1 is the best heuristic, above is slower; colours are strongest from {limit} and from 1/{limit} on; best first, yardsticks last"
        );
        let area =
            canvas.heading(canvas.area(), self.title, &subtitle).inset(names, head, 0.0, 0.0);
        // A few policies do not need all the room.
        let field = (area.width() / policies.len().max(1) as f64).min(90.0);

        for (column, policy) in policies.iter().enumerate() {
            let middle = area.left + (column as f64 + 0.5) * field;
            let at = (middle + TextStyle::SMALL.size * 0.35, area.top - GAP);
            canvas.upright_text(policy, at, TextStyle::SMALL);
        }
        let right = area.left + policies.len() as f64 * field;
        let frame = Rect { right, ..area }.split_top(height).0;
        self.draw_fields(&mut canvas, frame, names, &policies);
        canvas
    }

    fn draw_fields(&self, canvas: &mut Canvas, frame: Rect, names: f64, policies: &[&str]) {
        // Their names stand upright above: plotters would centre them on the marks.
        let columns = Axis::rows(policies.iter().copied());
        let rows = Axis::rows(self.rows.iter().copied());
        let centred = NUMBER.in_chart().pos(Pos::new(HPos::Center, VPos::Center));
        canvas.plot(frame.inset(-names, 0.0, 0.0, 0.0), |root| {
            let mut chart = ChartBuilder::on(root)
                .set_label_area_size(LabelAreaPosition::Left, fine(names))
                .build_cartesian_2d(columns, rows)?;
            draw_axes(&mut chart, false)?;
            for row in 0..self.rows.len() {
                for (column, policy) in policies.iter().enumerate() {
                    let Some(ratio) = self.ratios.get(&(*policy, row)) else { continue };
                    let (left, bottom) = (column as f64, (self.rows.len() - 1 - row) as f64);
                    let corners = [(left, bottom), (left + 1.0, bottom + 1.0)];
                    let mut field = Rectangle::new(corners, colour::ratio(*ratio).filled());
                    let gap = fine(0.5) as u32;
                    field.set_margin(gap, gap, gap, gap);
                    chart.draw_series([field])?;
                    let middle = (left + 0.5, bottom + 0.5);
                    chart.draw_series([Text::new(written(*ratio), middle, centred.clone())])?;
                }
            }
            Ok(())
        });
    }
}

/// As short as the field is narrow.
fn written(ratio: f64) -> String {
    match ratio {
        ..9.995 => format!("{ratio:.2}"),
        ..99.95 => format!("{ratio:.1}"),
        ..9999.5 => format!("{ratio:.0}"),
        _ => ">9999".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_short() {
        let texts = [0.512, 1.0, 9.996, 312.4, 1e9].map(written);
        assert_eq!(texts, ["0.51", "1.00", "10.0", "312", ">9999"]);
    }
}

//! Mean TTFT over that of the cell's best heuristic: a row a cell, a column a policy, the best one first.
//!
//! All policies, not only those of the diagrams, and the number in each field: colour is the second way to
//! read it.

use std::collections::BTreeMap;

use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::element::{Rectangle, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::{SweepView, WIDTH};
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

pub(crate) fn draw(view: &SweepView<'_>) -> Canvas {
    let ratios = ratios(view);
    let has_ratio = |policy: &&str| ratios.keys().any(|(name, _)| name == policy);
    let policies: Vec<&str> = view.ranking.iter().copied().filter(has_ratio).collect();
    // Browsers without the font take a wider one.
    let width_of = |name: &str| TextStyle::SMALL.width_of(name) * 1.12;
    let names = view.cells.iter().map(|cell| width_of(&cell.id)).fold(0.0_f64, f64::max) + GAP;
    let head = policies.iter().map(|policy| width_of(policy)).fold(0.0_f64, f64::max) + GAP;
    let width = WIDTH.max(40.0 + names + policies.len() as f64 * FIELD_WIDTH);
    let mut canvas = Canvas::new(width, 96.0 + head + view.cells.len() as f64 * FIELD_HEIGHT);
    let title = "Mean TTFT over that of the cell's best heuristic";
    let limit = colour::MOST_RATIO;
    let subtitle = format!(
        "1 is the best heuristic, above is slower; colours are strongest from {limit} and from 1/{limit} on; best first, yardsticks last"
    );
    let area = canvas.heading(canvas.area(), title, &subtitle).inset(names, head, 0.0, 0.0);
    // A few policies do not need all the room.
    let field = (area.width() / policies.len().max(1) as f64).min(90.0);

    for (column, policy) in policies.iter().enumerate() {
        let middle = area.left + (column as f64 + 0.5) * field;
        let at = (middle + TextStyle::SMALL.size * 0.35, area.top - GAP);
        canvas.upright_text(policy, at, TextStyle::SMALL);
    }
    let frame = Rect { right: area.left + policies.len() as f64 * field, ..area }
        .split_top(view.cells.len() as f64 * FIELD_HEIGHT)
        .0;
    // Its names stand upright above: plotters would centre them on the marks.
    let columns = Axis::rows(policies.iter().copied());
    let rows = Axis::rows(view.cells.iter().map(|cell| cell.id.as_str()));
    let centred = NUMBER.in_chart().pos(Pos::new(HPos::Center, VPos::Center));
    canvas.plot(frame.inset(-names, 0.0, 0.0, 0.0), |root| {
        let mut chart = ChartBuilder::on(root)
            .set_label_area_size(LabelAreaPosition::Left, fine(names))
            .build_cartesian_2d(columns, rows)?;
        draw_axes(&mut chart, false)?;
        for (row, cell) in view.cells.iter().rev().enumerate() {
            for (column, policy) in policies.iter().enumerate() {
                let Some(ratio) = ratios.get(&(*policy, cell.index)) else { continue };
                let (left, bottom) = (column as f64, row as f64);
                let corners = [(left, bottom), (left + 1.0, bottom + 1.0)];
                let mut cell = Rectangle::new(corners, colour::ratio(*ratio).filled());
                let gap = fine(0.5) as u32;
                cell.set_margin(gap, gap, gap, gap);
                chart.draw_series([cell])?;
                let number =
                    Text::new(written(*ratio), (left + 0.5, bottom + 0.5), centred.clone());
                chart.draw_series([number])?;
            }
        }
        Ok(())
    });
    canvas
}

/// By policy and cell.
fn ratios<'a>(view: &SweepView<'a>) -> BTreeMap<(&'a str, u32), f64> {
    let ratio = |row: &'a lodestar_scenarios::sweep::ComparisonRow| {
        Some(((row.policy.as_str(), row.cell.index), row.mean_ratio_to_best?.value))
    };
    view.overview.comparison.iter().filter_map(ratio).collect()
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

//! Mean TTFT over that of the cell's best heuristic: a row a cell, a column a policy.
//!
//! All policies, not only those of the diagrams, and the number in each field: colour is the second way to
//! read it.

use std::collections::BTreeMap;

use super::{SweepView, WIDTH};
use crate::canvas::{Align, Canvas, Rect, TextStyle};
use crate::colour::{self, Colour};

/// Least width of a field: the number fits.
const FIELD_WIDTH: f64 = 36.0;
const FIELD_HEIGHT: f64 = 22.0;
/// Between a name and its row or column.
const GAP: f64 = 8.0;
const NUMBER: TextStyle = TextStyle { size: 12.0, bold: false, colour: Colour::INK };

pub(crate) fn draw(view: &SweepView<'_>) -> Canvas {
    let ratios = ratios(view);
    let mut policies: Vec<&str> = ratios.keys().map(|(policy, _)| *policy).collect();
    policies.dedup();
    // Browsers without the font take a wider one.
    let width_of = |name: &str| TextStyle::SMALL.width_of(name) * 1.12;
    let names = view.cells.iter().map(|cell| width_of(&cell.id)).fold(0.0_f64, f64::max) + GAP;
    let head = policies.iter().map(|policy| width_of(policy)).fold(0.0_f64, f64::max) + GAP;
    let width = WIDTH.max(40.0 + names + policies.len() as f64 * FIELD_WIDTH);
    let mut canvas = Canvas::new(width, 96.0 + head + view.cells.len() as f64 * FIELD_HEIGHT);
    let title = "Mean TTFT over that of the cell's best heuristic";
    let subtitle =
        "1 is the best heuristic; above 1 is slower, below 1 is faster; stronger colour, further";
    let area = canvas.heading(canvas.area(), title, subtitle).inset(names, head, 0.0, 0.0);
    // A few policies do not need all the room.
    let field = (area.width() / policies.len().max(1) as f64).min(90.0);

    for (column, policy) in policies.iter().enumerate() {
        let middle = area.left + (column as f64 + 0.5) * field;
        let at = (middle + TextStyle::SMALL.size * 0.35, area.top - GAP);
        canvas.upright_text(policy, at, TextStyle::SMALL);
    }
    for (row, cell) in view.cells.iter().enumerate() {
        let top = area.top + row as f64 * FIELD_HEIGHT;
        let baseline = top + FIELD_HEIGHT / 2.0 + NUMBER.size * 0.35;
        canvas.text(&cell.id, (area.left - GAP, baseline), Align::Right, TextStyle::SMALL);
        for (column, policy) in policies.iter().enumerate() {
            let Some(ratio) = ratios.get(&(*policy, cell.index)) else { continue };
            let left = area.left + column as f64 * field;
            let whole = Rect { left, top, right: left + field, bottom: top + FIELD_HEIGHT };
            canvas.fill(whole.inset(0.5, 0.5, 0.5, 0.5), colour::ratio(*ratio));
            let middle = (left + field / 2.0, baseline);
            canvas.text(&written(*ratio), middle, Align::Centre, NUMBER);
        }
    }
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

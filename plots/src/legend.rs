//! Which colour is which, in rows above the panels.
//!
//! Not inside a panel, where it would sooner or later lie on the data.

use crate::canvas::{Align, Canvas, Rect, TextStyle};
use crate::colour::Colour;

/// Length of the line that shows the colour.
const SAMPLE: f64 = 26.0;
/// Between sample and name.
const GAP: f64 = 7.0;
/// Between entries.
const SPACE: f64 = 22.0;
const ROW: f64 = 22.0;

/// Draws the entries at the top of `area`, as many in a row as fit, and returns what is left of it.
pub(crate) fn draw<'a>(
    canvas: &mut Canvas,
    area: Rect,
    entries: impl Iterator<Item = (&'a str, Colour)>,
) -> Rect {
    let (mut x, mut y) = (area.left, area.top + ROW / 2.0);
    for (name, colour) in entries {
        let width = SAMPLE + GAP + TextStyle::BODY.width_of(name);
        if x > area.left && x + width > area.right {
            (x, y) = (area.left, y + ROW);
        }
        canvas.line(vec![(x, y), (x + SAMPLE, y)], 4.0, colour);
        let baseline = y + TextStyle::BODY.size * 0.35;
        canvas.text(name, (x + SAMPLE + GAP, baseline), Align::Left, TextStyle::BODY);
        x += width + SPACE;
    }
    area.split_top(y + ROW / 2.0 + 10.0 - area.top).1
}

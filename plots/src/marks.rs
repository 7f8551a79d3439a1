//! Where something happens along an axis: an upright line, and above it a label to its right.
//!
//! Labels that would overlap stand in several rows, an earlier one above a later one: so no line goes through a label.

use plotters::element::{EmptyElement, PathElement, Text};
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::axis::{Axis, Tick};
use crate::canvas::TextStyle;
use crate::chart::{Chart, Drawn, fine};
use crate::colour::Colour;

/// Height of a row of labels.
pub(crate) const ROW: f64 = 15.0;
/// From a line to its label.
const GAP: f64 = 4.0;
/// How far a line reaches into the row of its label.
const POLE: f64 = 11.0;

impl Axis {
    /// With marks, ascending.
    pub(crate) fn with_marks(mut self, marks: Vec<Tick>) -> Self {
        self.marks = marks;
        self
    }

    /// What labels of marks need to the right of the axis, if both have `room` together.
    pub(crate) fn mark_overhang(&self, room: f64) -> f64 {
        // An axis so long ends where the label does.
        let longest = |mark: &Tick| (room - width_of(&mark.label)) / self.position(mark.value);
        let length = self.marks.iter().map(longest).fold(room, f64::min);
        // A very long label does not take more than half.
        (room - length).min(room / 2.0)
    }

    /// Height of the labels of marks above an axis so long.
    pub(crate) fn marks_height(&self, length: f64) -> f64 {
        let rows = self.mark_rows(length).into_iter().flatten();
        rows.max().map_or(0.0, |row| (row + 1) as f64 * ROW)
    }

    /// The row of each mark that has a label, from the lowest.
    fn mark_rows(&self, length: f64) -> Vec<Option<usize>> {
        // Where the next label or line to the right begins, by row.
        let mut free_until: Vec<f64> = Vec::new();
        let mut rows = vec![None; self.marks.len()];
        for (mark, place) in self.marks.iter().zip(&mut rows).rev() {
            if mark.label.is_empty() {
                continue;
            }
            let at = self.position(mark.value) * length;
            let end = at + width_of(&mark.label);
            let is_free = |until: &f64| end <= *until;
            let row = free_until.iter().position(is_free).unwrap_or(free_until.len());
            free_until.resize(free_until.len().max(row + 1), at);
            free_until[..=row].fill(at);
            *place = Some(row);
        }
        rows
    }

    /// Draws the marks of this horizontal axis, which is so long, from one end of the vertical one to the other.
    pub(crate) fn draw_marks(
        &self,
        chart: &mut Chart<'_>,
        [low, high]: [f64; 2],
        length: f64,
    ) -> Drawn {
        let style = TextStyle::SMALL.in_chart().pos(Pos::new(HPos::Left, VPos::Bottom));
        for (mark, row) in self.marks.iter().zip(self.mark_rows(length)) {
            let top = (mark.value, high);
            // White on either side: the line is seen on dark shades, too.
            for (colour, width) in [(Colour::WHITE, 3.0), (Colour::MUTED, 1.5)] {
                let line = PathElement::new([(mark.value, low), top], colour.stroke(width));
                chart.draw_series([line])?;
            }
            let Some(row) = row else { continue };
            let bottom = row as f64 * ROW;
            let pole = [(0, 0), (0, -fine(bottom + POLE))];
            let label = Text::new(mark.label.clone(), (fine(GAP), -fine(bottom)), style.clone());
            let pole = PathElement::new(pole, Colour::MUTED.stroke(1.5));
            chart.draw_series([EmptyElement::at(top) + pole + label])?;
        }
        Ok(())
    }
}

/// Of a label with its distance from the line.
fn width_of(label: &str) -> f64 {
    GAP + TextStyle::SMALL.width_of(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(marks: &[(f64, &str)]) -> Axis {
        let tick =
            |(value, label): &(f64, &str)| Tick { value: *value, label: (*label).to_owned() };
        Axis::time("", 100.0).with_marks(marks.iter().map(tick).collect())
    }

    #[test]
    fn a_label_in_the_way_of_another_or_of_its_line_stands_above_it() {
        let axis = axis(&[
            (10.0, "first"),
            (12.0, "second"),
            (13.0, ""),
            (14.0, "third"),
            (80.0, "far away"),
        ]);
        let rows = axis.mark_rows(400.0);
        assert_eq!(rows, [Some(2), Some(1), None, Some(0), Some(0)]);
        assert!((axis.marks_height(400.0) - 3.0 * ROW).abs() < 1e-12);
        // Its line goes up through the lowest row, in which there would be room for the first one.
        let through = self::axis(&[(10.0, "one"), (16.0, "a long label"), (30.0, "two")]);
        assert_eq!(through.mark_rows(200.0), [Some(2), Some(1), Some(0)]);
    }

    #[test]
    fn an_axis_is_shorter_where_its_last_label_would_not_fit() {
        let width = width_of("the end");
        assert!((axis(&[(100.0, "the end")]).mark_overhang(400.0) - width).abs() < 1e-9);
        assert!(axis(&[(0.0, "the start")]).mark_overhang(400.0).abs() < 1e-9);
        assert!((axis(&[(100.0, &"long ".repeat(99))]).mark_overhang(400.0) - 200.0).abs() < 1e-9);
    }
}

//! One diagram of a figure: two axes and what is drawn between them.
//!
//! A chart of plotters, but for the titles: that of the vertical axis stands above it, where it can be read without
//! turning the head, and plotters would write that of the horizontal one twice.

use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::element::{Circle, EmptyElement, Text};
use plotters::series::LineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::axis::Axis;
use crate::canvas::{Align, Canvas, Point, Rect, TextStyle};
use crate::chart::{Chart, Drawn, GAP, draw_axes, fine};
use crate::colour::Colour;
use crate::marks;

/// Axes and series.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) series: Vec<Series>,
}

/// Points of one thing, in the values of the axes.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    pub(crate) points: Vec<Point>,
    pub(crate) colour: Colour,
}

/// Height of the title and the vertical axis' title above the frame, with a row of labels of marks.
const HEAD: f64 = 52.0;
/// Height of the labels and the title of the horizontal axis below the frame.
const FOOT: f64 = 42.0;
/// Radius of a point that is not connected.
const DOT: f64 = 2.0;
/// Of a point that stands for a whole policy.
const BIG_DOT: f64 = 5.0;

impl Panel {
    pub(crate) fn draw(&self, canvas: &mut Canvas, area: Rect) {
        canvas.text(&self.title, (area.left, area.top + 14.0), Align::Left, TextStyle::HEADING);
        canvas.text(&self.y.title, (area.left, area.top + 34.0), Align::Left, TextStyle::SMALL);
        let frame = self.frame(area);
        let below = (frame.middle(), area.bottom - 3.0);
        canvas.text(&self.x.title, below, Align::Centre, TextStyle::SMALL);
        self.chart(canvas, area, |chart| {
            draw_axes(chart, true)?;
            self.x.draw_marks(chart, self.y.ends(), frame.width())
        });
        self.draw_lines(canvas, area, &self.series);
        self.draw_lines(canvas, area, &pieces_of_equal_lines(&self.series));
    }

    /// Draws lines over what [`Self::draw`] drew into the same area.
    pub(crate) fn draw_lines(&self, canvas: &mut Canvas, area: Rect, lines: &[Series]) {
        self.chart(canvas, area, |chart| {
            for Series { points, colour } in lines {
                let line = LineSeries::new(points.iter().copied(), colour.stroke(2.0));
                chart.draw_series(line)?;
            }
            Ok(())
        });
    }

    /// Has the frames of panels of one width begin at the same place.
    pub(crate) fn align(panels: &mut [Self]) {
        let widest = panels.iter().map(Self::label_width).fold(0.0_f64, f64::max);
        for panel in panels {
            panel.y.label_width = widest;
        }
    }

    /// Height that panels of this width need beyond that of others, for labels of marks.
    pub(crate) fn extra_height(&self, width: f64) -> f64 {
        let area = Rect { left: 0.0, top: 0.0, right: width, bottom: 0.0 };
        self.frame(area).top - HEAD
    }

    /// Draws points that are not connected, over what [`Self::draw`] drew into the same area.
    pub(crate) fn draw_points(&self, canvas: &mut Canvas, area: Rect, series: &Series) {
        self.draw_circles(canvas, area, series, DOT);
    }

    /// The same, of points that each stand for a whole policy.
    pub(crate) fn draw_dots(&self, canvas: &mut Canvas, area: Rect, series: &Series) {
        self.draw_circles(canvas, area, series, BIG_DOT);
    }

    fn draw_circles(&self, canvas: &mut Canvas, area: Rect, series: &Series, radius: f64) {
        let style = series.colour.filled();
        let circle = |point: &Point| Circle::new(*point, fine(radius), style);
        self.chart(canvas, area, |chart| {
            chart.draw_series(series.points.iter().map(circle)).map(|_| ())
        });
    }

    /// A name above a point, to its left if it is near the right end.
    pub(crate) fn draw_label(&self, canvas: &mut Canvas, area: Rect, point: Point, label: &str) {
        self.chart(canvas, area, |chart| {
            let left = f64::from(chart.backend_coord(&point).0) / f64::from(fine(1.0));
            let is_last = left + GAP + TextStyle::SMALL.width_of(label) > self.frame(area).right;
            let (shift, side) = if is_last { (-GAP, HPos::Right) } else { (GAP, HPos::Left) };
            let style = TextStyle::SMALL.in_chart().pos(Pos::new(side, VPos::Bottom));
            let text = Text::new(label.to_owned(), (fine(shift), -fine(GAP / 2.0)), style);
            chart.draw_series([EmptyElement::at(point) + text]).map(|_| ())
        });
    }

    /// Has plotters draw into the frame of an area.
    fn chart(&self, canvas: &mut Canvas, area: Rect, draw: impl FnOnce(&mut Chart<'_>) -> Drawn) {
        let frame = self.frame(area);
        let x = self.x.legible(frame.width(), |label| TextStyle::SMALL.width_of(label) + GAP);
        let y = self.y.legible(frame.height(), |_| TextStyle::SMALL.size);
        canvas.plot(area, |root| {
            let mut chart = ChartBuilder::on(root)
                .margin_top(fine(frame.top - area.top))
                .margin_right(fine(area.right - frame.right))
                .set_label_area_size(LabelAreaPosition::Left, fine(frame.left - area.left))
                .set_label_area_size(LabelAreaPosition::Bottom, fine(area.bottom - frame.bottom))
                .build_cartesian_2d(x, y)?;
            draw(&mut chart)
        });
    }

    /// Where the values lie within an area.
    fn frame(&self, area: Rect) -> Rect {
        let labels = self.label_width();
        let room = area.width() - labels - GAP;
        // What the last label of the horizontal axis needs beyond the axis' end.
        let overhang = self.x.ticks.last().map_or(0.0, |tick| {
            let inside = (1.0 - self.x.position(tick.value)) * room;
            (TextStyle::SMALL.width_of(&tick.label) / 2.0 - inside).max(0.0)
        });
        let overhang = overhang.max(self.x.mark_overhang(room));
        let more_rows = (self.x.marks_height(room - overhang) - marks::ROW).max(0.0);
        area.inset(labels + GAP, HEAD + more_rows, overhang, FOOT)
    }

    /// Room for the labels of the vertical axis.
    fn label_width(&self) -> f64 {
        let widths = self.y.ticks.iter().map(|tick| TextStyle::SMALL.width_of(&tick.label));
        widths.fold(self.y.label_width, f64::max)
    }
}

/// Pieces of lines that are equal, from point to point each in the turn of another one: of policies that did the same every
/// one is seen.
fn pieces_of_equal_lines(lines: &[Series]) -> Vec<Series> {
    let mut pieces = Vec::new();
    for (index, Series { points, colour }) in lines.iter().enumerate() {
        let is_equal = |other: &&Series| other.points == *points;
        let before = lines[..index].iter().filter(is_equal).count();
        let all = before + lines[index..].iter().filter(is_equal).count();
        if all > 1 {
            let turns = points.windows(2).skip(before).step_by(all);
            pieces.extend(turns.map(|ends| Series { points: ends.to_vec(), colour: *colour }));
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lines_take_turns() {
        let line = |height: f64, index| Series {
            points: (0..5).map(|x| (f64::from(x), height)).collect(),
            colour: crate::colour::series(index),
        };
        let pieces = pieces_of_equal_lines(&[line(1.0, 0), line(2.0, 1), line(1.0, 2)]);
        let starts = |index: usize| -> Vec<f64> {
            let colour = crate::colour::series(index);
            let own = pieces.iter().filter(|piece| piece.colour == colour);
            own.map(|piece| piece.points[0].0).collect()
        };
        assert_eq!([starts(0), starts(1), starts(2)], [vec![0.0, 2.0], vec![], vec![1.0, 3.0]]);
    }
}

//! One diagram of a figure: two axes and what is drawn between them.
//!
//! A chart of plotters, but for the titles: that of the vertical axis stands above it, where it can be read without
//! turning the head, and plotters would write that of the horizontal one twice.

use plotters::chart::{ChartBuilder, LabelAreaPosition};
use plotters::element::{Circle, EmptyElement, PathElement, Text};
use plotters::series::LineSeries;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::axis::Axis;
use crate::canvas::{Align, Canvas, Point, Rect, TextStyle};
use crate::chart::{Chart, Drawn, GAP, draw_axes, fine};
use crate::colour::Colour;

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

/// Height of the title and the vertical axis' title above the frame.
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
        let below = (self.frame(area).middle(), area.bottom - 3.0);
        canvas.text(&self.x.title, below, Align::Centre, TextStyle::SMALL);
        self.chart(canvas, area, |chart| {
            draw_axes(chart, true)?;
            for series in &self.series {
                let line =
                    LineSeries::new(series.points.iter().copied(), series.colour.stroke(2.0));
                chart.draw_series(line)?;
            }
            Ok(())
        });
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

    /// Draws an upright line at each time, over what [`Self::draw`] drew into the same area; and its label
    /// above the frame, where no other label is in the way.
    pub(crate) fn draw_marks<'a>(
        &self,
        canvas: &mut Canvas,
        area: Rect,
        marks: impl Iterator<Item = (f64, &'a str)>,
    ) {
        let frame = self.frame(area);
        let style = TextStyle::SMALL.in_chart().pos(Pos::new(HPos::Left, VPos::Bottom));
        let mut free_from = f64::NEG_INFINITY;
        self.chart(canvas, area, |chart| {
            for (value, label) in marks {
                let ends = self.y.ends().map(|end| (value, end));
                chart.draw_series([PathElement::new(ends, Colour::MUTED.stroke(1.5))])?;
                let x = frame.left + self.x.position(value) * frame.width();
                let width = TextStyle::SMALL.width_of(label);
                // Near the right end, to the left of its line.
                let is_last = x + GAP / 2.0 + width > frame.right;
                let shift = if is_last { -GAP / 2.0 - width } else { GAP / 2.0 };
                if x + shift >= free_from.max(frame.left) {
                    let text = Text::new(label.to_owned(), (fine(shift), 0), style.clone());
                    chart.draw_series([EmptyElement::at(ends[1]) + text])?;
                    free_from = if is_last { x } else { x + shift + width };
                }
            }
            Ok(())
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
        let label_widths = self.y.ticks.iter().map(|tick| TextStyle::SMALL.width_of(&tick.label));
        let labels = label_widths.fold(0.0_f64, f64::max);
        // What the last label of the horizontal axis needs beyond the axis' end.
        let overhang = self.x.ticks.last().map_or(0.0, |tick| {
            let inside = (1.0 - self.x.position(tick.value)) * (area.width() - labels - GAP);
            (TextStyle::SMALL.width_of(&tick.label) / 2.0 - inside).max(0.0)
        });
        area.inset(labels + GAP, HEAD, overhang, FOOT)
    }
}

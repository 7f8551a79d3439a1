//! One diagram of a figure: two axes and what is drawn between them.
//!
//! The title of the vertical axis stands above it, upright, where it can be read without turning the
//! head. Labels that would touch are left out.

use crate::axis::Axis;
use crate::canvas::{Align, Canvas, Point, Rect, TextStyle};
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
/// Half the side of a point that is not connected.
const DOT: f64 = 1.75;
/// Of a point that stands for a whole policy.
const BIG_DOT: f64 = 4.5;
/// Between a label and what is next to it.
const GAP: f64 = 8.0;

impl Panel {
    pub(crate) fn draw(&self, canvas: &mut Canvas, area: Rect) {
        let frame = self.frame(area);
        canvas.text(&self.title, (area.left, area.top + 14.0), Align::Left, TextStyle::HEADING);
        canvas.text(&self.y.title, (area.left, area.top + 34.0), Align::Left, TextStyle::SMALL);
        self.draw_horizontal_grid(canvas, frame);
        draw_x_axis(canvas, &self.x, frame);
        let below = ((frame.left + frame.right) / 2.0, area.bottom - 3.0);
        canvas.text(&self.x.title, below, Align::Centre, TextStyle::SMALL);
        for series in &self.series {
            let place = |point: &Point| self.place(frame, *point);
            canvas.line(series.points.iter().map(place).collect(), 2.0, series.colour);
        }
    }

    /// Draws points that are not connected, over what [`Self::draw`] drew into the same area.
    pub(crate) fn draw_points(&self, canvas: &mut Canvas, area: Rect, series: &Series) {
        self.draw_squares(canvas, area, series, DOT);
    }

    /// The same, of points that each stand for a whole policy.
    pub(crate) fn draw_dots(&self, canvas: &mut Canvas, area: Rect, series: &Series) {
        self.draw_squares(canvas, area, series, BIG_DOT);
    }

    /// A name above a point, to its left if it is near the right end.
    pub(crate) fn draw_label(&self, canvas: &mut Canvas, area: Rect, point: Point, label: &str) {
        let frame = self.frame(area);
        let (x, y) = self.place(frame, point);
        let is_last = x + GAP + TextStyle::SMALL.width_of(label) > frame.right;
        let (at, align) = if is_last { (x - GAP, Align::Right) } else { (x + GAP, Align::Left) };
        canvas.text(label, (at, y - GAP), align, TextStyle::SMALL);
    }

    fn draw_squares(&self, canvas: &mut Canvas, area: Rect, series: &Series, half: f64) {
        let frame = self.frame(area);
        for point in &series.points {
            let (x, y) = self.place(frame, *point);
            let dot = Rect { left: x, top: y, right: x, bottom: y };
            canvas.fill(dot.inset(-half, -half, -half, -half), series.colour);
        }
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
        let mut free_from = f64::NEG_INFINITY;
        for (value, label) in marks {
            let x = frame.left + self.x.position(value) * frame.width();
            canvas.line(vec![(x, frame.top), (x, frame.bottom)], 1.5, Colour::MUTED);
            let width = TextStyle::SMALL.width_of(label);
            // Near the right end, to the left of its line.
            let is_last = x + GAP / 2.0 + width > frame.right;
            let left = if is_last { x - GAP / 2.0 - width } else { x + GAP / 2.0 };
            if left >= free_from.max(frame.left) {
                let at = (left, frame.top - 4.0);
                canvas.text(label, at, Align::Left, TextStyle::SMALL);
                free_from = if is_last { x } else { left + width };
            }
        }
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

    fn place(&self, frame: Rect, (x, y): Point) -> Point {
        let right = frame.left + self.x.position(x) * frame.width();
        (right, frame.bottom - self.y.position(y) * frame.height())
    }

    fn draw_horizontal_grid(&self, canvas: &mut Canvas, frame: Rect) {
        let mut free_below = f64::INFINITY;
        for tick in &self.y.ticks {
            let y = frame.bottom - self.y.position(tick.value) * frame.height();
            canvas.line(vec![(frame.left, y), (frame.right, y)], 1.0, Colour::GRID);
            let half = TextStyle::SMALL.size * 0.5;
            if y + half <= free_below {
                let at = (frame.left - GAP, y + TextStyle::SMALL.size * 0.35);
                canvas.text(&tick.label, at, Align::Right, TextStyle::SMALL);
                free_below = y - half;
            }
        }
    }
}

/// The line below a frame, with its ticks and labels but without its title.
pub(crate) fn draw_x_axis(canvas: &mut Canvas, axis: &Axis, frame: Rect) {
    canvas.line(vec![(frame.left, frame.bottom), (frame.right, frame.bottom)], 1.0, Colour::AXIS);
    let mut free_from = f64::NEG_INFINITY;
    for tick in &axis.ticks {
        let x = frame.left + axis.position(tick.value) * frame.width();
        canvas.line(vec![(x, frame.bottom), (x, frame.bottom + 4.0)], 1.0, Colour::AXIS);
        let half = TextStyle::SMALL.width_of(&tick.label) / 2.0;
        if x - half >= free_from {
            canvas.text(&tick.label, (x, frame.bottom + 18.0), Align::Centre, TextStyle::SMALL);
            free_from = x + half + GAP;
        }
    }
}

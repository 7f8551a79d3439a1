//! Plotters' charts on a canvas: a backend that keeps what is drawn as shapes.
//!
//! Drawn straight to a file's own backend, a chart would be drawn once for SVG and once for PNG, with edges and
//! baselines that differ ([`crate::render`] makes them alike). Plotters' coordinates are integers: a pixel of
//! the canvas is [`FINENESS`] of them on a side.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;

use plotters::chart::{ChartContext, LabelAreaPosition};
use plotters::coord::Shift;
use plotters::coord::cartesian::Cartesian2d;
use plotters::drawing::{DrawingArea, DrawingAreaErrorKind};
use plotters::style::text_anchor::{HPos, VPos};
use plotters::style::{Color as _, FontStyle, FontTransform, RGBColor, ShapeStyle, TRANSPARENT};
use plotters_backend::{
    BackendColor, BackendStyle, BackendTextStyle, DrawingBackend, DrawingErrorKind,
};

use crate::axis::Axis;
use crate::canvas::{Align, Canvas, Point, Rect, Shape, Text, TextStyle};
use crate::colour::Colour;
use crate::font;

/// Plotters' pixels along the side of one of the canvas.
pub(crate) const FINENESS: u32 = 4;

/// A chart with two axes.
pub(crate) type Chart<'a> = ChartContext<'a, Recorder, Cartesian2d<Axis, Axis>>;

/// Nothing can go wrong but what plotters itself refuses: a chart without room.
pub(crate) type Drawn = Result<(), DrawingAreaErrorKind<Infallible>>;

/// Between a label and what is next to it.
pub(crate) const GAP: f64 = 8.0;
/// Length of the marks along an axis; plotters leaves twice that to the labels.
const TICK: f64 = GAP / 2.0;

/// Draws the labels of the vertical axis, which has no line, with a grid where `has_grid`; and the horizontal axis.
pub(crate) fn draw_axes(chart: &mut Chart<'_>, has_grid: bool) -> Drawn {
    let mut vertical = chart.configure_mesh();
    vertical.disable_x_axis().disable_x_mesh().axis_style(TRANSPARENT);
    vertical.bold_line_style(Colour::GRID.stroke(1.0)).label_style(TextStyle::SMALL.in_chart());
    if !has_grid {
        vertical.disable_mesh();
    }
    vertical.set_tick_mark_size(LabelAreaPosition::Left, fine(TICK)).draw()?;
    let mut horizontal = chart.configure_mesh();
    horizontal.disable_y_axis().disable_mesh().axis_style(Colour::AXIS.stroke(1.0));
    horizontal.label_style(TextStyle::SMALL.in_chart());
    horizontal.set_tick_mark_size(LabelAreaPosition::Bottom, fine(TICK)).draw()
}

/// A length in plotters' pixels.
pub(crate) fn fine(length: f64) -> i32 {
    (length * f64::from(FINENESS)).round() as i32
}

impl Canvas {
    /// Has plotters draw into a part of the canvas.
    pub(crate) fn plot(
        &mut self,
        area: Rect,
        draw: impl FnOnce(&DrawingArea<Recorder, Shift>) -> Drawn,
    ) {
        let size = (fine(self.width) as u32, fine(self.height) as u32);
        let recorder = Rc::new(RefCell::new(Recorder { size, shapes: Vec::new() }));
        let whole = DrawingArea::from(&recorder);
        let corner = (fine(area.left), fine(area.top));
        let drawn = draw(&whole.shrink(corner, (fine(area.width()), fine(area.height()))));
        drawn.expect("every figure leaves its charts more room than their labels take");
        self.shapes.append(&mut recorder.borrow_mut().shapes);
    }
}

impl Colour {
    fn rgb(self) -> RGBColor {
        RGBColor(self.0, self.1, self.2)
    }

    /// For areas.
    pub(crate) fn filled(self) -> ShapeStyle {
        self.rgb().filled()
    }

    /// For lines of some width in pixels of the canvas.
    pub(crate) fn stroke(self, width: f64) -> ShapeStyle {
        ShapeStyle { filled: false, stroke_width: fine(width) as u32, ..self.filled() }
    }
}

impl TextStyle {
    /// For plotters.
    pub(crate) fn in_chart(&self) -> plotters::style::TextStyle<'static> {
        let style = if self.bold { FontStyle::Bold } else { FontStyle::Normal };
        let font = font::of_size(self.size * f64::from(FINENESS), style);
        plotters::style::TextStyle {
            color: self.colour.rgb().to_backend_color(),
            ..plotters::style::TextStyle::from(font)
        }
    }
}

/// Keeps shapes.
#[derive(Debug)]
pub(crate) struct Recorder {
    size: (u32, u32),
    shapes: Vec<Shape>,
}

type Kept = Result<(), DrawingErrorKind<Infallible>>;
type Coord = (i32, i32);

impl Recorder {
    fn keep(&mut self, color: BackendColor, shape: impl FnOnce(Colour) -> Shape) -> Kept {
        let (red, green, blue) = color.rgb;
        if color.alpha > 0.0 {
            self.shapes.push(shape(Colour(red, green, blue)));
        }
        Ok(())
    }
}

fn coarse((x, y): Coord) -> Point {
    let unit = f64::from(FINENESS);
    (f64::from(x) / unit, f64::from(y) / unit)
}

impl DrawingBackend for Recorder {
    type ErrorType = Infallible;

    fn get_size(&self) -> (u32, u32) {
        self.size
    }

    fn ensure_prepared(&mut self) -> Kept {
        Ok(())
    }

    fn present(&mut self) -> Kept {
        Ok(())
    }

    fn draw_pixel(&mut self, (x, y): Coord, color: BackendColor) -> Kept {
        let ((left, top), (right, bottom)) = (coarse((x, y)), coarse((x + 1, y + 1)));
        let area = Rect { left, top, right, bottom };
        self.keep(color, |colour| Shape::Fill { area, colour })
    }

    fn draw_line<S: BackendStyle>(&mut self, from: Coord, to: Coord, style: &S) -> Kept {
        self.draw_path([from, to], style)
    }

    fn draw_path<S: BackendStyle, I: IntoIterator<Item = Coord>>(
        &mut self,
        path: I,
        style: &S,
    ) -> Kept {
        let points: Vec<Point> = path.into_iter().map(coarse).collect();
        let width = f64::from(style.stroke_width()) / f64::from(FINENESS);
        if points.len() < 2 {
            return Ok(());
        }
        self.keep(style.color(), |colour| Shape::Line { points, width, colour })
    }

    /// Filled ones: there are no others in our charts.
    fn draw_rect<S: BackendStyle>(&mut self, from: Coord, to: Coord, style: &S, _: bool) -> Kept {
        let ((left, top), (right, bottom)) = (coarse(from), coarse(to));
        let area = Rect { left, top, right, bottom };
        self.keep(style.color(), |colour| Shape::Fill { area, colour })
    }

    /// Filled ones, too.
    fn draw_circle<S: BackendStyle>(
        &mut self,
        centre: Coord,
        radius: u32,
        style: &S,
        _: bool,
    ) -> Kept {
        let (at, radius) = (coarse(centre), f64::from(radius) / f64::from(FINENESS));
        self.keep(style.color(), |colour| Shape::Dot { at, radius, colour })
    }

    fn draw_text<S: BackendTextStyle>(&mut self, text: &str, style: &S, at: Coord) -> Kept {
        if text.is_empty() {
            return Ok(());
        }
        let size = style.size() / f64::from(FINENESS);
        let align = match style.anchor().h_pos {
            HPos::Left => Align::Left,
            HPos::Center => Align::Centre,
            HPos::Right => Align::Right,
        };
        // Of the font's line: three quarters are above the baseline.
        let above = match style.anchor().v_pos {
            VPos::Top => 0.76,
            VPos::Center => 0.35,
            VPos::Bottom => -0.24,
        };
        let (x, y) = coarse(at);
        let is_upright = matches!(style.transform(), FontTransform::Rotate270);
        let at = if is_upright { (x + above * size, y) } else { (x, y + above * size) };
        let bold = matches!(style.style(), FontStyle::Bold);
        self.keep(style.color(), |colour| {
            let style = TextStyle { size, bold, colour };
            Shape::Text(Text { text: text.to_owned(), at, align, style, is_upright })
        })
    }
}

#[cfg(test)]
mod tests {
    use plotters::element::{Circle, PathElement, Rectangle};
    use plotters::style::TRANSPARENT;

    use super::*;

    #[test]
    fn what_plotters_draws_is_kept_in_pixels_of_the_canvas() {
        let mut canvas = Canvas::new(100.0, 50.0);
        let area = Rect { left: 10.0, top: 20.0, right: 90.0, bottom: 40.0 };
        canvas.plot(area, |area| {
            area.draw(&PathElement::new([(0, 0), (8, 4)], Colour::INK.stroke(2.0)))?;
            area.draw(&PathElement::new([(0, 0), (8, 4)], TRANSPARENT))?;
            area.draw(&Rectangle::new([(0, 0), (4, 4)], Colour::GRID.filled()))?;
            area.draw(&Circle::new((4, 4), 6, Colour::AXIS.filled()))?;
            area.draw_text("", &TextStyle::SMALL.in_chart(), (0, 0))?;
            area.draw_text("above", &TextStyle::SMALL.in_chart(), (0, 0))
        });
        let cell = Rect { left: 10.0, top: 20.0, right: 11.0, bottom: 21.0 };
        let text = Text {
            text: "above".to_owned(),
            at: (10.0, 20.0 + 0.76 * 13.0),
            align: Align::Left,
            style: TextStyle::SMALL,
            is_upright: false,
        };
        let expected = [
            Shape::Line {
                points: vec![(10.0, 20.0), (12.0, 21.0)],
                width: 2.0,
                colour: Colour::INK,
            },
            Shape::Fill { area: cell, colour: Colour::GRID },
            Shape::Dot { at: (11.0, 21.0), radius: 1.5, colour: Colour::AXIS },
            Shape::Text(text),
        ];
        assert_eq!(canvas.shapes, expected);
    }
}

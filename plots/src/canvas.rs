//! What a figure is before it is a file: a list of shapes.
//!
//! Plotters' backends are types, so a figure drawn straight to them would be generic over each and be
//! drawn once for SVG and once for PNG. A list is drawn once, written twice, and can be looked at by a
//! test. Lengths are pixels of a figure at its nominal size, `y` grows downwards.

use crate::colour::Colour;
use crate::font;

/// A figure of some size, white where nothing is drawn.
#[derive(Clone, Debug)]
pub(crate) struct Canvas {
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) shapes: Vec<Shape>,
}

/// A position: to the right, down.
pub(crate) type Point = (f64, f64);

/// One thing to draw, over what came before it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// Connected segments.
    Line { points: Vec<Point>, width: f64, colour: Colour },
    /// A filled rectangle.
    Fill { area: Rect, colour: Colour },
    /// A filled circle.
    Dot { at: Point, radius: f64, colour: Colour },
    /// One line of text.
    Text(Text),
}

/// One line of text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Text {
    pub(crate) text: String,
    /// On the baseline: its left end, middle or right end.
    pub(crate) at: Point,
    pub(crate) align: Align,
    pub(crate) style: TextStyle,
    /// Reads upwards instead of to the right.
    pub(crate) is_upright: bool,
}

/// Which point of a text is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Centre,
    Right,
}

/// How a text looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TextStyle {
    /// The size of an em.
    pub(crate) size: f64,
    pub(crate) bold: bool,
    pub(crate) colour: Colour,
}

impl TextStyle {
    /// Titles of figures.
    pub(crate) const TITLE: Self = Self { size: 19.0, bold: true, colour: Colour::INK };
    /// Titles of panels.
    pub(crate) const HEADING: Self = Self { size: 15.5, bold: true, colour: Colour::INK };
    /// Legends and what must be read.
    pub(crate) const BODY: Self = Self { size: 14.0, bold: false, colour: Colour::INK };
    /// Axes, and what need not be.
    pub(crate) const SMALL: Self = Self { size: 13.0, bold: false, colour: Colour::MUTED };

    /// How wide a text is in this style, with a margin for viewers that have another font.
    pub(crate) fn width_of(&self, text: &str) -> f64 {
        let bold = if self.bold { 1.08 } else { 1.0 };
        font::width(text, self.size) * bold * 1.06
    }
}

/// A part of the canvas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rect {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) right: f64,
    pub(crate) bottom: f64,
}

impl Rect {
    pub(crate) fn width(&self) -> f64 {
        self.right - self.left
    }

    pub(crate) fn height(&self) -> f64 {
        self.bottom - self.top
    }

    /// From the left.
    pub(crate) fn middle(&self) -> f64 {
        f64::midpoint(self.left, self.right)
    }

    /// Smaller by these margins.
    pub(crate) fn inset(&self, left: f64, top: f64, right: f64, bottom: f64) -> Self {
        Self {
            left: self.left + left,
            top: self.top + top,
            right: self.right - right,
            bottom: self.bottom - bottom,
        }
    }

    /// The upper part of this height, and the rest.
    pub(crate) fn split_top(&self, height: f64) -> (Self, Self) {
        let border = self.top + height;
        (Self { bottom: border, ..*self }, Self { top: border, ..*self })
    }

    /// Equal cells, row by row, with a gap between neighbours.
    pub(crate) fn grid(&self, rows: usize, columns: usize, gap: Point) -> Vec<Self> {
        let width = (self.width() - gap.0 * (columns - 1) as f64) / columns as f64;
        let height = (self.height() - gap.1 * (rows - 1) as f64) / rows as f64;
        let cell = |index: usize| {
            let left = self.left + (index % columns) as f64 * (width + gap.0);
            let top = self.top + (index / columns) as f64 * (height + gap.1);
            Self { left, top, right: left + width, bottom: top + height }
        };
        (0..rows * columns).map(cell).collect()
    }
}

impl Canvas {
    pub(crate) fn new(width: f64, height: f64) -> Self {
        Self { width, height, shapes: Vec::new() }
    }

    /// The whole figure but a margin.
    pub(crate) fn area(&self) -> Rect {
        Rect { left: 0.0, top: 0.0, right: self.width, bottom: self.height }
            .inset(20.0, 18.0, 20.0, 18.0)
    }

    pub(crate) fn line(&mut self, points: Vec<Point>, width: f64, colour: Colour) {
        if points.len() > 1 {
            self.shapes.push(Shape::Line { points, width, colour });
        }
    }

    pub(crate) fn fill(&mut self, area: Rect, colour: Colour) {
        self.shapes.push(Shape::Fill { area, colour });
    }

    pub(crate) fn text(&mut self, text: &str, at: Point, align: Align, style: TextStyle) {
        let text = Text { text: text.to_owned(), at, align, style, is_upright: false };
        self.shapes.push(Shape::Text(text));
    }

    /// Text that reads upwards from `at`, for the names of narrow columns.
    pub(crate) fn upright_text(&mut self, text: &str, at: Point, style: TextStyle) {
        let text = Text { text: text.to_owned(), at, align: Align::Left, style, is_upright: true };
        self.shapes.push(Shape::Text(text));
    }

    /// A title and a line below it that says what is seen; what is left of the area.
    pub(crate) fn heading(&mut self, area: Rect, title: &str, subtitle: &str) -> Rect {
        self.text(title, (area.left, area.top + 16.0), Align::Left, TextStyle::TITLE);
        self.text(subtitle, (area.left, area.top + 37.0), Align::Left, TextStyle::SMALL);
        area.split_top(50.0).1
    }
}

//! From shapes to SVG and PNG.
//!
//! Plotters' coordinates are integers, and its thick lines have hard edges. Both files are therefore
//! drawn on a canvas four times as fine as the figure: the SVG states its nominal size in its header and
//! keeps the fine coordinates, the PNG is averaged down to twice the nominal size, for dense screens.

use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};

use plotters::backend::{BitMapBackend, DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontTransform, ShapeStyle, TextStyle};

use crate::canvas::{Align, Canvas, Point, Rect, Shape, Text};
use crate::chart::{FINENESS, fine};
use crate::colour::Colour;
use crate::font;

/// Pixels of the PNG a pixel of the figure.
const PNG_DENSITY: u32 = 2;

/// Why a figure could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the figure {path}: {problem}")]
pub struct PlotError {
    path: PathBuf,
    problem: String,
}

impl PlotError {
    pub(crate) fn new(path: &Path, problem: &dyn Display) -> Self {
        Self { path: path.to_owned(), problem: problem.to_string() }
    }
}

/// Writes `<stem>.svg` and `<stem>.png`.
pub(crate) fn save(canvas: &Canvas, stem: &Path) -> Result<(), PlotError> {
    let path = stem.with_added_extension("svg");
    fs::write(&path, svg(canvas)).map_err(|error| {
        let _ = fs::remove_file(&path);
        PlotError::new(&path, &error)
    })?;
    let path = stem.with_added_extension("png");
    write_png(canvas, &path)
}

/// The figure as an SVG document.
pub(crate) fn svg(canvas: &Canvas) -> String {
    let (width, height) = size_in(canvas, FINENESS);
    let drawn = format!(r#"width="{width}" height="{height}""#);
    let (width, height) = size_in(canvas, 1);
    document(canvas, true).replacen(&drawn, &format!(r#"width="{width}" height="{height}""#), 1)
}

/// The figure as an element of a page, whose style sheet has the font, the size and the background.
/// Colours stay attributes, which [`crate::colour::style_sheet`] turns into those of the page's theme.
pub(crate) fn inline_svg(canvas: &Canvas) -> String {
    let (width, height) = size_in(canvas, FINENESS);
    let document = document(canvas, false);
    let (_, elements) = document.split_once(">\n").expect("the tag ends");
    let family = format!(r#" font-family="{}""#, font::FAMILY.replace('\'', "&apos;"));
    let elements = elements
        .replace(&family, "")
        .replace(r#" opacity="1""#, "")
        .replace(r#" stroke="none" stroke-width="1"/>"#, "/>")
        .replace(r#" stroke="none"/>"#, "/>");
    // Below this width its texts could not be read; it scrolls instead.
    let least_rem = canvas.width / 20.0;
    format!(
        r#"<svg viewBox="0 0 {width} {height}" style="min-width:{least_rem:.1}rem" aria-hidden="true">{elements}"#
    )
}

fn document(canvas: &Canvas, has_background: bool) -> String {
    let mut document = String::new();
    let mut backend = SVGBackend::with_string(&mut document, size_in(canvas, FINENESS));
    let mut pen = SvgPen(&mut backend);
    let background = if has_background { fill_background(canvas, &mut pen) } else { Ok(()) };
    background.and_then(|()| draw(canvas, &mut pen)).expect("a String takes what is written to it");
    backend.present().expect("a String takes what is written to it");
    drop(backend);
    document
}

fn write_png(canvas: &Canvas, path: &Path) -> Result<(), PlotError> {
    const AVERAGED: u32 = FINENESS / PNG_DENSITY;
    let fine = size_in(canvas, FINENESS);
    let mut pixels = vec![0; (fine.0 * fine.1 * 3) as usize];
    let mut backend = BitMapBackend::with_buffer(&mut pixels, fine);
    let mut pen = BitmapPen(&mut backend);
    fill_background(canvas, &mut pen)
        .and_then(|()| draw(canvas, &mut pen))
        .map_err(|error| PlotError::new(path, &error))?;
    drop(backend);
    let size = (fine.0 / AVERAGED, fine.1 / AVERAGED);
    let pixels = average(&pixels, size, AVERAGED as usize);
    let mut file = BitMapBackend::new(path, size);
    let written = file.blit_bitmap((0, 0), size, &pixels).and_then(|()| file.present());
    // It tries again when it is dropped.
    drop(file);
    written.map_err(|error| {
        // Half a figure looks like one until it is opened.
        let _ = fs::remove_file(path);
        PlotError::new(path, &error)
    })
}

fn size_in(canvas: &Canvas, density: u32) -> (u32, u32) {
    (canvas.width as u32 * density, canvas.height as u32 * density)
}

/// Each pixel the mean of a square of `side` by `side`.
fn average(pixels: &[u8], (width, height): (u32, u32), side: usize) -> Vec<u8> {
    let (width, height) = (width as usize, height as usize);
    let row = width * side * 3;
    let mut averaged = Vec::with_capacity(width * height * 3);
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let mut sum = 0;
                for dy in 0..side {
                    let start = (y * side + dy) * row + x * side * 3 + channel;
                    sum += (0..side).map(|dx| usize::from(pixels[start + dx * 3])).sum::<usize>();
                }
                averaged.push((sum / (side * side)) as u8);
            }
        }
    }
    averaged
}

/// The two things that the backends do not do alike.
trait Pen {
    type Backend: DrawingBackend;

    fn backend(&mut self) -> &mut Self::Backend;
    fn line(&mut self, points: &[BackendCoord], style: ShapeStyle) -> Drawn;
    fn text(&mut self, text: &Text) -> Drawn;
}

/// Plotters' error is a type of the backend, and a sentence is all that is done with it.
type Drawn = Result<(), String>;

/// A position in units of drawing.
type BackendCoord = (i32, i32);

fn fill_background<P: Pen>(canvas: &Canvas, pen: &mut P) -> Drawn {
    let whole = Rect { left: 0.0, top: 0.0, right: canvas.width, bottom: canvas.height };
    fill(pen, whole, Colour::WHITE)
}

fn draw<P: Pen>(canvas: &Canvas, pen: &mut P) -> Drawn {
    for shape in &canvas.shapes {
        match shape {
            Shape::Line { points, width, colour } => {
                let points: Vec<_> = points.iter().map(|point| place(*point)).collect();
                pen.line(&points, colour.stroke(*width))?;
            }
            Shape::Dot { at, radius, colour } => pen
                .backend()
                .draw_circle(place(*at), fine(*radius) as u32, &colour.filled(), true)
                .map_err(|error| error.to_string())?,
            Shape::Fill { area, colour } => fill(pen, *area, *colour)?,
            Shape::Text(text) => pen.text(text)?,
        }
    }
    Ok(())
}

fn fill<P: Pen>(pen: &mut P, area: Rect, colour: Colour) -> Drawn {
    let corners = (place((area.left, area.top)), place((area.right, area.bottom)));
    pen.backend()
        .draw_rect(corners.0, corners.1, &colour.filled(), true)
        .map_err(|error| error.to_string())
}

fn place((x, y): Point) -> BackendCoord {
    (fine(x), fine(y))
}

/// The style of a text in a backend whose sizes are `ems` ems.
fn text_style(text: &Text, ems: f64) -> TextStyle<'static> {
    let h_pos = match text.align {
        Align::Left => HPos::Left,
        Align::Centre => HPos::Center,
        Align::Right => HPos::Right,
    };
    let turn = if text.is_upright { FontTransform::Rotate270 } else { FontTransform::None };
    let style = crate::canvas::TextStyle { size: text.style.size * ems, ..text.style };
    style.in_chart().transform(turn).pos(Pos::new(h_pos, VPos::Top))
}

/// Where the top of a text is that lies so far above its baseline.
fn top_of(text: &Text, ascent: f64) -> Point {
    let (x, y) = text.at;
    if text.is_upright { (x - ascent, y) } else { (x, y - ascent) }
}

/// Writes SVG elements.
struct SvgPen<'a, 'b>(&'a mut SVGBackend<'b>);

impl<'b> Pen for SvgPen<'_, 'b> {
    type Backend = SVGBackend<'b>;

    fn backend(&mut self) -> &mut SVGBackend<'b> {
        self.0
    }

    fn line(&mut self, points: &[BackendCoord], style: ShapeStyle) -> Drawn {
        self.0.draw_path(points.iter().copied(), &style).map_err(|error| error.to_string())
    }

    fn text(&mut self, text: &Text) -> Drawn {
        // Plotters divides the size by 1.24 and puts the baseline of such text 0.76 em below its top.
        let top = place(top_of(text, 0.76 * text.style.size));
        self.0
            .draw_text(&text.text, &text_style(text, 1.24), top)
            .map_err(|error| error.to_string())
    }
}

/// Sets pixels.
struct BitmapPen<'a, 'b>(&'a mut BitMapBackend<'b>);

impl<'b> Pen for BitmapPen<'_, 'b> {
    type Backend = BitMapBackend<'b>;

    fn backend(&mut self) -> &mut BitMapBackend<'b> {
        self.0
    }

    /// Segment by segment with round joints: the outline that plotters makes of a whole path crosses
    /// itself where the path turns sharply, and leaves holes there.
    fn line(&mut self, points: &[BackendCoord], style: ShapeStyle) -> Drawn {
        let is_curve = points.len() > 2;
        for segment in points.windows(2) {
            self.0.draw_line(segment[0], segment[1], &style).map_err(|error| error.to_string())?;
            if is_curve {
                let radius = style.stroke_width / 2;
                let joint = self.0.draw_circle(segment[1], radius, &style.color.filled(), true);
                joint.map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    fn text(&mut self, text: &Text) -> Drawn {
        // Plotters puts the baseline of bitmap text half its size below its top.
        let style = text_style(text, font::LINE_EMS);
        let (left, top) = place(top_of(text, 0.5 * font::LINE_EMS * text.style.size));
        // The font is a light one, and there is no other: a stronger weight is the same text again, a
        // little to the right.
        let strokes = if text.style.bold { 4 } else { 2 };
        for shift in 0..strokes {
            self.0
                .draw_text(&text.text, &style, (left + shift, top))
                .map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

//! The font of every figure, from bytes that are compiled in.
//!
//! Asking the system for a font would need a system library, and the same figure would come out
//! differently on the next machine. An SVG names the font and leaves drawing it to the viewer; the
//! widths measured here are then an estimate.

use std::sync::Once;

use plotters::style::{FontDesc, FontFamily, FontStyle, register_font};

/// As an SVG asks for it: the same font where it is installed, the system's usual one elsewhere.
pub(crate) const FAMILY: &str = "Ubuntu, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif";

/// Height from descent to ascent in ems. Plotters' bitmap text is measured by it.
pub(crate) const LINE_EMS: f64 = 1.121;

/// The font in some size of plotters' own measure.
pub(crate) fn of_size(size: f64, style: FontStyle) -> FontDesc<'static> {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        let registered =
            register_font(FAMILY, FontStyle::Normal, epaint_default_fonts::UBUNTU_LIGHT);
        assert!(registered.is_ok(), "the font that is compiled in is a font");
    });
    FontDesc::new(FontFamily::Name(FAMILY), size, style)
}

/// How wide a text is when an em is `size`.
pub(crate) fn width(text: &str, size: f64) -> f64 {
    // Measured large, because plotters measures in whole pixels.
    const SCALE: f64 = 16.0;
    let font = of_size(size * LINE_EMS * SCALE, FontStyle::Normal);
    let (width, _) = font.box_size(text).expect("the font is registered");
    f64::from(width) / SCALE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_texts_are_wider() {
        assert!(width("random", 14.0) > width("ran", 14.0));
        assert!((width("random", 28.0) / width("random", 14.0) - 2.0).abs() < 0.02);
        // About half an em a letter.
        assert!((10.0..70.0).contains(&width("abcdefgh", 10.0)));
    }
}

//! Colours that people who see colours differently can still tell apart.
//!
//! Series take the palette of Okabe and Ito without its yellow, which disappears on white. Magnitudes
//! take a scale whose lightness only falls (ColorBrewer's YlGnBu), so that it survives a black and white
//! printer.

/// Red, green, blue. Nothing is transparent: overlapping joints would show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Colour(pub(crate) u8, pub(crate) u8, pub(crate) u8);

impl Colour {
    pub(crate) const WHITE: Self = Self(255, 255, 255);
    /// Text.
    pub(crate) const INK: Self = Self(31, 35, 40);
    /// Text that steps back.
    pub(crate) const MUTED: Self = Self(72, 80, 90);
    /// Axes.
    pub(crate) const AXIS: Self = Self(139, 148, 158);
    /// Grid lines.
    pub(crate) const GRID: Self = Self(228, 231, 235);
}

/// Okabe and Ito: blue, vermilion, bluish green, orange, reddish purple, sky blue, black.
const SERIES: [Colour; 7] = [
    Colour(0, 114, 178),
    Colour(213, 94, 0),
    Colour(0, 158, 115),
    Colour(230, 159, 0),
    Colour(204, 121, 167),
    Colour(86, 180, 233),
    Colour(0, 0, 0),
];

/// YlGnBu, from nothing to the most.
const MAGNITUDES: [Colour; 9] = [
    Colour(255, 255, 217),
    Colour(237, 248, 177),
    Colour(199, 233, 180),
    Colour(127, 205, 187),
    Colour(65, 182, 196),
    Colour(29, 145, 192),
    Colour(34, 94, 168),
    Colour(37, 52, 148),
    Colour(8, 29, 88),
];

/// Of the series with this number. Beyond the palette it starts again: by then no palette would help.
pub(crate) fn series(index: usize) -> Colour {
    SERIES[index % SERIES.len()]
}

/// Of a share of the largest magnitude, 0 to 1.
pub(crate) fn magnitude(share: f64) -> Colour {
    let position = share.clamp(0.0, 1.0) * (MAGNITUDES.len() - 1) as f64;
    let below = (position as usize).min(MAGNITUDES.len() - 2);
    let weight = position - below as f64;
    let mix = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * weight).round() as u8;
    let (Colour(r0, g0, b0), Colour(r1, g1, b1)) = (MAGNITUDES[below], MAGNITUDES[below + 1]);
    Colour(mix(r0, r1), mix(g0, g1), mix(b0, b1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn magnitudes_start_and_end_where_the_scale_does() {
        assert_eq!(magnitude(0.0), MAGNITUDES[0]);
        assert_eq!(magnitude(0.5), MAGNITUDES[4]);
        assert_eq!(magnitude(1.0), MAGNITUDES[8]);
        assert_eq!(magnitude(7.0), MAGNITUDES[8]);
    }
}

//! Colours that people who see colours differently can still tell apart.
//!
//! Series take the palette of Okabe and Ito without its yellow, which disappears on white. Magnitudes
//! take a scale whose lightness only falls (ColorBrewer's YlGnBu), so that it survives a black and white
//! printer. Ratios go from blue over nothing to vermilion, pale enough for text to be read on them.
//!
//! A page in dark colours shows the same figures: [`style_sheet`] gives every colour its counterpart.

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
    /// Where an instance is not there: no shade of a magnitude.
    pub(crate) const ABSENT: Self = Self(190, 195, 202);

    /// As SVG has it.
    fn to_hex(self) -> String {
        format!("#{:02X}{:02X}{:02X}", self.0, self.1, self.2)
    }

    /// The way from this to another one, 0 to 1.
    fn mixed(self, other: Self, weight: f64) -> Self {
        let mix =
            |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * weight).round() as u8;
        Self(mix(self.0, other.0), mix(self.1, other.1), mix(self.2, other.2))
    }
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

/// [`SERIES`] on a dark ground, lighter; black becomes white.
const DARK_SERIES: [Colour; 7] = [
    Colour(64, 150, 222),
    Colour(255, 120, 48),
    Colour(30, 196, 150),
    Colour(240, 180, 41),
    Colour(226, 156, 195),
    Colour(150, 214, 255),
    Colour(240, 243, 246),
];

/// The ground of a dark page.
const DARK: Colour = Colour(22, 27, 34);

/// How many shades of magnitudes there are between nothing and the most.
pub(crate) const MAGNITUDE_STEPS: u32 = 64;

/// Shades of a ratio on either side of 1.
const RATIO_STEPS: i32 = 8;

/// The ratio from which on the colour is no stronger, and the inverse of that below 1.
pub(crate) const MOST_RATIO: f64 = 4.0;

/// Of a ratio: blue below 1, vermilion above, palest at 1.
pub(crate) fn ratio(ratio: f64) -> Colour {
    let steps = (ratio.log2() / MOST_RATIO.log2() * f64::from(RATIO_STEPS)).round();
    ratio_step((steps as i32).clamp(-RATIO_STEPS, RATIO_STEPS), Colour::WHITE)
}

fn ratio_step(step: i32, ground: Colour) -> Colour {
    let end = if step < 0 { SERIES[0] } else { SERIES[1] };
    ground.mixed(end, 0.72 * f64::from(step.abs()) / f64::from(RATIO_STEPS))
}

/// Rules that give each colour of a figure within `.chart` its counterpart where the page is dark.
pub(crate) fn style_sheet() -> String {
    let fixed = [
        (Colour::WHITE, DARK),
        (Colour::INK, Colour(230, 237, 243)),
        (Colour::MUTED, Colour(160, 170, 181)),
        (Colour::AXIS, Colour(110, 118, 129)),
        (Colour::GRID, Colour(45, 51, 59)),
        (Colour::ABSENT, Colour(84, 91, 100)),
    ];
    let shade = |step: u32| magnitude(f64::from(step) / f64::from(MAGNITUDE_STEPS));
    let pairs = fixed
        .into_iter()
        .chain(SERIES.into_iter().zip(DARK_SERIES))
        .chain((0..=MAGNITUDE_STEPS).map(|step| (shade(step), shade(MAGNITUDE_STEPS - step))))
        .chain(
            (1..=RATIO_STEPS)
                .flat_map(|step| [-step, step])
                .map(|step| (ratio_step(step, Colour::WHITE), ratio_step(step, DARK))),
        );
    let rule = |(light, dark): (Colour, Colour)| {
        let (light, dark) = (light.to_hex(), dark.to_hex());
        format!(
            ".chart [fill=\"{light}\"]{{fill:light-dark({light},{dark})}}\
             .chart [stroke=\"{light}\"]{{stroke:light-dark({light},{dark})}}\n"
        )
    };
    pairs.map(rule).collect()
}

/// Of the series with this number. Beyond the palette it starts again: by then no palette would help.
pub(crate) fn series(index: usize) -> Colour {
    SERIES[index % SERIES.len()]
}

/// Of a share of the largest magnitude, 0 to 1.
pub(crate) fn magnitude(share: f64) -> Colour {
    let position = share.clamp(0.0, 1.0) * (MAGNITUDES.len() - 1) as f64;
    let below = (position as usize).min(MAGNITUDES.len() - 2);
    MAGNITUDES[below].mixed(MAGNITUDES[below + 1], position - below as f64)
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

    #[test]
    fn ratios_are_blue_below_one_and_vermilion_above() {
        assert_eq!(ratio(1.0), Colour::WHITE);
        assert_eq!(ratio(MOST_RATIO), ratio(90.0));
        assert_ne!(ratio(MOST_RATIO), ratio(0.8 * MOST_RATIO));
        assert!(ratio(0.5).2 > ratio(0.5).0 && ratio(2.0).0 > ratio(2.0).2);
        assert!(style_sheet().contains(&format!("[fill=\"{}\"]", ratio(2.0).to_hex())));
    }
}

//! What a lower TTFT costs in TPOT: every policy by both, and the front of those that none beats in both.

use super::{SweepView, WIDTH};
use crate::axis::{Axis, Format};
use crate::canvas::{Align, Canvas, Point, TextStyle};
use crate::colour::Colour;
use crate::legend;
use crate::panel::{Panel, Series};

/// Part of the range that is left free on either side of the points.
const MARGIN: f64 = 0.08;

/// None if no cell has answers of more than a token.
pub(crate) fn draw(view: &SweepView<'_>) -> Option<Canvas> {
    let policies: Vec<(&str, Point)> = view
        .overview
        .summary
        .iter()
        .filter_map(|row| Some((row.policy.as_str(), place(view, &row.policy)?)))
        .collect();
    let front = front(&policies);
    if policies.len() < 2 {
        return None;
    }
    let colours: Vec<_> = view.colours().collect();
    let mut canvas = Canvas::new(WIDTH, 460.0 + 22.0 * colours.len() as f64 / 3.0);
    let subtitle = "means over those of the baseline, geometric over cells; nobody is better than the named ones in both";
    let area = canvas.heading(canvas.area(), "TPOT against TTFT", subtitle);
    let area = legend::draw(&mut canvas, area, colours.iter().copied());
    let (low, high) = bounds(policies.iter().map(|(_, point)| point.0));
    let (bottom, top) = bounds(policies.iter().map(|(_, point)| point.1));
    let panel = Panel {
        title: String::new(),
        x: Axis::linear("mean TTFT, of the baseline's", low, high, Format::Percent),
        y: Axis::linear("mean TPOT, of the baseline's", bottom, top, Format::Percent),
        series: vec![Series {
            points: front.iter().map(|(_, at)| *at).collect(),
            colour: Colour::AXIS,
        }],
    };
    panel.draw(&mut canvas, area);
    for (policy, point) in &policies {
        let shown = colours.iter().find(|(name, _)| name == policy);
        let colour = shown.map_or(Colour::MUTED, |(_, colour)| *colour);
        panel.draw_dots(&mut canvas, area, &Series { points: vec![*point], colour });
    }
    for (policy, point) in &front {
        panel.draw_label(&mut canvas, area, *point, policy);
    }
    Some(canvas)
}

/// Both means of a policy over those of the baseline, geometric means over the cells in which both have them.
fn place(view: &SweepView<'_>, policy: &str) -> Option<Point> {
    let of = |name: &str, cell: u32| {
        let mut rows = view.overview.comparison.iter();
        let row = rows.find(|row| row.cell.index == cell && row.policy == name)?;
        Some((row.ttft_mean_ms?, row.tpot_mean_ms.filter(|tpot_ms| *tpot_ms > 0.0)?))
    };
    let mut sums = (0.0, 0.0);
    let mut cells = 0;
    for cell in &view.cells {
        let both = (of(policy, cell.index), of(&view.overview.baseline, cell.index));
        if let (Some(own), Some(baseline)) = both {
            sums.0 += (own.0 / baseline.0).ln();
            sums.1 += (own.1 / baseline.1).ln();
            cells += 1;
        }
    }
    let mean = |sum: f64| (sum / f64::from(cells)).exp();
    (cells > 0).then(|| (mean(sums.0), mean(sums.1)))
}

/// Those that no other one equals or beats in both, from the lowest TTFT to the lowest TPOT.
fn front<'a>(policies: &[(&'a str, Point)]) -> Vec<(&'a str, Point)> {
    let mut sorted = policies.to_vec();
    sorted.sort_by(|(_, a), (_, b)| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut front: Vec<(&str, Point)> = Vec::new();
    for (policy, point) in sorted {
        if front.last().is_none_or(|(_, last)| point.1 < last.1) {
            front.push((policy, point));
        }
    }
    front
}

/// Around all values, from a multiple of 5 % on.
fn bounds(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    let low = values.clone().fold(f64::INFINITY, f64::min);
    let high = values.fold(0.0_f64, f64::max);
    let margin = (MARGIN * (high - low)).max(0.01);
    (((low - margin) * 20.0).floor() / 20.0, high + margin)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_has_those_that_nobody_beats_in_both() {
        let all = [
            ("beaten", (0.6, 1.0)),
            ("fast", (0.5, 1.0)),
            ("smooth", (0.9, 0.7)),
            ("between", (0.7, 0.8)),
            ("worst", (1.0, 1.1)),
        ];
        let names: Vec<_> = front(&all).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["fast", "between", "smooth"]);
        assert!(front(&[]).is_empty());
    }

    #[test]
    fn an_axis_begins_below_everything() {
        let (low, high) = bounds([0.62, 1.0, 1.3].into_iter());
        assert!((low - 0.55).abs() < 1e-9 && high > 1.3, "{low} {high}");
    }
}

//! What a lower TTFT costs in TPOT: every policy by both, and the front of those that none beats in both.

use super::{SweepView, WIDTH};
use crate::axis::{Axis, Format};
use crate::canvas::{Canvas, Point};
use crate::colour::Colour;
use crate::legend;
use crate::panel::{Panel, Series};

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
    let subtitle = "means over those of the baseline, geometric over cells; the line joins those that none beats in both";
    let area = canvas.heading(canvas.area(), "TPOT against TTFT", subtitle);
    let area = legend::draw(&mut canvas, area, colours.iter().copied());
    let both = |pick: fn(&Point) -> f64| policies.iter().map(move |(_, point)| pick(point));
    let lowest = both(|point| point.1).fold(f64::INFINITY, f64::min);
    let highest = both(|point| point.1).fold(0.0_f64, f64::max);
    let panel = Panel {
        title: String::new(),
        x: Axis::log(
            "mean TTFT over the baseline's (logarithmic)",
            both(|point| point.0),
            Format::Percent,
        ),
        y: Axis::linear("mean TPOT over the baseline's", lowest, highest, Format::Percent),
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
    let is_shown = |policy: &str| colours.iter().any(|(name, _)| *name == policy);
    for (policy, point) in front.iter().filter(|(policy, _)| !is_shown(policy)) {
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
}

//! What a lower TTFT costs in TPOT: every policy by both, and the front of the routers that none beats in both.

use lodestar_scenarios::scenario::Kind;

use super::{SweepView, WIDTH};
use crate::axis::{Axis, Format};
use crate::canvas::{Canvas, Point};
use crate::colour::Colour;
use crate::legend;
use crate::panel::{Panel, Series};

/// None if no cell has answers of more than a token.
pub(crate) fn draw(view: &SweepView<'_>) -> Option<Canvas> {
    let all: Vec<(&str, Kind, Point)> = view
        .overview
        .summary
        .iter()
        .filter_map(|row| Some((row.policy.as_str(), row.kind, place(view, &row.policy)?)))
        .collect();
    if all.len() < 2 {
        return None;
    }
    let front = front(&all);
    let colours: Vec<_> = view.colours().collect();
    let is_shown = |policy: &str| colours.iter().any(|(name, _)| *name == policy);
    let others = all.iter().any(|(name, ..)| !is_shown(name));
    let entries = colours.iter().copied().chain(others.then_some(("others", Colour::AXIS)));
    let mut canvas = Canvas::new(WIDTH, 460.0 + 22.0 * colours.len() as f64 / 3.0);
    let front_is = match front.as_slice() {
        [(best, _)] => format!("{best} is the best router in both"),
        _ => "the line joins the routers that none beats in both".to_owned(),
    };
    let subtitle = format!("means over those of the baseline, geometric over cells; {front_is}");
    let area = canvas.heading(canvas.area(), "TPOT against TTFT", &subtitle);
    let area = legend::draw(&mut canvas, area, entries);
    let both = |pick: fn(&Point) -> f64| all.iter().map(move |(.., point)| pick(point));
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
    for (policy, _, point) in &all {
        let series = Series { points: vec![*point], colour: view.colour_of(policy) };
        panel.draw_dots(&mut canvas, area, &series);
    }
    let is_named = |policy: &str, kind: Kind| {
        kind == Kind::Yardstick || front.iter().any(|(name, _)| *name == policy)
    };
    for (policy, kind, point) in &all {
        if is_named(policy, *kind) && !is_shown(policy) {
            panel.draw_label(&mut canvas, area, *point, policy);
        }
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

/// The routers that no other one equals or beats in both, from the lowest TTFT to the lowest TPOT. Against
/// yardsticks, which are none, none would be left.
fn front<'a>(policies: &[(&'a str, Kind, Point)]) -> Vec<(&'a str, Point)> {
    let routers = policies.iter().filter(|(_, kind, _)| *kind != Kind::Yardstick);
    let mut sorted: Vec<_> = routers.map(|(name, _, point)| (*name, *point)).collect();
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
    fn the_front_has_the_routers_that_nobody_beats_in_both() {
        let all = [
            ("beaten", Kind::Heuristic, (0.6, 1.0)),
            ("bound", Kind::Yardstick, (0.1, 0.1)),
            ("fast", Kind::Learned, (0.5, 1.0)),
            ("smooth", Kind::Heuristic, (0.9, 0.7)),
            ("between", Kind::Heuristic, (0.7, 0.8)),
            ("worst", Kind::Heuristic, (1.0, 1.1)),
        ];
        let names: Vec<_> = front(&all).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["fast", "between", "smooth"]);
        assert!(front(&[]).is_empty());
    }
}

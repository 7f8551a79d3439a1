//! P99 of TTFT against load, a diagram for each fleet and workload that ran at several rates.

use std::collections::BTreeMap;

use lodestar_scenarios::sweep::CellIdentity;

use super::{SweepView, WIDTH, servers};
use crate::axis::{Axis, Format, Tick};
use crate::canvas::{Canvas, Point};
use crate::legend;
use crate::panel::{Panel, Series};

/// How many times the P99 at the lowest rate it may be at the knee; `docs/scenarios.md` has the same factor
/// over the P99 of an idle fleet, which a sweep does not know.
const KNEE_FACTOR: f64 = 4.0;

/// Pieces of a diagram's width in which another line is above the others.
const TURNS: usize = 70;

/// Cells that differ in their rate alone, by rate.
type Ladder<'a> = Vec<(f64, &'a CellIdentity)>;

/// None if no workload ran at several rates.
pub(crate) fn draw(view: &SweepView<'_>) -> Option<Canvas> {
    let ladders = ladders(&view.cells);
    if ladders.is_empty() {
        return None;
    }
    let columns = ladders.len().min(2);
    let rows = ladders.len().div_ceil(columns);
    let legend_height = 22.0 * view.policies.len() as f64 / 3.0;
    let mut canvas = Canvas::new(WIDTH, 100.0 + legend_height + 270.0 * rows as f64);
    let title = "P99 of TTFT against load";
    let subtitle = "means over seeds; lines that coincide take turns; the upright line is the knee";
    let area = canvas.heading(canvas.area(), title, subtitle);
    let area = legend::draw(&mut canvas, area, view.colours());
    for (ladder, area) in ladders.iter().zip(area.grid(rows, columns, (30.0, 18.0))) {
        let panel = panel(view, ladder);
        panel.draw(&mut canvas, area);
        panel.draw_lines(&mut canvas, area, &turns(&panel));
        for series in &panel.series {
            panel.draw_points(&mut canvas, area, series);
        }
    }
    Some(canvas)
}

fn ladders<'a>(cells: &[&'a CellIdentity]) -> Vec<Ladder<'a>> {
    let mut groups: Vec<Ladder<'a>> = Vec::new();
    for cell in cells {
        let Some(rate) = cell.rate_rps else { continue };
        let same = |ladder: &&mut Ladder<'_>| {
            let first = ladder[0].1;
            (&first.fleet, &first.workload, first.router_replicas)
                == (&cell.fleet, &cell.workload, cell.router_replicas)
        };
        match groups.iter_mut().find(same) {
            Some(ladder) => ladder.push((rate, cell)),
            None => groups.push(vec![(rate, cell)]),
        }
    }
    groups.retain(|ladder| ladder.len() > 1);
    for ladder in &mut groups {
        ladder.sort_by(|a, b| a.0.total_cmp(&b.0));
    }
    groups
}

fn panel(view: &SweepView<'_>, ladder: &Ladder<'_>) -> Panel {
    let p99: BTreeMap<(u32, &str), f64> = view
        .overview
        .comparison
        .iter()
        .filter_map(|row| Some(((row.cell.index, row.policy.as_str()), row.ttft_p99_ms?)))
        .collect();
    let curve = |policy: &str| -> Vec<Point> {
        let point =
            |(rate, cell): &(f64, &CellIdentity)| Some((*rate, *p99.get(&(cell.index, policy))?));
        ladder.iter().filter_map(point).collect()
    };
    let series: Vec<Series> =
        view.colours().map(|(policy, colour)| Series { points: curve(policy), colour }).collect();
    let shown = series.iter().flat_map(|series| series.points.iter().map(|point| point.1));
    let cell = ladder[0].1;
    let knee = cell.knee_rps.or_else(|| knee(&curve(&view.overview.baseline)));
    let rates = ladder.iter().map(|(rate, _)| *rate).chain(knee);
    let low = rates.clone().fold(f64::INFINITY, f64::min);
    let high = rates.fold(0.0, f64::max);
    let knee = knee.map(|value| Tick { value, label: "knee".to_owned() });
    Panel {
        title: format!("{} on {}", cell.workload, servers(cell)),
        x: Axis::linear("requests/s", low, high, Format::Number)
            .with_marks(knee.into_iter().collect()),
        y: Axis::log("P99 of TTFT (logarithmic)", shown, Format::Milliseconds),
        series,
    }
}

/// Short pieces of lines to draw over them, each line's elsewhere: of lines that coincide every one is seen.
fn turns(panel: &Panel) -> Vec<Series> {
    let [low, high] = panel.x.ends();
    let edge = |turn: usize| low + (high - low) * turn as f64 / TURNS as f64;
    let mut pieces = Vec::new();
    for (index, Series { points, colour }) in panel.series.iter().enumerate() {
        for turn in (index..TURNS).step_by(panel.series.len()) {
            let (from, to) = (edge(turn), edge(turn + 1));
            let inside = points.iter().copied().filter(|(rate, _)| (from..to).contains(rate));
            let points: Vec<Point> =
                at(points, from).into_iter().chain(inside).chain(at(points, to)).collect();
            pieces.push(Series { points, colour: *colour });
        }
    }
    pieces
}

/// Where a line is at a rate, on a logarithmic axis.
fn at(points: &[Point], rate: f64) -> Option<Point> {
    let is_around = |ends: &&[Point]| (ends[0].0..=ends[1].0).contains(&rate);
    let ends = points.windows(2).find(is_around)?;
    let share = (rate - ends[0].0) / (ends[1].0 - ends[0].0);
    let p99 = ends[0].1 * (ends[1].1 / ends[0].1).powf(share);
    p99.is_finite().then_some((rate, p99))
}

/// For a scenario that does not say: the highest rate up to which the P99 stays below [`KNEE_FACTOR`] times what it is at the
/// lowest, if it goes above at some rate.
fn knee(curve: &[Point]) -> Option<f64> {
    let limit = curve.first()?.1 * KNEE_FACTOR;
    let beyond = curve.iter().position(|(_, p99)| *p99 >= limit)?;
    Some(curve[beyond.checked_sub(1)?].0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::colour;

    #[test]
    fn a_ladder_is_of_cells_that_differ_in_their_rate_alone() {
        let cell = |index: u32, rate_rps: f64, router_replicas: u32| CellIdentity {
            index,
            id: format!("cell-{index}"),
            fleet: "a100:2".to_owned(),
            workload: "chat".to_owned(),
            rate_rps: Some(rate_rps),
            knee_rps: None,
            router_replicas,
            step_times: Vec::new(),
        };
        let cells = [cell(0, 2.0, 1), cell(1, 2.0, 2), cell(2, 1.0, 1), cell(3, 2.0, 4)];
        let ladders = ladders(&cells.iter().collect::<Vec<_>>());
        let indices: Vec<Vec<u32>> = ladders
            .iter()
            .map(|ladder| ladder.iter().map(|(_, cell)| cell.index).collect())
            .collect();
        assert_eq!(indices, [[2, 0]]);
    }

    #[test]
    fn lines_that_coincide_are_all_seen() {
        let points = vec![(1.0, 10.0), (2.0, 1000.0)];
        let line = |index| Series { points: points.clone(), colour: colour::series(index) };
        let panel = Panel {
            title: String::new(),
            x: Axis::linear("", 1.0, 2.0, Format::Number),
            y: Axis::log("", [10.0, 1000.0].into_iter(), Format::Number),
            series: vec![line(0), line(1)],
        };
        let pieces = turns(&panel);
        let seen =
            |index| pieces.iter().filter(|piece| piece.colour == colour::series(index)).count();
        assert_eq!([seen(0), seen(1)], [TURNS / 2; 2]);
        assert!((at(&points, 1.5).expect("between").1 - 100.0).abs() < 1e-9);
        assert_eq!(at(&points, 2.5), None);
    }

    #[test]
    fn the_knee_is_the_last_rate_that_is_kept_up_with() {
        assert_eq!(knee(&[(1.0, 10.0), (2.0, 39.0), (3.0, 40.0), (4.0, 20.0)]), Some(2.0));
        assert_eq!(knee(&[(1.0, 10.0), (2.0, 39.0)]), None);
        assert_eq!(knee(&[]), None);
        assert_eq!(knee(&[(1.0, 0.0), (2.0, 0.0)]), None);
    }
}

//! A cell over simulated time: TTFT, the queue, and what changed on the way.

use lodestar_scenarios::sweep::{CellIdentity, Mark, Series as RunSeries};

use super::{SweepView, WIDTH, describe, end_s, segments};
use crate::axis::{Axis, Format, Tick};
use crate::canvas::{Canvas, Point};
use crate::legend;
use crate::panel::{Panel, Series};

pub(crate) fn draw(view: &SweepView<'_>, cell: &CellIdentity) -> Canvas {
    let panels = panels(view, cell);
    let mut canvas = Canvas::new(WIDTH, 660.0);
    canvas.height += 2.0 * panels[0].extra_height(canvas.area().width());
    let title = "The course of one run, by arrival of the request";
    let area = canvas.heading(canvas.area(), title, &describe(cell));
    let area = legend::draw(&mut canvas, area, view.colours());
    for (panel, area) in panels.iter().zip(area.grid(2, 1, (0.0, 14.0))) {
        panel.draw(&mut canvas, area);
    }
    canvas
}

/// TTFT and the queue.
fn panels(view: &SweepView<'_>, cell: &CellIdentity) -> [Panel; 2] {
    let runs: Vec<_> = view
        .colours()
        .filter_map(|(policy, colour)| Some((view.series(cell.index, policy)?, colour)))
        .collect();
    let end_s = end_s(runs.iter().map(|(series, _)| *series));
    let lines = |of: fn(&RunSeries) -> Vec<Option<f64>>| -> Vec<Series> {
        let line = |(series, colour): &(&RunSeries, _)| {
            let parts = segments(series.bin_s, &of(series)).into_iter();
            parts.map(|points| Series { points, colour: *colour }).collect::<Vec<_>>()
        };
        runs.iter().flat_map(line).collect()
    };
    let values = |lines: &[Series]| -> Vec<f64> {
        lines.iter().flat_map(|line| line.points.iter().map(|point: &Point| point.1)).collect()
    };
    let ttft = lines(|series| series.ttft_mean_ms.clone());
    let ttft = Panel {
        title: "TTFT".to_owned(),
        x: time_axis(view, cell.index, end_s),
        y: Axis::log("mean (logarithmic)", values(&ttft).into_iter(), Format::Milliseconds),
        series: ttft,
    };
    let queue = lines(queue);
    let longest = values(&queue).into_iter().fold(0.0_f64, f64::max);
    let queue = Panel {
        title: "Queue of the whole fleet".to_owned(),
        x: time_axis(view, cell.index, end_s),
        y: Axis::linear("waiting requests", 0.0, longest, Format::Number),
        series: queue,
    };
    let mut panels = [ttft, queue];
    Panel::align(&mut panels);
    panels
}

/// Simulated time, with what changed on the way.
pub(super) fn time_axis(view: &SweepView<'_>, cell: u32, end_s: f64) -> Axis {
    Axis::time("simulated time", end_s).with_marks(labels(marks(view, cell)))
}

/// A label a change: what happens to several instances at once is one.
fn labels(marks: &[Mark]) -> Vec<Tick> {
    // The first mark of each, what happens, and to whom.
    let mut changes: Vec<(&Mark, &str, Vec<&str>)> = Vec::new();
    for mark in marks {
        let (who, what) = mark.label.split_once(' ').unwrap_or(("", &mark.label));
        let is_same = |(first, same, _): &&mut (&Mark, &str, Vec<&str>)| {
            first.at_s.total_cmp(&mark.at_s).is_eq() && *same == what
        };
        match changes.iter_mut().find(is_same) {
            Some((.., all)) => all.push(who),
            None => changes.push((mark, what, vec![who])),
        }
    }
    let label = |(first, what, all): (&Mark, &str, Vec<&str>)| match all.len() {
        1 => Tick { value: first.at_s, label: first.label.clone() },
        several => Tick { value: first.at_s, label: format!("{several} instances: {what}") },
    };
    changes.into_iter().map(label).collect()
}

/// What changed in a cell's runs: the same under every policy.
pub(crate) fn marks<'a>(view: &SweepView<'a>, cell: u32) -> &'a [Mark] {
    view.all_series(cell).next().map_or(&[], |(_, series)| &series.marks)
}

/// Waiting requests of all instances. An idle cluster records nothing, and then nobody waits.
fn queue(series: &RunSeries) -> Vec<Option<f64>> {
    let total = |bin: usize| {
        let waiting = series.instances.iter().filter_map(|instance| instance.waiting_requests[bin]);
        Some(waiting.sum())
    };
    (0..series.ttft_mean_ms.len()).map(total).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render;

    fn mark(at_s: f64, label: &str) -> Mark {
        Mark { at_s, label: label.to_owned() }
    }

    #[test]
    fn what_happens_to_several_instances_at_once_has_one_label() {
        let marks = [
            mark(5.0, "a100-0 stale metrics"),
            mark(5.0, "a100-1 stale metrics"),
            mark(5.0, "h100-0 crashes"),
            mark(9.0, "a100-0 as before"),
        ];
        let labels: Vec<_> = labels(&marks).into_iter().map(|tick| tick.label).collect();
        assert_eq!(labels, ["2 instances: stale metrics", "h100-0 crashes", "a100-0 as before"]);
    }

    #[test]
    fn every_label_is_in_the_figure() {
        let marks = [
            mark(556.0, "9.33 requests/s"),
            mark(646.0, "other prompts"),
            mark(646.0, "h100-0 returns"),
            mark(700.0, "h100-1 crashes"),
            mark(1232.0, "7.47 requests/s"),
        ];
        let panel = Panel {
            title: "TTFT".to_owned(),
            x: Axis::time("simulated time", 1232.0).with_marks(labels(&marks)),
            y: Axis::percent("share"),
            series: Vec::new(),
        };
        let mut canvas = Canvas::new(WIDTH, 400.0);
        let area = canvas.area();
        panel.draw(&mut canvas, area);
        let svg = render::svg(&canvas);
        for Mark { label, .. } in &marks {
            assert!(svg.contains(label), "no {label}");
        }
    }
}

//! Requests and KV cache of each instance over time, under a few policies.

use lodestar_scenarios::sweep::{CellIdentity, InstanceSeries, Series};

use super::course::time_axis;
use super::{SweepView, WIDTH, describe, end_s};
use crate::axis::Axis;
use crate::canvas::{Align, Canvas, Rect, TextStyle};
use crate::heat::{self, HeatMap, Shades};
use crate::samples::mean;

/// Most policies shown: the baseline and the best.
const MOST_POLICIES: usize = 4;

/// Most columns of a map.
const COLUMNS: usize = 60;

pub(crate) fn draw(view: &SweepView<'_>, cell: &CellIdentity) -> Canvas {
    let runs: Vec<(&str, &Series)> = view
        .policies
        .iter()
        .filter_map(|policy| Some((*policy, view.series(cell.index, policy)?)))
        // A bound is of no instance.
        .filter(|(_, series)| !series.instances.is_empty())
        .take(MOST_POLICIES)
        .collect();
    let instances = runs.iter().map(|(_, series)| series.instances.len()).max().unwrap_or(0);
    let height = (instances as f64 * 15.0).clamp(50.0, 320.0) + 48.0;
    let time = time_axis(view, cell.index, end_s(runs.iter().map(|(_, series)| *series)));
    let mut requests = maps(&runs, &time, requests_of);
    let values = requests.iter().flat_map(|map| map.rows.iter().flat_map(|(_, row)| row));
    let largest = values.copied().fold(1.0_f64, f64::max).ceil();
    for map in &mut requests {
        map.shades = Shades::LogCount { largest };
    }
    let usage = maps(&runs, &time, |instance| instance.kv_usage.clone());
    let names = heat::name_width(
        requests.iter().flat_map(|map| map.rows.iter().map(|(name, _)| name.as_str())),
    );
    let mut canvas = Canvas::new(WIDTH, 190.0 + height * runs.len() as f64);
    // Both columns are equally wide, and only the left one has names before it.
    let gap = 26.0;
    let width = (canvas.area().width() - names - gap) / 2.0;
    let overhang = time.mark_overhang(width);
    let labels = time.marks_height(width - overhang);
    canvas.height += labels;
    let title = "Load of each instance over time";
    let area = canvas.heading(canvas.area(), title, &describe(cell)).inset(0.0, 12.0, 0.0, 0.0);
    let left = Rect { right: area.left + names + width, ..area };
    let right = Rect { left: left.right + gap, ..area };
    let columns = [
        (left, names, "Requests, running and waiting", requests),
        (right, 0.0, "KV cache in use", usage),
    ];
    for (area, names, heading, maps) in columns {
        let maps_area = draw_head(&mut canvas, area, names, heading, &maps);
        draw_maps(&mut canvas, maps_area.inset(0.0, 0.0, overhang, 0.0), names, labels, &maps);
    }
    canvas
}

/// Draws the heading and the key of a column, and returns what is left of it.
fn draw_head(canvas: &mut Canvas, area: Rect, names: f64, heading: &str, maps: &[HeatMap]) -> Rect {
    let at = (area.left + names, area.top + 13.0);
    canvas.text(heading, at, Align::Left, TextStyle::HEADING);
    let (key, area) = area.inset(0.0, 24.0, 0.0, 0.0).split_top(heat::KEY_HEIGHT + 6.0);
    heat::draw_key(maps, canvas, key);
    area
}

/// Draws maps below each other; the first one is higher by the height of the labels of its marks.
fn draw_maps(canvas: &mut Canvas, area: Rect, names: f64, labels: f64, maps: &[HeatMap]) {
    let Some(first) = maps.first() else { return };
    let mut cells = area.inset(0.0, labels, 0.0, 24.0).grid(maps.len(), 1, (0.0, 0.0));
    cells[0].top = area.top;
    for (map, cell) in maps.iter().zip(cells) {
        map.draw(canvas, cell, names);
    }
    let middle = (area.left + names + area.right) / 2.0;
    canvas.text(&first.x.title, (middle, area.bottom - 3.0), Align::Centre, TextStyle::SMALL);
}

fn requests_of(instance: &InstanceSeries) -> Vec<Option<f64>> {
    let both = instance.running_requests.iter().zip(&instance.waiting_requests);
    both.map(|(running, waiting)| Some((*running)? + (*waiting)?)).collect()
}

/// A map a policy on one axis of time. Marks have labels in the first one.
fn maps(
    runs: &[(&str, &Series)],
    time: &Axis,
    values: fn(&InstanceSeries) -> Vec<Option<f64>>,
) -> Vec<HeatMap> {
    let [_, end_s] = time.ends();
    let map = |(index, (policy, series)): (usize, &(&str, &Series))| {
        let bins = (end_s / series.bin_s as f64).ceil() as usize;
        let names = series.instances.iter().map(|instance| instance.name.clone());
        let all: Vec<_> = series.instances.iter().map(values).collect();
        let mut x = time.clone();
        for mark in x.marks.iter_mut().filter(|_| index > 0) {
            mark.label.clear();
        }
        HeatMap {
            title: (*policy).to_owned(),
            rows: names.zip(known(&all).iter().map(|values| columns(values, bins))).collect(),
            shades: Shades::Share,
            x,
        }
    };
    runs.iter().enumerate().map(map).collect()
}

/// The bins of each instance, `NaN` while it is not in service: others have values then. An idle cluster records
/// nothing, which is none.
fn known(instances: &[Vec<Option<f64>>]) -> Vec<Vec<f64>> {
    let bins = instances.iter().map(Vec::len).max().unwrap_or(0);
    let is_idle =
        |bin: usize| instances.iter().all(|values| values.get(bin).is_none_or(Option::is_none));
    let unknown: Vec<f64> =
        (0..bins).map(|bin| if is_idle(bin) { 0.0 } else { f64::NAN }).collect();
    let of = |values: &Vec<Option<f64>>| {
        values.iter().zip(&unknown).map(|(value, unknown)| value.unwrap_or(*unknown)).collect()
    };
    instances.iter().map(of).collect()
}

/// Means of neighbouring bins, at most [`COLUMNS`] of them, of those that are known; none is after the end of a run.
fn columns(values: &[f64], bins: usize) -> Vec<f64> {
    let width = bins.div_ceil(COLUMNS).max(1);
    let mean = |column: usize| {
        let bins = column * width..((column + 1) * width).min(bins);
        let values = bins.filter_map(|bin| values.get(bin).copied());
        mean(&values.filter(|value| !value.is_nan()).collect::<Vec<_>>())
    };
    (0..bins.div_ceil(width)).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_averaged_into_as_many_columns_as_fit() {
        let mut values: Vec<_> = (0..119).map(f64::from).collect();
        values[1] = f64::NAN;
        values[3..6].fill(f64::NAN);
        let columns = columns(&values, 125);
        assert_eq!(columns.len(), 42);
        assert!((columns[0] - 1.0).abs() < 1e-12, "{columns:?}");
        assert!(
            columns[1].is_nan() && columns[40].is_nan() && !columns[39].is_nan(),
            "{columns:?}"
        );
    }

    #[test]
    fn a_dead_instance_is_not_an_idle_one() {
        let [dead, busy] = known(&[vec![Some(1.0), None, None], vec![Some(2.0), Some(3.0), None]])
            .try_into()
            .expect("two instances");
        assert!(dead[1].is_nan() && dead[2].abs() < 1e-12, "{dead:?}");
        assert_eq!(busy, [2.0, 3.0, 0.0]);
    }
}

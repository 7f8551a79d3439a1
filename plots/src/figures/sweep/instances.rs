//! Requests and KV cache of each instance over time, under a few policies.

use lodestar_scenarios::sweep::{CellIdentity, InstanceSeries, Series};

use super::{SweepView, WIDTH, describe, end_s};
use crate::axis::Axis;
use crate::canvas::{Align, Canvas, Rect, TextStyle};
use crate::heat::{self, HeatMap, Shades};

/// Most policies shown: the baseline and the best.
const MOST_POLICIES: usize = 4;

/// Most columns of a map.
const COLUMNS: usize = 60;

pub(crate) fn draw(view: &SweepView<'_>, cell: &CellIdentity) -> Canvas {
    let runs: Vec<(&str, &Series)> = view
        .policies
        .iter()
        .filter_map(|policy| Some((*policy, view.series(cell.index, policy)?)))
        .take(MOST_POLICIES)
        .collect();
    let instances = runs.iter().map(|(_, series)| series.instances.len()).max().unwrap_or(0);
    let height = (instances as f64 * 15.0).clamp(50.0, 320.0) + 48.0;
    let mut canvas = Canvas::new(WIDTH, 190.0 + height * runs.len() as f64);
    let title = "Load of each instance over time";
    let area = canvas.heading(canvas.area(), title, &describe(cell)).inset(0.0, 12.0, 0.0, 0.0);
    let mut requests = maps(&runs, requests_of);
    let values = requests.iter().flat_map(|map| map.rows.iter().flat_map(|(_, row)| row));
    let largest = values.copied().fold(1.0_f64, f64::max).ceil();
    for map in &mut requests {
        map.shades = Shades::LogCount { largest };
    }
    let usage = maps(&runs, |instance| instance.kv_usage.clone());
    let names = heat::name_width(
        requests.iter().flat_map(|map| map.rows.iter().map(|(name, _)| name.as_str())),
    );
    // Both columns are equally wide, and only the left one has names before it.
    let gap = 26.0;
    let width = (area.width() - names - gap) / 2.0;
    let left = Rect { right: area.left + names + width, ..area };
    let right = Rect { left: left.right + gap, ..area };
    draw_column(&mut canvas, left, names, "Requests, running and waiting", &requests);
    draw_column(&mut canvas, right, 0.0, "KV cache in use", &usage);
    canvas
}

fn draw_column(canvas: &mut Canvas, area: Rect, names: f64, heading: &str, maps: &[HeatMap]) {
    let at = (area.left + names, area.top + 13.0);
    canvas.text(heading, at, Align::Left, TextStyle::HEADING);
    let (key, area) = area.inset(0.0, 24.0, 0.0, 0.0).split_top(heat::KEY_HEIGHT + 6.0);
    let Some(first) = maps.first() else { return };
    first.shades.draw_key(canvas, key);
    let cells = area.inset(0.0, 0.0, 0.0, 24.0).grid(maps.len(), 1, (0.0, 0.0));
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

fn maps(runs: &[(&str, &Series)], values: fn(&InstanceSeries) -> Vec<Option<f64>>) -> Vec<HeatMap> {
    let end_s = end_s(runs.iter().map(|(_, series)| *series));
    let map = |(policy, series): &(&str, &Series)| {
        let bins = (end_s / series.bin_s as f64).ceil() as usize;
        let row =
            |instance: &InstanceSeries| (instance.name.clone(), columns(&values(instance), bins));
        HeatMap {
            title: (*policy).to_owned(),
            rows: series.instances.iter().map(row).collect(),
            shades: Shades::Share,
            x: Axis::time("simulated time", end_s),
        }
    };
    runs.iter().map(map).collect()
}

/// Means of neighbouring bins, at most [`COLUMNS`] of them. A run that ended before the longest one and an
/// idle cluster have nothing.
fn columns(values: &[Option<f64>], bins: usize) -> Vec<f64> {
    let width = bins.div_ceil(COLUMNS).max(1);
    let value = |bin: usize| values.get(bin).copied().flatten().unwrap_or(0.0);
    let mean = |column: usize| {
        let bins = column * width..((column + 1) * width).min(bins);
        let count = bins.len() as f64;
        bins.map(value).sum::<f64>() / count
    };
    (0..bins.div_ceil(width)).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_are_averaged_into_as_many_columns_as_fit() {
        let values: Vec<_> = (0..119).map(|bin| Some(f64::from(bin))).collect();
        let columns = columns(&values, 121);
        assert_eq!(columns.len(), 41);
        assert!((columns[0] - 1.0).abs() < 1e-12 && columns[40].abs() < 1e-12);
    }
}

//! The picture for those who look at only one: how fast, how steadily, and why.

use lodestar_scenarios::Results;

use super::{load, run_colours, subtitle, ttft_cdf, ttft_over_time};
use crate::canvas::{Align, Canvas, TextStyle};
use crate::heat;
use crate::legend;

/// Height of the diagrams above the maps.
const DIAGRAMS: f64 = 330.0;
/// Maps in a row.
const COLUMNS: usize = 3;

pub(crate) fn draw(results: &Results) -> Canvas {
    let runs = &results.runs;
    let maps = load::requests_maps(runs);
    let columns = runs.len().min(COLUMNS);
    let rows = runs.len().div_ceil(columns);
    let map_height = load::map_height(maps.first().map_or(0, |map| map.rows.len()));
    let mut canvas = Canvas::new(1000.0, 190.0 + DIAGRAMS + map_height * rows as f64);

    let title = "The same requests on the same fleet under each policy";
    let area = canvas.heading(canvas.area(), title, &subtitle(results));
    let area = legend::draw(&mut canvas, area, run_colours(runs));
    let (diagrams, area) = area.split_top(DIAGRAMS);
    let cells = diagrams.grid(1, 2, (36.0, 0.0));
    ttft_cdf::panel(runs).draw(&mut canvas, cells[0]);
    ttft_over_time::panel(runs, "99th percentile of TTFT over time", 0.99)
        .draw(&mut canvas, cells[1]);

    let (head, area) = area.inset(0.0, 18.0, 0.0, 0.0).split_top(34.0);
    canvas.text(
        "Requests on each instance, running and waiting",
        (head.left, head.top + 13.0),
        Align::Left,
        TextStyle::HEADING,
    );
    heat::draw_key(&maps, &mut canvas, head);
    // One column of names on the left serves a row of maps.
    let names = load::name_width(&maps);
    let area = area.inset(names, 0.0, 0.0, 0.0);
    let cells = area.inset(0.0, 0.0, 0.0, 20.0).grid(rows, columns, (18.0, 0.0));
    for (index, (map, cell)) in maps.iter().zip(cells).enumerate() {
        if index.is_multiple_of(columns) {
            map.draw(&mut canvas, cell.inset(-names, 0.0, 0.0, 0.0), names);
        } else {
            map.draw(&mut canvas, cell, 0.0);
        }
    }
    load::draw_time_title(&mut canvas, area, &maps);
    canvas
}

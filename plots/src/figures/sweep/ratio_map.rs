//! Mean TTFT over that of the cell's best heuristic: a row a cell, a column a policy, the best one first.
//!
//! All policies, not only those of the diagrams.

use std::collections::BTreeMap;

use super::{SweepView, WIDTH};
use crate::canvas::Canvas;
use crate::ratio_grid::RatioGrid;

pub(crate) fn draw(view: &SweepView<'_>) -> Canvas {
    let place: BTreeMap<u32, usize> =
        view.cells.iter().enumerate().map(|(place, cell)| (cell.index, place)).collect();
    let rows = view.overview.comparison.iter();
    let ratios = rows.filter_map(|row| {
        Some(((row.policy.as_str(), place[&row.cell.index]), row.mean_ratio_to_best?.value))
    });
    let ratios = ratios.collect();
    let rows: Vec<&str> = view.cells.iter().map(|cell| cell.id.as_str()).collect();
    let grid = RatioGrid {
        title: "Mean TTFT over that of the cell's best heuristic",
        policies: &view.ranking,
        rows: &rows,
        ratios: &ratios,
    };
    grid.draw(WIDTH)
}

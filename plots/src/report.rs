//! A sweep as a folder of figures and one page that needs nothing else.
//!
//! The page holds its style, its script and its figures, so that it can be mailed, opened from a disk and
//! read in ten years. Figures are those of `figures/sweep/`, inlined; the page adds words and tables.

mod page;
pub(crate) mod scenarios;
mod tables;

use std::fs;
use std::path::{Path, PathBuf};

use lodestar_scenarios::sweep::{CellIdentity, Overview};

use crate::canvas::Canvas;
use crate::figures::sweep::{
    SweepView, course, distribution, instances, load_curve, predictions, ratio_map, trade_off,
};
use crate::render::{self, PlotError};

/// Bytes of figures after which the page only names those that are left: it should open on
/// a phone. Those of closed cells are not drawn before somebody opens them.
const MOST_INLINED_BYTES: usize = 12_000_000;

/// The page's name in the folder.
const PAGE: &str = "report.html";

/// A figure's file below `figures/`, without its ending, and what a page needs of it.
struct Figure {
    stem: String,
    /// What is seen, for those who do not see it.
    description: String,
    /// The figure, unless the page is full.
    svg: Option<String>,
}

/// The figures of a page.
struct Figures {
    ratios: Figure,
    load: Option<Figure>,
    trade_off: Option<Figure>,
    cells: Vec<CellFigures>,
}

/// The figures of a cell.
struct CellFigures {
    distribution: Figure,
    course: Figure,
    instances: Figure,
    predictions: Option<Figure>,
}

/// Writes `figures/` and `report.html` into a sweep's folder; what is there of an earlier time is replaced.
///
/// # Errors
/// The first file that cannot be written.
pub fn sweep_report(overview: &Overview, folder: &Path) -> Result<(), PlotError> {
    let view = SweepView::new(overview);
    let mut writer = FigureWriter { folder: folder.join("figures"), inlined_bytes: 0 };
    let ratios = writer.add(
        "ttft_ratio",
        "Ratios of mean TTFT to the best heuristic, by cell and policy; the table below has the figures",
        &ratio_map::draw(&view),
    )?;
    let load = load_curve::draw(&view)
        .map(|canvas| writer.add("p99_by_load", "P99 of TTFT against load, by workload", &canvas))
        .transpose()?;
    let trade_off = trade_off::draw(&view)
        .map(|canvas| writer.add("tpot_by_ttft", "Mean TPOT against mean TTFT, by policy", &canvas))
        .transpose()?;
    let cells = view
        .cells
        .iter()
        .map(|cell| writer.add_cell(&view, cell))
        .collect::<Result<Vec<_>, _>>()?;
    let page = page::render(&view, &Figures { ratios, load, trade_off, cells });
    write_page(&folder.join(PAGE), &page)
}

struct FigureWriter {
    folder: PathBuf,
    inlined_bytes: usize,
}

impl FigureWriter {
    fn add(&mut self, stem: &str, description: &str, canvas: &Canvas) -> Result<Figure, PlotError> {
        let path = self.folder.join(stem);
        let parent = path.parent().expect("a file lies in a folder");
        fs::create_dir_all(parent).map_err(|error| PlotError::new(parent, &error))?;
        render::save(canvas, &path)?;
        let svg = render::inline_svg(canvas);
        let has_room = self.inlined_bytes + svg.len() <= MOST_INLINED_BYTES;
        if has_room {
            self.inlined_bytes += svg.len();
        }
        Ok(Figure {
            stem: stem.to_owned(),
            description: description.to_owned(),
            svg: has_room.then_some(svg),
        })
    }

    fn add_cell(
        &mut self,
        view: &SweepView<'_>,
        cell: &CellIdentity,
    ) -> Result<CellFigures, PlotError> {
        let id = &cell.id;
        let stem = |name: &str| format!("{id}/{name}");
        let of = |what: &str| format!("{what} in {id}");
        Ok(CellFigures {
            distribution: self.add(
                &stem("ttft_cdf"),
                &of("Cumulative distribution of TTFT by policy"),
                &distribution::draw(view, cell),
            )?,
            course: self.add(
                &stem("course"),
                &of("TTFT and waiting requests over time by policy"),
                &course::draw(view, cell),
            )?,
            instances: self.add(
                &stem("instances"),
                &of("Requests and KV cache usage of each instance over time"),
                &instances::draw(view, cell),
            )?,
            predictions: predictions::draw(view, cell)
                .map(|canvas| {
                    let what = of("Predicted against actual TTFT, and the error over time");
                    self.add(&stem("predictions"), &what, &canvas)
                })
                .transpose()?,
        })
    }
}

/// Beside its place and moved there: a page that is there is whole.
fn write_page(path: &Path, page: &str) -> Result<(), PlotError> {
    let partial = path.with_file_name(".report.html.partial");
    fs::write(&partial, page)
        .and_then(|()| fs::rename(&partial, path))
        .map_err(|error| PlotError::new(path, &error))
}

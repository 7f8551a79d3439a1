//! `lodestar learn-curve`: how a policy's predictions and choices change while it learns.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;
use lodestar_scenarios::decisions::{LogReader, find_logs, learn_curve};

/// Show prediction error, coverage, regret and reasons of router logs over time (docs/decisions.md)
#[derive(Args, Debug)]
pub(crate) struct LearnCurveArgs {
    /// Router logs, or folders of runs that were replayed with --log
    #[arg(value_name = "RUN_OR_LOG", required = true)]
    logs: Vec<PathBuf>,
    /// Where to draw it, as STEM.svg and STEM.png
    #[arg(long, value_name = "STEM", default_value = "learn-curve")]
    plot: PathBuf,
    /// Draw nothing
    #[arg(long, conflicts_with = "plot")]
    no_plot: bool,
}

pub(crate) fn run(args: &LearnCurveArgs) -> anyhow::Result<()> {
    let mut curves = Vec::new();
    for given in &args.logs {
        for path in find_logs(given)? {
            let curve = learn_curve(LogReader::open(&path)?)?;
            curves.push((path, curve));
        }
    }
    let mut out = io::stdout().lock();
    for (path, curve) in &curves {
        writeln!(out, "{}: {}", path.display(), curve.table())?;
    }
    if !args.no_plot {
        let several = |policy: &str| curves.iter().filter(|(_, c)| c.policy == policy).count() > 1;
        let named: Vec<_> = curves
            .iter()
            .map(|(path, curve)| {
                let name =
                    if several(&curve.policy) { full_name(path) } else { curve.policy.clone() };
                (name, curve.clone())
            })
            .collect();
        lodestar_plots::learn_curve_figure(&named, &args.plot)?;
        let stem = args.plot.display();
        writeln!(out, "figure  {stem}.svg, {stem}.png")?;
    }
    Ok(())
}

/// What tells logs of one policy apart.
fn full_name(path: &Path) -> String {
    path.parent().unwrap_or(path).display().to_string()
}

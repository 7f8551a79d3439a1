//! How far a replay, a sweep or a measurement is, on a terminal. A log file has no use for a bar: there a sweep, which may take
//! hours, has a line for each tenth, and the others nothing.

use std::io::{self, Write as _};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use lodestar_live::BenchProgress;
use lodestar_scenarios::sweep::Standing;

/// A bar on stderr that counts requests; it may be moved from any thread, and is gone when dropped.
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    pub(crate) fn new(total_requests: u64) -> Self {
        let style = ProgressStyle::with_template(
            "simulating {wide_bar} {percent:>3} %  {human_pos} of {human_len} requests, {eta} left",
        )
        .expect("the template is well-formed");
        Self { bar: ProgressBar::new(total_requests).with_style(style) }
    }

    pub(crate) fn advance(&self, requests: u64) {
        self.bar.inc(requests);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// Lines of a whole sweep where there is no terminal.
const LINES: u64 = 10;

/// A bar on stderr that counts the runs of a sweep, and says who leads.
pub(crate) struct SweepProgress {
    bar: ProgressBar,
}

impl SweepProgress {
    pub(crate) fn new(total_runs: usize) -> Self {
        let style = ProgressStyle::with_template(
            "{wide_bar} {human_pos} of {human_len} runs in {elapsed}{msg}",
        )
        .expect("the template is well-formed");
        let bar = ProgressBar::new(total_runs as u64).with_style(style);
        // A run may take minutes, and the bar should not look dead.
        bar.enable_steady_tick(Duration::from_secs(1));
        Self { bar }
    }

    pub(crate) fn show(&self, standing: &Standing) {
        let failed = match standing.failed {
            0 => String::new(),
            failed => format!(", {failed} failed"),
        };
        let best = standing.best.as_ref().map_or_else(String::new, |best| {
            format!(", best so far {} (TTFT x{:.2})", best.policy, best.ratio)
        });
        let left = standing
            .left
            .map_or_else(String::new, |left| format!(", {} left", HumanDuration(left)));
        let (runs, all) = (standing.done as u64, standing.total as u64);
        self.bar.set_position(runs);
        if self.bar.is_hidden() && runs * LINES / all > (runs - 1) * LINES / all {
            let elapsed = self.bar.elapsed();
            let per_s = runs as f64 / elapsed.as_secs_f64().max(1e-9);
            // What a log does not take is no reason to stop.
            let _ = writeln!(
                io::stderr(),
                "{runs} of {all} runs{failed}{best}; {per_s:.1} runs/s{left}"
            );
        }
        self.bar.set_message(format!("{left}{failed}{best}"));
    }
}

impl Drop for SweepProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar on stderr that counts answers, and says how many requests are under way.
pub(crate) struct BenchBar {
    bar: ProgressBar,
}

impl BenchBar {
    pub(crate) fn new(requests: u64) -> Self {
        let style = ProgressStyle::with_template(
            "{wide_bar} {human_pos} of {human_len} requests ended, {elapsed} so far{msg}",
        )
        .expect("the template is well-formed");
        Self { bar: ProgressBar::new(requests).with_style(style) }
    }

    pub(crate) fn show(&self, progress: BenchProgress) {
        let BenchProgress { sent, ended, failed } = progress;
        self.bar
            .set_message(format!(", {} under way, {failed} failed", sent.saturating_sub(ended)));
        self.bar.set_position(ended);
    }
}

impl Drop for BenchBar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

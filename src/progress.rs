//! How far a replay is, on a terminal. A log file has no use for a bar, so elsewhere nothing is shown.

use indicatif::{ProgressBar, ProgressStyle};

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

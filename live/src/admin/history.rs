//! How numbers have changed in the last minutes: a look every few seconds, so that a page that is opened now shows what
//! was before.

use std::collections::VecDeque;
use std::time::Duration;

use lodestar_router::Learning;
use serde_json::{Value, json};

use crate::recent::Histogram;

/// Between two looks.
pub(super) const PERIOD: Duration = Duration::from_secs(5);
/// 20 minutes.
const POINTS: usize = 240;
/// Quantiles are of the requests of the last minute.
const WINDOW_S: f64 = 60.0;
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

/// One look. Counts are since the start.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    /// Since the start.
    pub(super) at_s: f64,
    pub(super) finished: u64,
    pub(super) failed: u64,
    pub(super) aborted: u64,
    pub(super) rejected: u64,
    pub(super) second_attempts: u64,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) predicted_cached_tokens: u64,
    pub(super) waiting: u32,
    pub(super) under_way: u32,
    pub(super) ttft: Histogram,
    pub(super) learning: Option<Learning>,
}

/// The looks of the last minutes.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Point>);

#[derive(Debug)]
struct Point {
    look: Look,
    ttft_s: Option<[f64; 3]>,
}

impl History {
    /// Remembers a look.
    pub(super) fn add(&mut self, look: Look) {
        if self.0.len() == POINTS {
            self.0.pop_front();
        }
        let point = self.point(look);
        self.0.push_back(point);
    }

    /// With the quantiles of what came since a minute before, or since the start.
    fn point(&self, look: Look) -> Point {
        let before = self.0.iter().rev().find(|point| point.look.at_s <= look.at_s - WINDOW_S);
        let before = before.or_else(|| self.0.front()).map(|point| point.look.ttft.clone());
        let ttft_s = look.ttft.quantiles_since_s(&before.unwrap_or_default(), QUANTILES);
        Point { look, ttft_s }
    }

    /// As JSON, a list for each number, oldest first and ending with the look of `now`.
    pub(super) fn columns(&self, now: Look) -> Value {
        let now = self.point(now);
        let points = || self.0.iter().chain([&now]);
        let looks = || points().map(|point| &point.look);
        let count = |of: fn(&Look) -> u64| looks().map(of).collect::<Vec<_>>();
        let quantile = |index: usize| -> Vec<_> {
            points().map(|point| point.ttft_s.map(|all| milli(all[index]))).collect()
        };
        let learned = |of: fn(&Learning) -> f64| -> Vec<_> {
            // Before the first sample there is nothing that could be right or wrong.
            let learning =
                looks().map(|look| look.learning.filter(|learning| learning.samples > 0));
            learning.map(|learning| learning.as_ref().map(of).map(milli)).collect()
        };
        json!({
            "at_s": looks().map(|look| milli(look.at_s)).collect::<Vec<_>>(),
            "ttft_p50_s": quantile(0),
            "ttft_p90_s": quantile(1),
            "ttft_p99_s": quantile(2),
            "finished": count(|look| look.finished),
            "failed": count(|look| look.failed),
            "aborted": count(|look| look.aborted),
            "rejected": count(|look| look.rejected),
            "second_attempts": count(|look| look.second_attempts),
            "prompt_tokens": count(|look| look.prompt_tokens),
            "cached_tokens": count(|look| look.cached_tokens),
            "predicted_cached_tokens": count(|look| look.predicted_cached_tokens),
            "waiting": count(|look| u64::from(look.waiting)),
            "under_way": count(|look| u64::from(look.under_way)),
            "samples": count(|look| look.learning.map_or(0, |learning| learning.samples)),
            "error_factor": learned(|learning| learning.error_factor),
            "coverage": learned(|learning| learning.coverage),
        })
    }
}

/// To three places, which is less to send.
fn milli(number: f64) -> f64 {
    (number * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recent::Recent;
    use lodestar_router::RequestId;

    #[test]
    fn quantiles_are_of_the_last_minute_and_old_looks_go() {
        let (mut history, recent) = (History::default(), Recent::default());
        let look = |at_s: f64| Look { at_s, ttft: recent.ttft(), ..Look::default() };
        history.add(look(0.0));
        recent.first_token(RequestId(0), Duration::from_secs(8));
        (1..=20).for_each(|step| history.add(look(f64::from(step) * 5.0)));
        let columns = history.columns(look(101.0));
        let slowest = columns["ttft_p99_s"].as_array().unwrap();
        assert_eq!((slowest.len(), &slowest[0], &slowest[21]), (22, &Value::Null, &Value::Null));
        assert!((slowest[12].as_f64().unwrap() - 8.0).abs() < 0.4, "{slowest:?}");
        assert_eq!(columns["error_factor"][3], Value::Null);

        (21..=400).for_each(|step| history.add(look(f64::from(step) * 5.0)));
        let columns = history.columns(look(2001.0));
        let at_s = columns["at_s"].as_array().unwrap();
        assert_eq!((at_s.len(), &at_s[0]), (POINTS + 1, &json!(805.0)));
    }
}

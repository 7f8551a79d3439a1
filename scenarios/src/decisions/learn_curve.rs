//! How a policy's predictions and choices change while it learns.
//!
//! Regret is the actual TTFT less the smallest that was predicted for any candidate, and its mean over a window is shown.
//! What another instance would have taken nobody knows; as far as predictions are right on average (the error factor
//! beside it says how far), this is the regret towards the best choice for the request alone. Two things
//! follow: predictions that are too hopeful look like regret, and so does TTFT that a policy gives away
//! on purpose, to spare others.

use std::collections::BTreeMap;

use lodestar_router::{Candidate, Decision, Duration, Reason};

use super::attempts::{Attempt, attempts};
use super::reader::{LogReader, RouterLogError};
use crate::quantile::quantile;

/// Requests a window should have, and windows.
const WINDOW_REQUESTS: usize = 100;
const WINDOWS_MAX: usize = 20;
/// Shortest time that an error is a factor of, ms: below it nobody cares.
const SHORTEST_MS: f64 = 0.1;

/// A log, window by window.
#[derive(Clone, Debug, PartialEq)]
pub struct LearnCurve {
    /// The log's policy.
    pub policy: String,
    /// In order, with about equally many requests each.
    pub windows: Vec<Window>,
}

/// Consecutive requests. What a policy does not say, or what was not seen, is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// When the first and the last were routed, s.
    pub from_s: f64,
    /// See [`from_s`](Self::from_s).
    pub to_s: f64,
    /// How many.
    pub requests: usize,
    /// Mean TTFT, ms, at the router.
    pub ttft_ms: Option<f64>,
    /// Median of the factor by which predicted and actual TTFT differ, either way; 1 is exact.
    pub error_factor: Option<f64>,
    /// Share of TTFTs in the predicted range; nine in ten should be.
    pub coverage: Option<f64>,
    /// Mean of actual TTFT less smallest predicted TTFT, ms.
    pub regret_ms: Option<f64>,
    /// Share that explored.
    pub explored: f64,
    /// Share of each reason.
    pub reasons: BTreeMap<&'static str, f64>,
}

#[derive(Clone, Copy)]
struct Kept {
    reason: Reason,
    explored: bool,
    predicted_ms: Option<f64>,
    range_ms: Option<[f64; 2]>,
    best_ms: Option<f64>,
}

/// The curve of a log.
///
/// # Errors
/// When the log cannot be read or has no decision.
pub fn learn_curve(log: LogReader) -> Result<LearnCurve, RouterLogError> {
    let policy = log.start().config.policy.name().into_owned();
    let path = log.path().to_owned();
    let attempts = attempts(log, |_, decision| keep(decision))?;
    if attempts.is_empty() {
        return Err(RouterLogError::NoDecision(path));
    }
    let count = (attempts.len() / WINDOW_REQUESTS).clamp(1, WINDOWS_MAX);
    let border = |window: usize| window * attempts.len() / count;
    let windows =
        (0..count).map(|window| summarise(&attempts[border(window)..border(window + 1)])).collect();
    Ok(LearnCurve { policy, windows })
}

fn keep(decision: &Decision) -> Kept {
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let is_chosen = |candidate: &&Candidate| candidate.instance == decision.instance;
    let chosen = decision.candidates.iter().find(is_chosen);
    let predicted = decision.candidates.iter().filter_map(|candidate| candidate.predicted_ttft);
    Kept {
        reason: decision.reason,
        explored: decision.explored,
        predicted_ms: chosen.and_then(|chosen| chosen.predicted_ttft).map(ms),
        range_ms: chosen.and_then(|chosen| chosen.predicted_ttft_range).map(|range| range.map(ms)),
        best_ms: predicted.min().map(ms),
    }
}

fn summarise(window: &[Attempt<Kept>]) -> Window {
    let seen = || window.iter().filter_map(|attempt| Some((attempt.kept, attempt.ttft_ms()?)));
    let mut errors: Vec<f64> = seen()
        .filter_map(|(kept, ttft)| {
            let ratio = kept.predicted_ms?.max(SHORTEST_MS) / ttft.max(SHORTEST_MS);
            Some(ratio.max(1.0 / ratio))
        })
        .collect();
    errors.sort_by(f64::total_cmp);
    let is_within = |(kept, ttft): (Kept, f64)| {
        let [low, high] = kept.range_ms?;
        Some(f64::from(u8::from(low <= ttft && ttft <= high)))
    };
    let share = |count: usize| count as f64 / window.len() as f64;
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for attempt in window {
        *reasons.entry(attempt.kept.reason.as_str()).or_default() += 1;
    }
    Window {
        from_s: window.first().map_or(0.0, |attempt| attempt.routed_at.as_secs_f64()),
        to_s: window.last().map_or(0.0, |attempt| attempt.routed_at.as_secs_f64()),
        requests: window.len(),
        ttft_ms: mean(seen().map(|(_, ttft)| ttft)),
        error_factor: (!errors.is_empty()).then(|| quantile(&errors, 0.5)),
        coverage: mean(seen().filter_map(is_within)),
        regret_ms: mean(seen().filter_map(|(kept, ttft)| Some(ttft - kept.best_ms?))),
        explored: share(window.iter().filter(|attempt| attempt.kept.explored).count()),
        reasons: reasons.into_iter().map(|(reason, count)| (reason, share(count))).collect(),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / count as f64)
}

impl LearnCurve {
    /// As a table for people.
    pub fn table(&self) -> String {
        let head = "to s  requests   TTFT ms  error factor  in range  regret ms  explored  reasons";
        let mut lines = vec![self.policy.clone(), format!("{:>10}{head}", "")];
        let digits = |value: Option<f64>, digits: usize| {
            value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let percent = |value: f64| format!("{:.1} %", 100.0 * value);
        for window in &self.windows {
            let reasons: Vec<_> = window.reasons.iter().collect();
            let reasons: Vec<_> = reasons
                .into_iter()
                .map(|(reason, share)| format!("{reason} {}", percent(*share)))
                .collect();
            lines.push(format!(
                "{:>14.1}  {:>8}  {:>8}  {:>12}  {:>8}  {:>9}  {:>8}  {}",
                window.to_s,
                window.requests,
                digits(window.ttft_ms, 1),
                digits(window.error_factor, 2),
                window.coverage.map_or_else(|| "-".to_owned(), percent),
                digits(window.regret_ms, 1),
                percent(window.explored),
                reasons.join(", ")
            ));
        }
        lines.join("\n") + "\n"
    }
}

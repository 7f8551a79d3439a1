//! The proxy's own `/metrics`. Labels have few values: instances are those that an operator has listed, and clients
//! cannot invent any.
//!
//! Predicted and real prefix hits stand side by side, so that a router whose knowledge of caches is wrong can be
//! seen to be.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::arms::{Arm, Stop};
use crate::dispatcher::{CanaryState, Dispatcher};
use crate::queue::Queue;

/// Upper bounds in seconds, as vLLM's `time_to_first_token_seconds`.
const TTFT_BOUNDS_S: [f64; 14] =
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.25, 2.5, 5.0, 10.0, 80.0];

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What has happened since the start. Attempts, not requests: one that is retried counts more than once.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) finished: Counter,
    pub(crate) failed: Counter,
    /// Client gone, refused by the engine, or broken off.
    pub(crate) aborted: Counter,
    /// No instance could take it.
    pub(crate) rejected: Counter,
    /// Of answers that say what they used: prompt tokens; and of those that say that too, cached tokens, and those that
    /// were expected to be.
    pub(crate) prompt_tokens: Counter,
    pub(crate) cached_tokens: Counter,
    pub(crate) predicted_cached_tokens: Counter,
    pub(crate) output_tokens: Counter,
    /// Changes of prefix caches that engines told of.
    pub(crate) kv_events: Counter,
    /// Times that a cache was forgotten because some of them were lost.
    pub(crate) kv_resets: Counter,
    /// Models that were trained and are in use, and those that were lost on the way.
    pub(crate) models: Counter,
    pub(crate) lost_models: Counter,
    ttft: Histogram,
    /// Of what each router decided.
    arms: [ArmCounters; 2],
}

/// Of the attempts that one router decided.
#[derive(Debug, Default)]
pub(crate) struct ArmCounters {
    pub(crate) finished: Counter,
    pub(crate) failed: Counter,
    pub(crate) aborted: Counter,
    ttft: Histogram,
}

/// Times to first token.
#[derive(Debug, Default)]
struct Histogram {
    counts: [Counter; TTFT_BOUNDS_S.len() + 1],
    micros: Counter,
}

impl Histogram {
    fn add(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = TTFT_BOUNDS_S.partition_point(|bound| *bound < seconds);
        self.counts[bucket].add(1);
        self.micros.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }
}

impl ArmCounters {
    /// How many there were, and the mean time to them, s.
    pub(crate) fn first_tokens(&self) -> (u64, Option<f64>) {
        let count = self.ttft.counts.iter().map(Counter::get).sum::<u64>();
        let micros = self.ttft.micros.get() as f64;
        (count, (count > 0).then(|| micros / 1e6 / count as f64))
    }
}

impl Counters {
    /// A first token came so long after the decision.
    pub(crate) fn first_token(&self, arm: Arm, after: Duration) {
        self.ttft.add(after);
        self.of(arm).ttft.add(after);
    }

    pub(crate) const fn of(&self, arm: Arm) -> &ArmCounters {
        match arm {
            Arm::Baseline => &self.arms[0],
            Arm::Canary => &self.arms[1],
        }
    }
}

/// The page, in the Prometheus text format; with dropped spans if there are traces.
pub(crate) fn page(dispatcher: &Dispatcher, queue: &Queue, dropped_spans: Option<u64>) -> String {
    let mut page = String::new();
    let counters = dispatcher.counters();
    let attempts = [
        ("finished", &counters.finished),
        ("failed", &counters.failed),
        ("aborted", &counters.aborted),
        ("rejected", &counters.rejected),
    ];
    let attempts = attempts.map(|(outcome, count)| (label("outcome", outcome), count.get()));
    family(
        &mut page,
        "attempts_total",
        "Attempts to serve a request, by how they ended",
        &attempts,
    );
    let reasons: Vec<_> = dispatcher
        .decisions()
        .into_iter()
        .map(|(reason, count)| (label("reason", reason.as_str()), count))
        .collect();
    family(&mut page, "decisions_total", "Decisions, by the rule that made them", &reasons);
    for (name, help, count) in [
        ("prompt_tokens_total", "Prompt tokens of answers with usage", &counters.prompt_tokens),
        (
            "cached_tokens_total",
            "Found in a prefix cache, of answers that say so",
            &counters.cached_tokens,
        ),
        (
            "predicted_cached_tokens_total",
            "Expected to be found there, of the same answers",
            &counters.predicted_cached_tokens,
        ),
        ("kv_events_total", "Changes of prefix caches that instances told of", &counters.kv_events),
        (
            "kv_resets_total",
            "Times that an instance's cache was forgotten because events were lost",
            &counters.kv_resets,
        ),
        ("output_tokens_total", "Output tokens of answers", &counters.output_tokens),
    ] {
        family(&mut page, name, help, &[(String::new(), count.get())]);
    }
    let waiting = [(String::new(), u64::from(queue.waiting()))];
    family(&mut page, "waiting_requests", "Requests that nobody can take now", &waiting);
    let models = [("installed", &counters.models), ("lost", &counters.lost_models)];
    let models = models.map(|(outcome, count)| (label("outcome", outcome), count.get()));
    family(&mut page, "models_total", "Models that were trained, by what became of them", &models);
    if let Some(dropped) = dropped_spans {
        let help = "Spans that no collector got";
        family(&mut page, "spans_dropped_total", help, &[(String::new(), dropped)]);
    }
    instances(&mut page, dispatcher);
    ttft(&mut page, "time_to_first_token_seconds", &[("", &counters.ttft)]);
    if let Some(state) = dispatcher.canary() {
        canary(&mut page, counters, &state);
    }
    page
}

/// The two routers side by side, and how they see the same requests.
fn canary(page: &mut String, counters: &Counters, canary: &CanaryState) {
    let arms = Arm::BOTH.map(|arm| (arm.as_str(), counters.of(arm)));
    let mut attempts = Vec::new();
    for (name, arm) in arms {
        let outcomes =
            [("finished", &arm.finished), ("failed", &arm.failed), ("aborted", &arm.aborted)];
        attempts.extend(outcomes.map(|(outcome, count)| {
            (format!("{{arm=\"{name}\",outcome=\"{outcome}\"}}"), count.get())
        }));
    }
    family(page, "arm_attempts_total", "Attempts, by who decided and how they ended", &attempts);
    let times = arms.map(|(name, arm)| (name, &arm.ttft));
    ttft(page, "arm_time_to_first_token_seconds", &times);
    let percent = [(String::new(), canary.percent)];
    family(page, "canary_percent", "Sessions in a hundred for which the canary decides", &percent);
    let stopped = canary.stopped.as_ref().map(|stopped| stopped.why);
    let stops = [Stop::Operator, Stop::Errors, Stop::Ttft, Stop::Panic]
        .map(|why| (label("reason", why.as_str()), u64::from(stopped == Some(why))));
    family(page, "canary_stops_total", "Whether the canary was stopped, and why", &stops);
    let views = canary.views;
    let agreed = [("true", views.agreed), ("false", views.disagreed)];
    let agreed = agreed.map(|(agrees, count)| (label("agrees", agrees), count));
    let help = "Decisions, by whether both would choose the same instance";
    family(page, "canary_decisions_total", help, &agreed);
    let predicted = [(String::new(), views.predicted)];
    let help = "Decisions for which the canary predicts a TTFT at both choices";
    family(page, "canary_predictions_total", help, &predicted);
    let seconds = [("baseline", views.baseline_s), ("canary", views.canary_s)];
    let seconds = seconds.map(|(choice, secs)| (label("choice", choice), secs));
    let help = "Of those, the sum of its predictions, by whose choice";
    family(page, "canary_predicted_ttft_seconds_total", help, &seconds);
}

fn instances(page: &mut String, dispatcher: &Dispatcher) {
    let loads = dispatcher.loads();
    family(
        page,
        "instances",
        "Instances that can be chosen",
        &[(String::new(), loads.len() as u64)],
    );
    let gauge = |of: fn(&lodestar_router::Load) -> u64| -> Vec<_> {
        loads
            .iter()
            .map(|(member, load)| (label("instance", &member.backend.url), of(load)))
            .collect()
    };
    let prefill = gauge(|load| u64::from(load.prefill_requests));
    family(page, "prefill_requests", "Requests under way without a first token", &prefill);
    let decode = gauge(|load| u64::from(load.decode_requests));
    family(page, "decode_requests", "Requests under way with a first token", &decode);
    let context = gauge(|load| load.context_tokens);
    family(page, "context_tokens", "Prompt and output tokens of requests under way", &context);
}

fn label(name: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("{{{name}=\"{value}\"}}")
}

fn family<V: Display>(page: &mut String, name: &str, help: &str, samples: &[(String, V)]) {
    let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
    let _ = writeln!(page, "# HELP lodestar_{name} {help}\n# TYPE lodestar_{name} {kind}");
    for (labels, value) in samples {
        let _ = writeln!(page, "lodestar_{name}{labels} {value}");
    }
}

/// A histogram for each arm, or one without a name.
fn ttft(page: &mut String, name: &str, histograms: &[(&str, &Histogram)]) {
    let name = format!("lodestar_{name}");
    let _ = writeln!(page, "# HELP {name} From the decision to the first event of a stream");
    let _ = writeln!(page, "# TYPE {name} histogram");
    for (arm, histogram) in histograms {
        let (alone, first) = if arm.is_empty() {
            (String::new(), String::new())
        } else {
            (label("arm", arm), format!("arm=\"{arm}\","))
        };
        let mut sum = 0;
        for (index, count) in histogram.counts.iter().enumerate() {
            sum += count.get();
            let bound = TTFT_BOUNDS_S.get(index).map_or_else(|| "+Inf".to_owned(), f64::to_string);
            let _ = writeln!(page, "{name}_bucket{{{first}le=\"{bound}\"}} {sum}");
        }
        let seconds = Duration::from_micros(histogram.micros.get()).as_secs_f64();
        let _ = writeln!(page, "{name}_sum{alone} {seconds}\n{name}_count{alone} {sum}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_add_up() {
        let counters = Counters::default();
        for millis in [0, 1, 2, 30, 100_000] {
            counters.first_token(Arm::Canary, Duration::from_millis(millis));
        }
        let mut page = String::new();
        ttft(&mut page, "s", &[("", &counters.ttft), ("canary", &counters.of(Arm::Canary).ttft)]);
        for line in [
            "_bucket{le=\"0.001\"} 2\n",
            "_bucket{le=\"0.005\"} 3\n",
            "_bucket{le=\"80\"} 4\n",
            "_bucket{le=\"+Inf\"} 5\n",
            "_sum 100.033\n",
            "_count 5\n",
            "_bucket{arm=\"canary\",le=\"0.005\"} 3\n",
            "_count{arm=\"canary\"} 5\n",
        ] {
            assert!(page.contains(line), "{page}");
        }
    }
}

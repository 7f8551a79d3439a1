//! Finds an engine that hangs behind an API server that is well: `/health` is 200 and pages of metrics come, but nothing
//! in them moves and no answer does.
//!
//! Judged by silence and not by how long a request takes: a prompt of 100,000 tokens, or a long queue, may keep a request
//! waiting for minutes, while the engine's KV usage and counters move with every step. An engine that does not say
//! how far it is, is not judged.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What moves only when the engine has done a step. Not queue lengths, which grow while an engine hangs.
const STEPS: [&str; 12] = [
    "vllm:kv_cache_usage_perc",
    "vllm:gpu_cache_usage_perc",
    "vllm:generation_tokens_total",
    "vllm:prompt_tokens_total",
    "vllm:iteration_tokens_total_count",
    "sglang:token_usage",
    "sglang:generation_tokens_total",
    "sglang:prompt_tokens_total",
    "tgi_batch_forward_duration_count",
    "tgi_request_generated_tokens_count",
    "trtllm_kv_cache_utilization",
    "trtllm_time_to_first_token_seconds_count",
];

/// What requests that are under way at an instance tell of it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Pieces of answers that have come.
    answers: AtomicU64,
    /// Requests without the first byte of an answer.
    awaiting: AtomicU32,
    /// Milliseconds since anything moved, while there is work.
    silent_ms: AtomicU64,
}

impl Progress {
    /// A piece of an answer has come.
    pub(crate) fn moved(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    /// A request awaits its first byte as long as the guard lives.
    pub(crate) fn awaits(&self) -> Awaiting<'_> {
        self.awaiting.fetch_add(1, Ordering::Relaxed);
        Awaiting(self)
    }

    /// How long nothing has moved at an instance that has work.
    pub(crate) fn silence(&self) -> Duration {
        Duration::from_millis(self.silent_ms.load(Ordering::Relaxed))
    }
}

/// One request that awaits its first byte.
#[derive(Debug)]
pub(crate) struct Awaiting<'a>(&'a Progress);

impl Drop for Awaiting<'_> {
    fn drop(&mut self) {
        self.0.awaiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Looks at one instance from time to time.
#[derive(Debug)]
pub(crate) struct ProgressWatch {
    since: Instant,
    answers: u64,
    steps: Option<u64>,
}

impl ProgressWatch {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { since: now, answers: 0, steps: None }
    }

    /// A page of metrics has come. `is_decoding`: it says that requests of ours are running, begun answers among them;
    /// what an engine has finished and a slow client has not read yet is not work.
    pub(crate) fn look(
        &mut self,
        now: Instant,
        progress: &Progress,
        page: &str,
        is_decoding: bool,
    ) -> Duration {
        let answers = progress.answers.load(Ordering::Relaxed);
        let steps = steps_of(page);
        let has_work = is_decoding || progress.awaiting.load(Ordering::Relaxed) > 0;
        if !has_work || steps.is_none() || (answers, steps) != (self.answers, self.steps) {
            *self = Self { since: now, answers, steps };
        }
        let silence = now - self.since;
        let millis = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
        progress.silent_ms.store(millis, Ordering::Relaxed);
        silence
    }
}

/// Whether an instance that is silent hangs: for long enough, while another one is not silent itself. If all are, the
/// reason is somewhere else.
pub(crate) fn hangs(
    silence: Duration,
    limit: Duration,
    mut others: impl Iterator<Item = Duration>,
) -> bool {
    // Half of it: those that fell silent at the same moment are not found to be at the same moment.
    !limit.is_zero() && silence >= limit && others.any(|other| other < limit / 2)
}

/// A digest of how far the engine is, if the page says that.
fn steps_of(page: &str) -> Option<u64> {
    let is_step = |line: &&str| {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        STEPS.contains(&name)
    };
    page.lines()
        .filter(is_step)
        .fold(None, |digest, line| Some(xxh3_64_with_seed(line.as_bytes(), digest.unwrap_or(0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn page(kv_usage: f64) -> String {
        format!(
            "# HELP vllm:kv_cache_usage_perc x\nvllm:kv_cache_usage_perc{{engine=\"0\"}} {kv_usage}\n\
             vllm:num_requests_waiting{{engine=\"0\"}} 3\n"
        )
    }

    #[tokio::test]
    async fn silence_counts_while_a_request_waits_and_no_step_is_seen() {
        let (progress, start) = (Progress::default(), Instant::now());
        let mut watch = ProgressWatch::new(start);
        let mut look = |second: u32, page: &str| {
            watch.look(start + SECOND * second, &progress, page, false).as_secs()
        };
        assert_eq!(look(50, &page(0.1)), 0, "without a request nothing has to move");
        let request = progress.awaits();
        assert_eq!(look(60, &page(0.1)), 10);
        // The prefill of a long prompt: no byte of an answer, but blocks.
        assert_eq!(look(80, &page(0.2)), 0);
        // A queue that grows is no progress.
        let longer_queue = page(0.2).replace("} 3", "} 4");
        assert_eq!(look(90, &longer_queue), 10);
        progress.moved();
        assert_eq!(look(95, &longer_queue), 0);
        assert_eq!(look(99, ""), 0, "who says nothing is not judged");
        assert_eq!(look(100, &page(0.2)), 0);
        drop(request);
        assert_eq!(look(200, &page(0.2)), 0);
    }

    #[tokio::test]
    async fn an_answer_that_stops_is_silence_too() {
        let (progress, start) = (Progress::default(), Instant::now());
        let mut watch = ProgressWatch::new(start);
        watch.look(start, &progress, &page(0.1), true);
        assert_eq!(watch.look(start + SECOND, &progress, &page(0.1), true), SECOND);
        assert_eq!(progress.silence(), SECOND);
        assert_eq!(watch.look(start + SECOND * 2, &progress, &page(0.1), false), Duration::ZERO);
    }

    #[test]
    fn it_is_not_the_instance_if_all_are_silent() {
        let limit = SECOND * 30;
        assert!(hangs(limit, limit, [SECOND * 29, SECOND].into_iter()));
        assert!(!hangs(limit, limit, [SECOND * 29, SECOND * 31].into_iter()));
        assert!(!hangs(SECOND * 29, limit, [Duration::ZERO].into_iter()));
        assert!(!hangs(limit, limit, [].into_iter()), "there is nobody else");
        assert!(!hangs(limit, Duration::ZERO, [Duration::ZERO].into_iter()), "switched off");
    }
}

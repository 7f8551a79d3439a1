//! llm-d's weighted scorers, its default before August 2026: prefix 3, queue 2, KV usage 2.
//!
//! `argmax 3 · h_i + 2 · (max q − q_i)/(max q − min q) + 2 · (1 − u_i)`, ties drawn, with `h_i` the part of the
//! prompt's full blocks that is cached, `q_i` waiting requests and `u_i` KV usage as last scraped; the queue term
//! is 1 where all queues are equal. The blend was 1:1:1 before (gateway-api-inference-extension#1827). Scores here are `7 −` that: lower is better.

use super::{Choice, Eligible, Policy, Spread};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

const PREFIX_WEIGHT: f64 = 3.0;
const QUEUE_WEIGHT: f64 = 2.0;
const KV_WEIGHT: f64 = 2.0;

#[derive(Debug)]
pub(super) struct LlmDWeighted;

impl Policy for LlmDWeighted {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let queues = Spread::of((0..eligible.len()).map(|index| eligible.waiting(index)));
        eligible.lowest(Reason::LeastCost, rng, |index| {
            PREFIX_WEIGHT * (1.0 - eligible.hit_ratio(index, request))
                + QUEUE_WEIGHT * relative_queue(eligible.waiting(index), &queues)
                + KV_WEIGHT * eligible.kv_usage(index)
        })
    }
}

/// 0 for the shortest queue, 1 for the longest.
fn relative_queue(waiting: u32, queues: &Spread) -> f64 {
    let width = queues.max - queues.min;
    if width == 0 { 0.0 } else { f64::from(waiting - queues.min) / f64::from(width) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;

    #[test]
    fn three_scores_are_weighed_and_added() {
        let mut fixture = Fixture::with_requests(&[0, 0, 0])
            .with_matches(10, &[5, 0, 10])
            .scraping()
            .with_metrics(&[(9, 2, 0.25), (0, 0, 0.5), (9, 4, 1.0)]);
        fixture.request.prompt_tokens = 160;
        // 3·0.5 + 2·0.5 + 2·0.25; 3·1 + 0 + 2·0.5; 0 + 2·1 + 2·1.
        assert_eq!(fixture.scores(&mut LlmDWeighted), [3.0, 4.0, 4.0]);
        assert_eq!(fixture.choose(&mut LlmDWeighted).1, 0);
    }
}

//! New prefill tokens times batch size. Source: LMetric, arXiv 2603.15202, as the Lodestar authors wired it
//! in.
//!
//! `argmin (P_i + L · (100 − h_i) / 100) · (running_i + waiting_i + 1)` with `P_i` the uncached prompt tokens
//! routed to instance `i` whose request has no first token yet, `L` the prompt, `h_i` the percentage of it,
//! rounded down, that is cached there. Ties by the batch, then drawn. `P_i` is the gateway's own and exact
//! (the port holds a lock from decision to booking); running and waiting are scraped.

use super::{Choice, Eligible, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

#[derive(Debug)]
pub(super) struct LMetric;

impl Policy for LMetric {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let batch = |index: usize| f64::from(eligible.requests(index) + 1);
        let score = |index: usize| {
            let missing_percent = (100 - eligible.hit_percent(index, request)) as f64;
            let own = f64::from(request.prompt_tokens) * missing_percent / 100.0;
            let queued = eligible.get(index).load.uncached_prefill_tokens as f64;
            (queued + own) * batch(index)
        };
        eligible.lowest_then(Reason::LeastCost, rng, score, batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;

    #[test]
    fn the_score_is_tokens_times_batch() {
        // 161 tokens in ten blocks. (100 + 161 · 0.5) · (2 + 1) = 541.5; (0 + 161) · (1 + 1) = 322.
        let fixture = Fixture::with_requests(&[2, 1])
            .with_matches(10, &[5, 0])
            .with_tokens(&[(100, 0), (0, 0)]);
        assert_eq!(fixture.scores(&mut LMetric), [541.5, 322.0]);
        assert_eq!(fixture.choose(&mut LMetric).1, 1);
    }

    #[test]
    fn the_batch_is_scraped_where_the_original_scrapes_it() {
        let fixture = Fixture::with_requests(&[0, 0])
            .with_matches(10, &[0, 0])
            .scraping()
            .with_metrics(&[(3, 1, 0.5), (2, 1, 0.5)]);
        assert_eq!(fixture.scores(&mut LMetric), [161.0 * 5.0, 161.0 * 4.0]);
    }

    #[test]
    fn of_equal_products_the_smaller_batch_is_chosen() {
        // Both hold everything: 161 · (100 − 100) / 100 = 0.
        let fixture = Fixture::with_requests(&[4, 1, 3]).with_matches(10, &[10, 10, 10]);
        assert_eq!(fixture.choose(&mut LMetric).1, 1);
    }
}

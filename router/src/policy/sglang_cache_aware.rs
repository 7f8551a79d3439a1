//! The default of SGLang's gateway, now SMG 1.13: `cache_aware` with its defaults
//! (`model_gateway/src/policies/cache_aware.rs` of the release).
//!
//! With `r_i` the gateway's own requests in flight, of those that its [expected wait](super::sglang_wait) does not leave out
//! (where it leaves out all: the fewest in flight):
//!
//! 1. hot is who has more than `mean + max(4, ⌈2 · √mean⌉)` and more than `1.5 · mean` requests in flight. SMG cuts that margin at
//!    64, which decides nothing: from a mean of 16 on, where it is 8, the other limit is the higher one;
//! 2. if the longest match of all is more than 0.3 of the prompt: of those with it who are not hot, the lowest expected wait;
//! 3. if all of them are hot: the lowest expected wait of those who are not (*spill*);
//! 4. if the match is shorter, or who has it is left out: the lowest expected wait of all.
//!
//! Off by default there and absent here: overlap decay, temperature, the triggers by KV spread. The warm-up of new
//! workers goes by the index of KV events, which vLLM over HTTP does not have there. Left out: the detectors of stalled
//! workers. The tree matches characters there and blocks of 16 tokens here; it names at most eight holders there.

use super::sglang_wait::ExpectedWait;
use super::{Choice, Eligible, Fact, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

const CACHE_THRESHOLD: f64 = 0.3;
const BALANCE_REL: f64 = 1.5;
const BALANCE_ABS_MIN: f64 = 4.0;

#[derive(Debug, Default)]
pub(super) struct SglangCacheAware {
    wait: ExpectedWait,
}

impl Policy for SglangCacheAware {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let open = ExpectedWait::open(eligible);
        if open.is_empty() {
            return ExpectedWait::least_loaded(eligible, rng);
        }
        let requests = |index: usize| f64::from(eligible.requests(index));
        let mean = open.iter().map(|&index| requests(index)).sum::<f64>() / open.len() as f64;
        let is_cool = |index: &usize| !is_hot(requests(*index), mean);

        let matched = |index: usize| eligible.matched_tokens(index);
        let longest = (0..eligible.len()).map(matched).max().unwrap_or(0);
        let is_hit = f64::from(longest) > CACHE_THRESHOLD * f64::from(request.prompt_tokens);
        let is_holder = |index: &usize| is_hit && matched(*index) == longest;
        let holders: Vec<usize> = open.iter().copied().filter(is_holder).collect();
        let cool_holders: Vec<usize> = holders.iter().copied().filter(is_cool).collect();

        let (reason, among) = if holders.is_empty() {
            (Reason::NoPrefixHit, open)
        } else if cool_holders.is_empty() {
            (Reason::PrefixHoldersOverloaded, open.into_iter().filter(is_cool).collect())
        } else {
            (Reason::PrefixHit, cool_holders)
        };
        assert!(!among.is_empty(), "who has the fewest requests is not hot");
        self.wait.lowest(reason, eligible, &among, rng)
    }

    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        self.wait.observe(fact);
    }
}

/// The spill gate, of one with so many requests in flight.
fn is_hot(requests: f64, mean: f64) -> bool {
    let margin = (2.0 * mean.sqrt()).ceil().max(BALANCE_ABS_MIN);
    requests > mean + margin && requests > BALANCE_REL * mean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;
    use crate::time::Duration;

    fn choose(fixture: &Fixture) -> (Reason, u32) {
        let (choice, chosen) = fixture.choose(&mut SglangCacheAware::default());
        (choice.reason, chosen)
    }

    #[test]
    fn a_match_counts_above_three_tenths_of_the_prompt() {
        let with_matches = |blocks| Fixture::with_requests(&[2, 1]).with_matches(10, &[blocks, 0]);
        // 48 of 161 tokens are less than 0.3, 64 are more.
        assert_eq!(choose(&with_matches(3)), (Reason::NoPrefixHit, 1));
        assert_eq!(choose(&with_matches(4)), (Reason::PrefixHit, 0));
    }

    /// The reason when the holder of the whole prompt has `holder` requests, each of `others` more `other`.
    fn reason(holder: u32, others: usize, other: u32) -> Reason {
        let mut requests = vec![other; others + 1];
        let mut matched = vec![0; others + 1];
        (requests[0], matched[0]) = (holder, 10);
        let (reason, chosen) =
            choose(&Fixture::with_requests(&requests).with_matches(10, &matched));
        assert_eq!(reason == Reason::PrefixHit, chosen == 0);
        reason
    }

    #[test]
    fn the_gate_opens_two_roots_of_the_mean_above_it() {
        // Of 27 and 13 fourteen times: mean 14 − 1/15, margin ⌈7.47⌉ = 8: 27 is above 21.9 and 20.9.
        assert_eq!(reason(27, 14, 13), Reason::PrefixHoldersOverloaded);
        // Of 21: mean 13.53, margin 8: 21 is above 20.3, but not above 21.53.
        assert_eq!(reason(21, 14, 13), Reason::PrefixHit);
    }

    #[test]
    fn the_largest_margin_that_decides_is_8() {
        assert!(!is_hot(24.0, 16.0) && is_hot(25.0, 16.0));
        // Mean 1,100: the margin is 67, or 64 in SMG, and 1.5 · 1,100 = 1,650.
        assert!(!is_hot(1650.0, 1100.0) && is_hot(1651.0, 1100.0));
    }

    #[test]
    fn the_margin_is_at_least_4() {
        // Of 4 once and 0 fifteen times: mean 0.25, margin 1 raised to 4: 4.25 is not exceeded.
        assert_eq!(reason(4, 15, 0), Reason::PrefixHit);
        // Of 5 once and 0 fifteen times: mean 0.3125, margin 2 raised to 4: 5 is above 4.3125.
        assert_eq!(reason(5, 15, 0), Reason::PrefixHoldersOverloaded);
    }

    #[test]
    fn a_holder_is_spared_only_above_one_and_a_half_times_the_mean() {
        // Of 45 once and 29 fifteen times: mean 30, margin ⌈10.95⌉: 45 is above 41, but not above 45.
        assert_eq!(reason(45, 15, 29), Reason::PrefixHit);
        // Of 44 once and 28 fifteen times: mean 29, margin ⌈10.77⌉: 44 is above 40 and 43.5.
        assert_eq!(reason(44, 15, 28), Reason::PrefixHoldersOverloaded);
    }

    fn polled(requests: &[u32], matched: &[u32], metrics: &[(u32, u32, f64)]) -> Fixture {
        let mut fixture = Fixture::with_requests(requests).with_matches(10, matched);
        fixture.sources.scrape_period = Some(Duration::from_secs(10));
        fixture.with_metrics(metrics)
    }

    #[test]
    fn of_equal_matches_the_lowest_expected_wait_decides() {
        let metrics = [(2, 0, 0.5), (2, 0, 0.4), (0, 0, 0.0)];
        assert_eq!(choose(&polled(&[1, 2, 0], &[9, 9, 8], &metrics)), (Reason::PrefixHit, 1));
        assert_eq!(choose(&polled(&[1, 2, 0], &[0; 3], &metrics)), (Reason::NoPrefixHit, 2));
    }

    #[test]
    fn a_longest_match_that_is_left_out_is_a_miss() {
        // The second holds nearly as much, and is not asked for it.
        let at = |metrics: &[(u32, u32, f64)]| choose(&polled(&[0, 3, 1], &[10, 9, 0], metrics));
        assert_eq!(at(&[(1, 7, 0.79), (0, 0, 0.0), (0, 0, 0.0)]), (Reason::PrefixHit, 0));
        assert_eq!(at(&[(1, 8, 0.1), (0, 0, 0.0), (0, 0, 0.0)]), (Reason::NoPrefixHit, 2));
        assert_eq!(at(&[(1, 0, 0.8), (0, 0, 0.0), (0, 0, 0.0)]), (Reason::NoPrefixHit, 2));
        // All are: the fewest in flight.
        assert_eq!(at(&[(1, 8, 0.1), (0, 9, 0.0), (0, 8, 0.0)]), (Reason::LeastRequests, 0));
    }
}

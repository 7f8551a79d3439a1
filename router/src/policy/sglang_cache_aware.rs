//! The default of SGLang's gateway, now SMG 1.13: `cache_aware` with its defaults.
//!
//! 1. Instances with `waiting ≥ 8` or `kv_usage ≥ 0.8`, as last polled, are left out, unless all are.
//! 2. If the best match is more than 0.3 of the prompt: the longest match, ties by requests in flight, then
//!    drawn. Else the fewest requests in flight.
//! 3. Spill: if the chosen one has more than `mean + margin` and more than `1.5 · mean` requests in flight,
//!    the fewest instead. `margin = min(64, max(4, 2 · stddev))`.
//!
//! Off by default there and absent here: overlap decay, temperature, the triggers by KV spread. The warm-up of new
//! workers goes by the index of KV events, which vLLM over HTTP does not have there. Left out: the detectors of stalled
//! workers. The tree matches characters there and blocks of 16 tokens here.

use super::{Choice, Eligible, OUT_OF_QUESTION, Policy, Spread};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

const CACHE_THRESHOLD: f64 = 0.3;
const BALANCE_ABS: f64 = 64.0;
const BALANCE_REL: f64 = 1.5;
const BALANCE_ABS_MIN: f64 = 4.0;
const OVERLOAD_WAITING_REQUESTS: u32 = 8;
const OVERLOAD_KV_USAGE: f64 = 0.8;

#[derive(Debug)]
pub(super) struct SglangCacheAware;

impl Policy for SglangCacheAware {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let has_room = |index: &usize| {
            eligible.waiting(*index) < OVERLOAD_WAITING_REQUESTS
                && eligible.kv_usage(*index) < OVERLOAD_KV_USAGE
        };
        let none_has_room = !(0..eligible.len()).any(|index| has_room(&index));
        let is_open = |index: &usize| none_has_room || has_room(index);
        let open = || (0..eligible.len()).filter(is_open);

        let longest = open().map(|index| eligible.matched_tokens(index)).max().unwrap_or(0);
        let is_longest = |index: &usize| eligible.matched_tokens(*index) == longest;
        let load = open().filter(is_longest).map(|index| eligible.requests(index)).min();
        let reason = if f64::from(longest) <= CACHE_THRESHOLD * f64::from(request.prompt_tokens) {
            Reason::NoPrefixHit
        } else if is_overloaded(load.unwrap_or(0), open().map(|index| eligible.requests(index))) {
            Reason::PrefixHoldersOverloaded
        } else {
            Reason::PrefixHit
        };

        let requests = |index: usize| f64::from(eligible.requests(index));
        let score = |index: usize| {
            let missing =
                f64::from(request.prompt_tokens) - f64::from(eligible.matched_tokens(index));
            let rank = if reason == Reason::PrefixHit { missing } else { requests(index) };
            if is_open(&index) { rank } else { OUT_OF_QUESTION + rank }
        };
        eligible.lowest_then(reason, rng, score, requests)
    }
}

/// The spill gate.
fn is_overloaded(load: u32, loads: impl Iterator<Item = u32>) -> bool {
    let spread = Spread::of(loads);
    let margin = BALANCE_ABS.min((2.0 * spread.stddev).max(BALANCE_ABS_MIN));
    f64::from(load) > spread.mean + margin && f64::from(load) > BALANCE_REL * spread.mean
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;

    fn choose(fixture: &Fixture) -> (Reason, u32) {
        let (choice, chosen) = fixture.choose(&mut SglangCacheAware);
        (choice.reason, chosen)
    }

    #[test]
    fn a_match_counts_above_three_tenths_of_the_prompt() {
        let with_matches = |blocks| Fixture::with_requests(&[2, 1]).with_matches(10, &[blocks, 0]);
        // 48 of 161 tokens are less than 0.3, 64 are more.
        assert_eq!(choose(&with_matches(3)), (Reason::NoPrefixHit, 1));
        assert_eq!(choose(&with_matches(4)), (Reason::PrefixHit, 0));
    }

    #[test]
    fn the_gate_opens_two_standard_deviations_above_the_mean() {
        // Of 9, 0, 0, 0: mean 2.25, stddev 4.5, margin 9: 11.25 is not exceeded.
        let fixture = Fixture::with_requests(&[9, 0, 0, 0]).with_matches(10, &[10, 0, 0, 0]);
        assert_eq!(choose(&fixture), (Reason::PrefixHit, 0));
        // Of 20 once and 1 nine times: mean 2.9, stddev 6.01, margin 12.02: 20 is above 14.92.
        let mut requests = [1; 10];
        requests[0] = 20;
        let mut matched = [0; 10];
        matched[0] = 10;
        let fixture = Fixture::with_requests(&requests).with_matches(10, &matched);
        let (reason, chosen) = choose(&fixture);
        assert_eq!(reason, Reason::PrefixHoldersOverloaded);
        assert_ne!(chosen, 0);
    }

    /// The reason when the holder of the whole prompt has `holder` requests, each of `others` more `other`.
    fn reason(holder: u32, others: usize, other: u32) -> Reason {
        let mut requests = vec![other; others + 1];
        let mut matched = vec![0; others + 1];
        (requests[0], matched[0]) = (holder, 10);
        choose(&Fixture::with_requests(&requests).with_matches(10, &matched)).0
    }

    #[test]
    fn the_margin_is_at_most_64() {
        // Of 85, 0, 0, 0: mean 21.25, stddev 42.5, 85 cut to 64: 85.25 is not exceeded.
        assert_eq!(reason(85, 3, 0), Reason::PrefixHit);
        // Of 86, 0, 0, 0: mean 21.5, stddev 43, 86 cut to 64: 86 is above 85.5.
        assert_eq!(reason(86, 3, 0), Reason::PrefixHoldersOverloaded);
    }

    #[test]
    fn the_margin_is_at_least_4() {
        // Of 4 once and 0 fifteen times: mean 0.25, stddev 1, 2 raised to 4: 4.25 is not exceeded.
        assert_eq!(reason(4, 15, 0), Reason::PrefixHit);
        // Of 5 once and 0 fifteen times: mean 0.3125, stddev 1.25, 2.5 raised to 4: 5 is above 4.3125.
        assert_eq!(reason(5, 15, 0), Reason::PrefixHoldersOverloaded);
    }

    #[test]
    fn a_holder_is_spared_only_above_one_and_a_half_times_the_mean() {
        // Of 45 once and 29 fifteen times: mean 30, stddev 4, margin 8: 45 is above 38, but not above 45.
        assert_eq!(reason(45, 15, 29), Reason::PrefixHit);
        // Of 44 once and 28 fifteen times: mean 29, stddev 4, margin 8: 44 is above 37 and 43.5.
        assert_eq!(reason(44, 15, 28), Reason::PrefixHoldersOverloaded);
    }

    #[test]
    fn an_instance_that_polls_as_overloaded_is_left_out_unless_all_are() {
        let fixture = |metrics: &[(u32, u32, f64)]| {
            let mut fixture = Fixture::with_requests(&[0, 3]).with_matches(10, &[10, 0]);
            fixture.sources.scrape_period = Some(crate::time::Duration::from_secs(10));
            fixture.with_metrics(metrics)
        };
        assert_eq!(choose(&fixture(&[(1, 7, 0.79), (0, 0, 0.0)])), (Reason::PrefixHit, 0));
        assert_eq!(choose(&fixture(&[(1, 8, 0.1), (0, 0, 0.0)])), (Reason::NoPrefixHit, 1));
        assert_eq!(choose(&fixture(&[(1, 0, 0.8), (0, 0, 0.0)])), (Reason::NoPrefixHit, 1));
        assert_eq!(choose(&fixture(&[(1, 8, 0.1), (0, 9, 0.0)])), (Reason::PrefixHit, 0));
    }
}

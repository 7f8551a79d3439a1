//! The default of vllm-project/router 0.1.17: `cache_aware` (`src/policies/cache_aware.rs` of the release), forked from
//! SGLang's gateway.
//!
//! With `r_i` the router's own requests in flight and `m_i` matched tokens of a prompt of `L`:
//!
//! 1. if `max r − min r > 64` and `max r > 1.5 · min r`: `argmin r_i` for *every* request;
//! 2. else if `max m / L > 0.3`: `argmax m_i`, then `argmin r_i`;
//! 3. else `argmin r_i`;
//!
//! and always the first of equals. (Up to some release before this one a miss went to the smallest tree.) The tree matches
//! single tokens there, as the workers' tokenizers say them, and blocks of 16 here.

use super::{Choice, Eligible, Policy, Spread};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

const CACHE_THRESHOLD: f64 = 0.3;
const BALANCE_ABS: u32 = 64;
const BALANCE_REL: f64 = 1.5;

#[derive(Debug)]
pub(super) struct VllmRouterCacheAware;

impl Policy for VllmRouterCacheAware {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let spread = Spread::of((0..eligible.len()).map(|index| eligible.requests(index)));
        let is_uneven = spread.max - spread.min > BALANCE_ABS
            && f64::from(spread.max) > BALANCE_REL * f64::from(spread.min);
        let matched = |index: usize| f64::from(eligible.matched_tokens(index));
        let prompt = f64::from(request.prompt_tokens);
        let is_hit = |index| matched(index) > CACHE_THRESHOLD * prompt;
        // The first of equals: requests and place as one order.
        let count = eligible.len() as f64;
        let place = |index: usize| f64::from(eligible.requests(index)) * count + index as f64;
        if !is_uneven && (0..eligible.len()).any(is_hit) {
            let missing = |index| prompt - matched(index);
            return eligible.lowest_then(Reason::PrefixHit, rng, missing, place);
        }
        let reason = if is_uneven { Reason::LoadImbalance } else { Reason::NoPrefixHit };
        let requests = |index: usize| f64::from(eligible.requests(index));
        eligible.lowest_then(reason, rng, requests, |index| index as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;

    fn choose(requests: &[u32], matched_blocks: &[u32]) -> (Reason, u32) {
        let fixture = Fixture::with_requests(requests).with_matches(10, matched_blocks);
        let (choice, chosen) = fixture.choose(&mut VllmRouterCacheAware);
        (choice.reason, chosen)
    }

    #[test]
    fn a_miss_goes_to_the_first_of_the_fewest_in_flight() {
        // 48 of 161 tokens are less than 0.3, 64 are more.
        assert_eq!(choose(&[9, 2, 2], &[3, 0, 0]), (Reason::NoPrefixHit, 1));
        assert_eq!(choose(&[9, 2, 2], &[4, 0, 0]), (Reason::PrefixHit, 0));
    }

    #[test]
    fn of_equal_matches_the_first_of_the_fewest_in_flight_decides() {
        assert_eq!(choose(&[9, 3, 2, 2], &[8, 9, 9, 9]), (Reason::PrefixHit, 2));
    }

    #[test]
    fn an_uneven_fleet_has_no_affinity() {
        assert_eq!(choose(&[65, 1, 1], &[9, 0, 0]), (Reason::PrefixHit, 0));
        // The first of the two that are equal.
        assert_eq!(choose(&[66, 1, 1], &[9, 0, 0]), (Reason::LoadImbalance, 1));
        // 210 is not more than 1.5 times 140.
        assert_eq!(choose(&[210, 140, 140], &[9, 0, 0]), (Reason::PrefixHit, 0));
    }
}

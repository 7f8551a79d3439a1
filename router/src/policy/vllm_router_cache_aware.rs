//! The default of vllm-project/router 0.1.17: `cache_aware`, forked from SGLang's gateway before its
//! repairs.
//!
//! With `r_i` the router's own requests in flight and `m_i` matched tokens of a prompt of `L`:
//!
//! 1. if `max r − min r > 64` and `max r > 1.5 · min r`: `argmin r_i` for *every* request, the first of
//!    equals;
//! 2. else if `max m / L > 0.3`: `argmax m_i`, ties drawn (there: whichever the tree's hash map names first);
//! 3. else the instance with the smallest tree, ties drawn.
//!
//! Rule 3 is not a mistake in this file: a miss goes where the least was sent, however busy that is. The
//! tree matches characters there and blocks of 16 tokens here.

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
        if spread.max - spread.min > BALANCE_ABS
            && f64::from(spread.max) > BALANCE_REL * f64::from(spread.min)
        {
            let requests = |index: usize| f64::from(eligible.requests(index));
            return eligible
                .lowest_then(Reason::LoadImbalance, rng, requests, |index| index as f64);
        }
        let matched = |index: usize| f64::from(eligible.matched_tokens(index));
        let prompt = f64::from(request.prompt_tokens);
        if (0..eligible.len()).any(|index| matched(index) > CACHE_THRESHOLD * prompt) {
            return eligible.lowest(Reason::PrefixHit, rng, |index| prompt - matched(index));
        }
        eligible.lowest(Reason::SmallestTree, rng, |index| eligible.held_tokens(index) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;

    fn choose(requests: &[u32], matched_blocks: &[u32], held_blocks: &[u64]) -> (Reason, u32) {
        let fixture = Fixture::with_requests(requests)
            .with_matches(10, matched_blocks)
            .with_held_blocks(held_blocks);
        let (choice, chosen) = fixture.choose(&mut VllmRouterCacheAware);
        (choice.reason, chosen)
    }

    #[test]
    fn a_miss_goes_to_the_smallest_tree_however_busy() {
        assert_eq!(choose(&[0, 60], &[3, 0], &[8, 7]), (Reason::SmallestTree, 1));
        assert_eq!(choose(&[0, 60], &[4, 0], &[8, 7]), (Reason::PrefixHit, 0));
    }

    #[test]
    fn an_uneven_fleet_has_no_affinity() {
        let held = [0, 0, 0];
        assert_eq!(choose(&[65, 1, 1], &[9, 0, 0], &held), (Reason::PrefixHit, 0));
        // The first of the two that are equal.
        assert_eq!(choose(&[66, 1, 1], &[9, 0, 0], &held), (Reason::LoadImbalance, 1));
        // 210 is not more than 1.5 times 140.
        assert_eq!(choose(&[210, 140, 140], &[9, 0, 0], &held), (Reason::PrefixHit, 0));
    }
}

//! Consistent hashing of the prompt's head with bounded load. Source: Mirrokni, Thorup and Zadimoghaddam,
//! "Consistent Hashing with Bounded Loads", SODA 2018, with the key and bounds of SMG 1.13's `prefix_hash`.
//!
//! The key is the prompt's first 256 tokens (as many whole blocks as it has, if fewer). Instances are ranked
//! by `hash(key, i)`; the first that is not above *both* `1.25 · mean r` and `mean r + 10` requests in flight
//! takes the request. A prompt without a whole block goes to the fewest requests in flight.
//!
//! SMG walks a ring of virtual nodes. Ranking every instance by its own hash (rendezvous hashing, Thaler and
//! Ravishankar, 1998) keeps what matters, that only an instance's own keys move when it comes or goes, spreads
//! the keys more evenly, and needs no ring.

use super::{Choice, Eligible, Policy, Spread};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

const KEY_TOKENS: usize = 256;
const LOAD_FACTOR: f64 = 1.25;
const LOAD_SLACK: f64 = 10.0;

#[derive(Debug)]
pub(super) struct BoundedHash;

impl Policy for BoundedHash {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let requests = |index: usize| f64::from(eligible.requests(index));
        let key_blocks = (KEY_TOKENS / eligible.match_block_tokens as usize).max(1);
        let key = request.block_hashes.iter().take(key_blocks).next_back();
        let Some(key) = key else {
            return eligible.lowest(Reason::LeastRequests, rng, requests);
        };
        let spread = Spread::of((0..eligible.len()).map(|index| eligible.requests(index)));
        let limit = (LOAD_FACTOR * spread.mean).max(spread.mean + LOAD_SLACK);
        eligible.lowest(Reason::ConsistentHash, rng, |index| {
            let rank = rank(key.0, eligible.get(index).id.0);
            if requests(index) > limit { 1.0 + rank } else { rank }
        })
    }
}

/// Where an instance stands for a key, 0 to 1: the finaliser of MurmurHash3.
pub(super) fn rank(key: u64, instance: u32) -> f64 {
    let mut hash = key ^ (u64::from(instance) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash = (hash ^ hash >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ hash >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((hash ^ hash >> 33) >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;

    #[test]
    fn the_same_head_goes_to_the_same_instance_and_only_its_own_keys_move() {
        let rank_of = |key: u64| -> Vec<u32> {
            let mut ids: Vec<u32> = (0..5).collect();
            ids.sort_by(|&a, &b| rank(key, a).total_cmp(&rank(key, b)));
            ids
        };
        let mut counts = [0; 5];
        for key in 0..5_000 {
            counts[rank_of(key)[0] as usize] += 1;
        }
        // Five standard deviations of a binomial with n = 5,000 and p = 1/5 are 141.
        assert!(counts.iter().all(|&count: &i32| count.abs_diff(1_000) < 145), "{counts:?}");
    }

    #[test]
    fn an_instance_above_both_bounds_is_passed_over() {
        let fixture =
            |requests: &[u32]| Fixture::with_requests(requests).with_matches(16, &[0, 0, 0]);
        let first = fixture(&[0, 0, 0]).choose(&mut BoundedHash).1;
        let mut requests = [0, 0, 0];
        // Mean 5, bound 15; mean 5 1/3, bound 15 1/3.
        requests[first as usize] = 15;
        assert_eq!(fixture(&requests).choose(&mut BoundedHash).1, first);
        requests[first as usize] = 16;
        assert_ne!(fixture(&requests).choose(&mut BoundedHash).1, first);
    }

    #[test]
    fn a_prompt_without_a_block_goes_to_the_least_loaded() {
        let (choice, chosen) = Fixture::with_requests(&[2, 1]).choose(&mut BoundedHash);
        assert_eq!((choice.reason, chosen), (Reason::LeastRequests, 1));
    }
}

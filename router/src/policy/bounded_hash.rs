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
    use std::collections::BTreeSet;

    use super::*;
    use crate::policy::fixtures::Fixture;
    use crate::request::BlockHash;

    /// Five idle instances and a prompt of 17 blocks, the block at `place` being `hash`.
    fn with_block(place: usize, hash: u64) -> Fixture {
        let mut fixture = Fixture::with_requests(&[0; 5]).with_matches(17, &[0; 5]);
        fixture.prompt_blocks[place] = BlockHash(hash);
        fixture
    }

    #[test]
    fn the_same_head_goes_to_the_same_instance_and_only_its_own_keys_move() {
        let (mut before, mut after) = ([0; 5], [0; 5]);
        for key in 0..5_000 {
            let mut fixture = with_block(15, key);
            let owner = fixture.choose(&mut BoundedHash).1;
            fixture.prompt_blocks[16] = BlockHash(key);
            assert_eq!(fixture.choose(&mut BoundedHash).1, owner);
            // Instance 1 leaves, so that those behind it move up.
            fixture.only(&[0, 2, 3, 4]);
            let heir = fixture.choose(&mut BoundedHash).1;
            assert!(heir == owner || owner == 1, "key {key} moved from {owner} to {heir}");
            before[owner as usize] += 1;
            after[heir as usize] += 1;
        }
        // Five standard deviations of a binomial with n = 5,000 and p = 1/5 are 141; with p = 1/4, 153.
        assert!(before.iter().all(|&count: &i32| count.abs_diff(1_000) < 145), "{before:?}");
        assert_eq!(after[1], 0);
        let stayed = [after[0], after[2], after[3], after[4]];
        assert!(stayed.iter().all(|&count: &i32| count.abs_diff(1_250) < 155), "{stayed:?}");
    }

    #[test]
    fn the_head_is_256_tokens() {
        let chosen = |place| -> BTreeSet<u32> {
            (0..100).map(|hash| with_block(place, hash).choose(&mut BoundedHash).1).collect()
        };
        // Sixteen blocks of 16 tokens: what the last of them is decides, not what comes after.
        assert_eq!(chosen(15).len(), 5);
        assert_eq!(chosen(16).len(), 1);
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
    fn a_busy_fleet_bounds_by_a_quarter_above_the_mean() {
        let fixture =
            |requests: &[u32]| Fixture::with_requests(requests).with_matches(16, &[0, 0, 0]);
        let first = fixture(&[0, 0, 0]).choose(&mut BoundedHash).1;
        let mut requests = [70, 70, 70];
        // Mean 80, bounds 100 and 90; mean 80 1/3, bounds 100 5/12 and 90 1/3.
        requests[first as usize] = 100;
        assert_eq!(fixture(&requests).choose(&mut BoundedHash).1, first);
        requests[first as usize] = 101;
        assert_ne!(fixture(&requests).choose(&mut BoundedHash).1, first);
    }

    #[test]
    fn a_prompt_without_a_block_goes_to_the_least_loaded() {
        let (choice, chosen) = Fixture::with_requests(&[2, 1]).choose(&mut BoundedHash);
        assert_eq!((choice.reason, chosen), (Reason::LeastRequests, 1));
    }
}

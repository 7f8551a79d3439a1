//! The longest cached prefix if it is long enough, else the fewest requests. Source: the baseline
//! `prefix_hit_threshold_or_least_request` of the Lodestar authors' repository, run there with thresholds
//! of 20, 40, 60 and 80 percent.
//!
//! With `h_i` the percentage, rounded down, of the prompt's full blocks on instance `i`, and `r_i` requests
//! in flight: if `max h > threshold_percent`, `argmax h_i`, ties by `r_i`, then drawn; else `argmin r_i`,
//! ties drawn. (What the original does with equal hits is not known.)

use serde::{Deserialize, Serialize};

use super::{Choice, Eligible, Policy, percent};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

/// Parameters of [`PolicyConfig::PrefixHitThreshold`](crate::PolicyConfig::PrefixHitThreshold).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixHitThresholdParams {
    /// The prefix counts only above this percentage of the prompt. At most 100.
    #[serde(deserialize_with = "percent")]
    pub threshold_percent: u8,
}

impl Default for PrefixHitThresholdParams {
    /// The original's default.
    fn default() -> Self {
        Self { threshold_percent: 50 }
    }
}

#[derive(Debug)]
pub(super) struct PrefixHitThreshold {
    params: PrefixHitThresholdParams,
}

impl PrefixHitThreshold {
    pub(super) const fn new(params: PrefixHitThresholdParams) -> Self {
        Self { params }
    }
}

impl Policy for PrefixHitThreshold {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let hit = |index: usize| eligible.hit_percent(index, request);
        let requests = |index: usize| f64::from(eligible.requests(index));
        let longest = (0..eligible.len()).map(hit).max().unwrap_or(0);
        if longest > u64::from(self.params.threshold_percent) {
            return eligible.lowest_then(
                Reason::PrefixHit,
                rng,
                |index| (100 - hit(index)) as f64,
                requests,
            );
        }
        eligible.lowest(Reason::NoPrefixHit, rng, requests)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;
    use crate::request::BlockHash;

    fn choose(threshold_percent: u8, requests: &[u32], matched_blocks: &[u32]) -> (Reason, u32) {
        let mut policy = PrefixHitThreshold::new(PrefixHitThresholdParams { threshold_percent });
        let fixture = Fixture::with_requests(requests).with_matches(10, matched_blocks);
        let (choice, chosen) = fixture.choose(&mut policy);
        (choice.reason, chosen)
    }

    #[test]
    fn a_prefix_counts_above_the_threshold_and_not_at_it() {
        // 60 percent on the busiest instance.
        assert_eq!(choose(59, &[9, 1, 0], &[6, 5, 0]), (Reason::PrefixHit, 0));
        assert_eq!(choose(60, &[9, 1, 0], &[6, 5, 0]), (Reason::NoPrefixHit, 2));
    }

    #[test]
    fn of_equal_prefixes_the_less_loaded_is_chosen() {
        assert_eq!(choose(50, &[3, 2, 0], &[8, 8, 0]), (Reason::PrefixHit, 1));
    }

    #[test]
    fn the_threshold_is_of_the_indexs_blocks_whatever_the_routers_are() {
        let mut policy =
            PrefixHitThreshold::new(PrefixHitThresholdParams { threshold_percent: 60 });
        let mut fixture = Fixture::with_requests(&[9, 0]).with_matches(10, &[7, 0]);
        // Hashes of 8 tokens for ten blocks of 16.
        fixture.prompt_blocks = (0..20).map(BlockHash).collect();
        assert_eq!(fixture.choose(&mut policy).1, 0);
    }
}

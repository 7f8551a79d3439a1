//! Prefix-cache- and load-aware routing. Source: AIBrix `prefix-cache`, the paper's `prefix_cache_1`.
//!
//! With `r_i` requests in flight, and `h_i` the percentage, rounded down, of the prompt's full blocks
//! that instance `i` holds from the first on:
//!
//! 1. if `max r − min r > imbalance_threshold_requests`: `argmin r_i`, ties drawn;
//! 2. else, of the instances that hold at least one block, in order of `h_i` descending and then `r_i`
//!    ascending, the first with `r_i ≤ mean(r) + stddev_factor · stddev(r)`, ties drawn;
//! 3. else `argmin r_i`, ties drawn.
//!
//! `stddev` divides by `n − 1`, as AIBrix does. It has no such value for one instance and then falls
//! through to rule 3; here it is 0 and rule 2 holds, with the same choice and a truer reason.

use serde::{Deserialize, Serialize};

use super::{Choice, Eligible, Policy, Spread, finite_and_not_negative};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

/// Parameters of [`PolicyConfig::PrefixCache`](crate::PolicyConfig::PrefixCache).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PrefixCacheParams {
    /// Prefixes count only while the most and the least loaded instance are at most this many requests
    /// apart.
    pub imbalance_threshold_requests: u32,
    /// An instance is overloaded above the mean plus this many standard deviations of requests in
    /// flight. Finite, not negative.
    #[serde(deserialize_with = "finite_and_not_negative")]
    pub stddev_factor: f64,
}

impl Default for PrefixCacheParams {
    fn default() -> Self {
        Self { imbalance_threshold_requests: 8, stddev_factor: 1.0 }
    }
}

#[derive(Debug)]
pub(super) struct PrefixCache {
    params: PrefixCacheParams,
}

impl PrefixCache {
    pub(super) const fn new(params: PrefixCacheParams) -> Self {
        Self { params }
    }
}

impl Policy for PrefixCache {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let spread = Spread::of((0..eligible.len()).map(|index| eligible.requests(index)));
        let imbalanced = spread.max - spread.min > self.params.imbalance_threshold_requests;
        let limit = spread.mean + self.params.stddev_factor * spread.stddev;
        let requests = |index: usize| f64::from(eligible.requests(index));
        let holds_prefix = |index: usize| eligible.matched_blocks(index) > 0;
        let by_prefix =
            |index: usize| !imbalanced && holds_prefix(index) && requests(index) <= limit;

        // The three rules as one order. Rule 2's candidates lie in [0, 101): the percentage missing, and
        // below the point the load. All others come after, by load alone.
        let mut choice = eligible.lowest(Reason::PrefixHit, rng, |index| {
            let requests = requests(index);
            if by_prefix(index) {
                (100 - eligible.hit_percent(index, request)) as f64 + requests / (requests + 1.0)
            } else {
                101.0 + requests
            }
        });
        choice.reason = if imbalanced {
            Reason::LoadImbalance
        } else if by_prefix(choice.index) {
            Reason::PrefixHit
        } else if (0..eligible.len()).any(holds_prefix) {
            Reason::PrefixHoldersOverloaded
        } else {
            Reason::NoPrefixHit
        };
        choice
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{Fixture, frequencies};

    fn choose(requests: &[u32], matched_blocks: &[u32]) -> (Choice, u32) {
        Fixture::with_requests(requests).with_matches(10, matched_blocks).choose(&mut policy())
    }

    fn policy() -> PrefixCache {
        PrefixCache::new(PrefixCacheParams::default())
    }

    fn check(requests: &[u32], matched_blocks: &[u32], expected: u32, reason: Reason) {
        let (choice, chosen) = choose(requests, matched_blocks);
        assert_eq!((chosen, choice.reason), (expected, reason), "{choice:?}");
    }

    #[test]
    fn the_longest_prefix_is_chosen_although_it_is_busier() {
        // Mean 3, standard deviation sqrt(4/3) = 1.15: the limit is 4.15.
        check(&[2, 4, 2, 4], &[2, 9, 0, 8], 1, Reason::PrefixHit);
    }

    #[test]
    fn of_equal_prefixes_the_less_loaded_is_chosen() {
        check(&[5, 3, 4], &[6, 6, 6], 1, Reason::PrefixHit);
    }

    #[test]
    fn an_overloaded_holder_is_passed_over_for_the_next_best() {
        // Mean 3, standard deviation sqrt(12) = 3.46: 7 is over the limit of 6.46, 1 is not.
        check(&[7, 1, 1], &[9, 0, 3], 2, Reason::PrefixHit);
        check(&[7, 1, 2], &[9, 0, 0], 1, Reason::PrefixHoldersOverloaded);
    }

    #[test]
    fn the_limit_itself_is_not_overload() {
        // Equal loads: the standard deviation is 0 and the limit is the mean.
        check(&[4, 4, 4], &[0, 1, 0], 1, Reason::PrefixHit);
    }

    #[test]
    fn the_standard_deviation_divides_by_one_less_than_the_count() {
        // Mean 2.5. Dividing by n - 1 gives 2.12 and a limit of 4.2; dividing by n, 1.5 and 3.7.
        let mut policy = PrefixCache::new(PrefixCacheParams {
            stddev_factor: 0.8,
            ..PrefixCacheParams::default()
        });
        let fixture = Fixture::with_requests(&[1, 4]).with_matches(10, &[0, 5]);
        assert_eq!(fixture.choose(&mut policy).1, 1);
    }

    #[test]
    fn without_any_prefix_the_least_loaded_is_chosen() {
        check(&[3, 2, 5], &[0, 0, 0], 1, Reason::NoPrefixHit);
    }

    #[test]
    fn an_imbalance_above_eight_overrules_prefixes() {
        // Eight apart: mean 17/3, standard deviation 4.16, limit 9.83, so the holder is still taken.
        check(&[9, 1, 7], &[10, 0, 0], 0, Reason::PrefixHit);
        check(&[10, 1, 7], &[10, 0, 0], 1, Reason::LoadImbalance);
    }

    #[test]
    fn percentages_are_rounded_down_before_they_are_compared() {
        // 201 and 202 blocks of 300 are both 67 %: the load decides.
        let fixture = Fixture::with_requests(&[3, 2]).with_matches(300, &[202, 201]);
        assert_eq!(fixture.choose(&mut policy()).1, 1);
        // One block of 300 is 0 % and still a hit.
        let fixture = Fixture::with_requests(&[3, 2]).with_matches(300, &[1, 0]);
        assert_eq!(fixture.choose(&mut policy()).1, 0);
    }

    #[test]
    fn holders_that_are_equal_in_all_are_drawn() {
        let fixture = Fixture::with_requests(&[2, 2, 2]).with_matches(10, &[7, 3, 7]);
        let (choice, counts) = frequencies(&mut policy(), &fixture, 1000);
        assert_eq!(choice.propensity.to_bits(), 0.5_f64.to_bits());
        // Five standard deviations of a binomial with n = 1,000 and p = 1/2 are 79.
        assert!(counts[0].abs_diff(500) < 80 && counts[1] == 0, "{counts:?}");
    }

    #[test]
    fn a_single_holder_is_a_hit() {
        check(&[3], &[1], 0, Reason::PrefixHit);
    }

    #[test]
    fn a_factor_that_orders_nothing_is_refused() {
        use serde::de::IntoDeserializer as _;
        use serde::de::value::{Error, F64Deserializer};
        let read = |factor: f64| {
            let deserializer: F64Deserializer<Error> = factor.into_deserializer();
            finite_and_not_negative(deserializer)
        };
        assert!(read(0.0).is_ok());
        for factor in [f64::NAN, f64::INFINITY, -0.1] {
            assert!(read(factor).is_err(), "{factor}");
        }
    }
}

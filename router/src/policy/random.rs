//! Uniform random: the baseline that any signal has to beat. Source: AIBrix `random`.

use super::{Choice, Eligible, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

#[derive(Debug)]
pub(super) struct Random;

impl Policy for Random {
    fn choose(
        &mut self,
        _: Time,
        _: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let index = rng.below(eligible.len());
        let propensity = 1.0 / eligible.len() as f64;
        Choice {
            index,
            reason: Reason::Random,
            propensity,
            explored: false,
            candidates: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{Fixture, frequencies};

    #[test]
    fn each_instance_is_as_likely_as_its_propensity_says() {
        let fixture = Fixture::with_requests(&[9, 0, 3, 5]);
        let (choice, counts) = frequencies(&mut Random, &fixture, 40_000);
        assert!((choice.propensity - 0.25).abs() < 1e-12);
        assert_eq!(choice.candidates, []);
        // Five standard deviations of a binomial with n = 40,000 and p = 1/4 are 433.
        assert!(counts.iter().all(|count| count.abs_diff(10_000) < 440), "{counts:?}");
    }
}

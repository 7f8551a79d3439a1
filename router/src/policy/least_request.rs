//! Fewest requests in flight. Source: AIBrix `least-request`, which counts the requests that its gateway has
//! sent and not seen end.
//!
//! `argmin requests_i`, ties drawn.

use super::{Choice, Eligible, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

#[derive(Debug)]
pub(super) struct LeastRequest;

impl Policy for LeastRequest {
    fn choose(
        &mut self,
        _: Time,
        _: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        eligible.lowest(Reason::LeastRequests, rng, |index| f64::from(eligible.requests(index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{Fixture, frequencies};

    #[test]
    fn the_least_loaded_is_chosen_and_every_score_is_reported() {
        let (choice, chosen) = Fixture::with_requests(&[4, 2, 7]).choose(&mut LeastRequest);
        assert_eq!(chosen, 1);
        assert_eq!(choice.propensity.to_bits(), 1_f64.to_bits());
        let scores: Vec<_> = choice.candidates.iter().map(|candidate| candidate.score).collect();
        assert_eq!(scores, [4.0, 2.0, 7.0]);
    }

    #[test]
    fn ties_are_drawn_evenly() {
        let fixture = Fixture::with_requests(&[2, 5, 2, 2]);
        let (choice, counts) = frequencies(&mut LeastRequest, &fixture, 30_000);
        assert!((choice.propensity - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(counts[1], 0);
        // Five standard deviations of a binomial with n = 30,000 and p = 1/3 are 408.
        assert!(
            [counts[0], counts[2], counts[3]].iter().all(|count| count.abs_diff(10_000) < 410),
            "{counts:?}"
        );
    }
}

//! The better of two. Source: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing",
//! IEEE TPDS 2001: almost all of least-request's balance, at a cost that the fleet's size does not
//! change.
//!
//! Draw `i ≠ j`; `argmin requests` of the two, a tie drawn.

use super::{Choice, Eligible, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

#[derive(Debug)]
pub(super) struct PowerOfTwo;

impl Policy for PowerOfTwo {
    fn choose(
        &mut self,
        _: Time,
        _: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let score = |index: usize| f64::from(eligible.requests(index));
        let (low, high) = draw_two(eligible.len(), rng);
        let mut candidates = vec![eligible.candidate(low, score(low))];
        if low == high {
            return Choice {
                index: low,
                reason: Reason::PowerOfTwo,
                propensity: 1.0,
                explored: false,
                candidates,
            };
        }
        candidates.push(eligible.candidate(high, score(high)));
        let (index, propensity) = match score(low).total_cmp(&score(high)) {
            std::cmp::Ordering::Less => (low, 1.0),
            std::cmp::Ordering::Greater => (high, 1.0),
            std::cmp::Ordering::Equal => ([low, high][rng.below(2)], 0.5),
        };
        Choice { index, reason: Reason::PowerOfTwo, propensity, explored: false, candidates }
    }
}

/// Two different numbers below `count`, ascending; twice the same if there is only one.
fn draw_two(count: usize, rng: &mut Rng) -> (usize, usize) {
    if count == 1 {
        return (0, 0);
    }
    let first = rng.below(count);
    // The second is drawn from the others: skip over the first.
    let second = rng.below(count - 1);
    let second = second + usize::from(second >= first);
    (first.min(second), first.max(second))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{Fixture, frequencies};

    #[test]
    fn the_frequencies_are_those_of_all_pairs() {
        // Six pairs of 0:[1], 1:[0], 2:[1], 3:[2]. Instance 1 wins its three, 3 loses its three, 0 and 2
        // beat 3 and share the one between them: 3/6, 0, and 1.5/6 each.
        let fixture = Fixture::with_requests(&[1, 0, 1, 2]);
        let (choice, counts) = frequencies(&mut PowerOfTwo, &fixture, 40_000);
        assert_eq!(choice.candidates.len(), 2);
        assert_eq!(counts[3], 0);
        // Five standard deviations of a binomial with n = 40,000: p = 1/4 gives 433, p = 1/2 gives 500.
        assert!(counts[0].abs_diff(10_000) < 440 && counts[2].abs_diff(10_000) < 440, "{counts:?}");
        assert!(counts[1].abs_diff(20_000) < 510, "{counts:?}");
    }

    #[test]
    fn only_a_tie_is_drawn() {
        assert_eq!(
            Fixture::with_requests(&[3, 3]).choose(&mut PowerOfTwo).0.propensity.to_bits(),
            0.5_f64.to_bits()
        );
        let (choice, chosen) = Fixture::with_requests(&[3, 2]).choose(&mut PowerOfTwo);
        assert_eq!((chosen, choice.propensity.to_bits()), (1, 1_f64.to_bits()));
    }

    #[test]
    fn a_single_instance_is_compared_with_nobody() {
        let (choice, chosen) = Fixture::with_requests(&[8]).choose(&mut PowerOfTwo);
        assert_eq!((chosen, choice.candidates.len()), (0, 1));
    }
}

//! vLLM production-stack's `prefixaware`: the longest match in a trie that never forgets.
//!
//! `argmax m_i` with `m_i` matched chunks of 128 characters, about 32 tokens; ties, and with no match the
//! whole fleet, drawn. Load is not looked at.

use super::{Choice, Eligible, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

#[derive(Debug)]
pub(super) struct ProductionStack;

impl Policy for ProductionStack {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let missing = |index: usize| {
            f64::from(request.prompt_tokens) - f64::from(eligible.matched_tokens(index))
        };
        let mut choice = eligible.lowest(Reason::PrefixHit, rng, missing);
        if eligible.matched_blocks(choice.index) == 0 {
            choice.reason = Reason::NoPrefixHit;
        }
        choice
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{Fixture, frequencies};

    #[test]
    fn the_longest_match_wins_whatever_the_load() {
        let fixture = Fixture::with_requests(&[99, 0, 0]).with_matches(10, &[2, 1, 0]);
        let (choice, chosen) = fixture.choose(&mut ProductionStack);
        assert_eq!((choice.reason, chosen), (Reason::PrefixHit, 0));
    }

    #[test]
    fn without_a_match_everybody_is_drawn() {
        let fixture = Fixture::with_requests(&[99, 0]).with_matches(10, &[0, 0]);
        let (choice, counts) = frequencies(&mut ProductionStack, &fixture, 1000);
        assert_eq!(choice.reason, Reason::NoPrefixHit);
        assert!(counts.iter().all(|&count| count > 400), "{counts:?}");
    }
}

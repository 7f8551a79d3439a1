//! Fewest tokens in flight. Source: the mode that users of token-blind balancers ask for (ai-dynamo#9259),
//! AIBrix `least-busy-time` in tokens instead of seconds.
//!
//! `argmin Σ (prompt + output so far)` over the requests in flight, ties drawn.

use super::{Choice, Eligible, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

#[derive(Debug)]
pub(super) struct LeastTokens;

impl Policy for LeastTokens {
    fn choose(
        &mut self,
        _: Time,
        _: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        eligible.lowest(Reason::LeastTokens, rng, |index| {
            eligible.get(index).load.context_tokens as f64
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;

    #[test]
    fn tokens_count_and_requests_do_not() {
        let fixture = Fixture::with_requests(&[1, 9]).with_tokens(&[(0, 5000), (0, 900)]);
        assert_eq!(fixture.choose(&mut LeastTokens).1, 1);
    }
}

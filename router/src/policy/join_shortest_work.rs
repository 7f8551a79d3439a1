//! Join the shortest work: what a perfect ledger can do without a model of time.
//!
//! `argmin U_i + (L − h_i) + 2 · m · r_i` in tokens to prefill, ties drawn: `U_i` uncached prompt tokens in
//! flight without a first token, `h_i` cached tokens of the prompt of `L`, `r_i` requests in flight, `m` the
//! mean length of the answers so far (0 before the first). A request that has answered `k` tokens is expected
//! to answer `m` more, whatever `k`: lengths are unknown, and nearly memoryless.
//!
//! One token in decode costs as much as about two in prefill: 0.298 ms against 0.135 ms in the fit of the
//! Lodestar authors' L20 logs. The source of the idea is join-the-shortest-queue with work in place of
//! jobs; with equal servers it is the optimum that the counting policies approximate.

use super::{Choice, Eligible, Fact, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

/// Prefill tokens that cost as much as one in decode.
const DECODE_COST: u64 = 2;

#[derive(Debug, Default)]
pub(super) struct JoinShortestWork {
    answers: u64,
    answer_tokens: u64,
}

impl Policy for JoinShortestWork {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let mean_answer_tokens = self.answer_tokens / self.answers.max(1);
        eligible.lowest(Reason::LeastCost, rng, |index| {
            let load = eligible.get(index).load;
            let prefill =
                load.uncached_prefill_tokens + u64::from(eligible.uncached_tokens(index, request));
            (prefill + DECODE_COST * mean_answer_tokens * u64::from(load.requests)) as f64
        })
    }

    fn observe(&mut self, _: Time, fact: &Fact<'_>) {
        if let Fact::Finished(_, usage) = fact {
            self.answers += 1;
            self.answer_tokens += u64::from(usage.output_tokens);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Usage;
    use crate::policy::fixtures::Fixture;

    #[test]
    fn work_is_tokens_to_prefill_and_answers_to_come() {
        let fixture = Fixture::with_requests(&[1, 2])
            .with_matches(10, &[10, 0])
            .with_tokens(&[(500, 900), (300, 400)]);
        let mut policy = JoinShortestWork::default();
        // 500 + 161 − 160; 300 + 161.
        assert_eq!(fixture.scores(&mut policy), [501.0, 461.0]);
        for output_tokens in [10, 30] {
            let usage = Usage { output_tokens, ..Usage::default() };
            let reservation = Fixture::reservation(1, 0, 1);
            policy.observe(Time::ZERO, &Fact::Finished(&reservation, usage));
        }
        // Two tokens for each of 20 for each request.
        assert_eq!(fixture.scores(&mut policy), [541.0, 541.0]);
    }
}

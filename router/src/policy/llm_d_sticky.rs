//! llm-d's default since August 2026, "sticky until saturated": prefix affinity filter, then token load.
//!
//! With `U_i` the uncached prompt tokens in flight on instance `i`, `h_i` the part of the prompt's full blocks that it holds, and `s_i`
//! the tokens of the request that are uncached there:
//!
//! 1. sticky are those with `h_i ≥ 0.80`. If there are any, and the best of them is not more than
//!    18,000 ms behind the best of all by `U_i / 15,928 tokens/s`, the others are filtered out;
//! 2. `argmin U_i + s_i` (scorer `1 − min(1, (U_i + s_i) / 4,194,304)`), ties drawn.
//!
//! 15,928 tokens/s is llm-d's measurement of Qwen3-32B on two H100, its default for every model on every
//! GPU. Tokens are released at the first token, as llm-d does with streams.
//! Exploration is 0 by default and absent.

use super::{Choice, Eligible, OUT_OF_QUESTION, Policy};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

const AFFINITY_THRESHOLD: f64 = 0.80;
const MAX_TTFT_PENALTY_SECS: f64 = 18.0;
const PEAK_PREFILL_TOKENS_PER_SEC: f64 = 15_928.0;
const TOKENS_MAX: f64 = 4_194_304.0;

#[derive(Debug)]
pub(super) struct LlmDSticky;

impl Policy for LlmDSticky {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let tokens = |index: usize| eligible.get(index).load.uncached_prefill_tokens as f64;
        let is_sticky = |index: &usize| eligible.hit_ratio(*index, request) >= AFFINITY_THRESHOLD;
        let all = (0..eligible.len()).map(tokens).min_by(f64::total_cmp).unwrap_or(0.0);
        let sticky = (0..eligible.len()).filter(is_sticky).map(tokens).min_by(f64::total_cmp);
        let reason = match sticky {
            None => Reason::NoPrefixHit,
            Some(best) if (best - all) / PEAK_PREFILL_TOKENS_PER_SEC > MAX_TTFT_PENALTY_SECS => {
                Reason::PrefixHoldersOverloaded
            }
            Some(_) => Reason::PrefixHit,
        };
        eligible.lowest(reason, rng, |index| {
            let own = f64::from(eligible.uncached_tokens(index, request));
            let load = (tokens(index) + own).min(TOKENS_MAX);
            let is_filtered = reason == Reason::PrefixHit && !is_sticky(&index);
            if is_filtered { OUT_OF_QUESTION + load } else { load }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::Fixture;

    fn choose(matched_blocks: &[u32], tokens: &[u64]) -> (Reason, u32) {
        let tokens: Vec<_> = tokens.iter().map(|&tokens| (tokens, tokens)).collect();
        let fixture = Fixture::with_requests(&vec![1; tokens.len()])
            .with_matches(100, matched_blocks)
            .with_tokens(&tokens);
        let (choice, chosen) = fixture.choose(&mut LlmDSticky);
        (choice.reason, chosen)
    }

    #[test]
    fn it_sticks_until_18_seconds_behind() {
        // 18 s at 15,928 tokens/s are 286,704 tokens.
        assert_eq!(choose(&[90, 0], &[286_704, 0]), (Reason::PrefixHit, 0));
        assert_eq!(choose(&[90, 0], &[286_705, 0]), (Reason::PrefixHoldersOverloaded, 1));
    }

    #[test]
    fn among_the_sticky_tokens_in_flight_and_those_of_the_request_count() {
        // 18 blocks more in the cache are 288 tokens fewer to compute.
        assert_eq!(choose(&[98, 80, 0], &[287, 0, 0]), (Reason::PrefixHit, 0));
        assert_eq!(choose(&[98, 80, 0], &[289, 0, 0]), (Reason::PrefixHit, 1));
        // Without a sticky one, all count.
        assert_eq!(choose(&[79, 0], &[1263, 0]), (Reason::NoPrefixHit, 0));
        assert_eq!(choose(&[79, 0], &[1265, 0]), (Reason::NoPrefixHit, 1));
    }

    #[test]
    fn from_4_million_tokens_on_all_are_equally_loaded() {
        // 1,601 more of the request itself.
        let full = 4_194_304 - 1601;
        assert_eq!(choose(&[0, 0], &[full, full - 1]).1, 1);
        let drawn: Vec<u32> = {
            let fixture = Fixture::with_requests(&[1, 1])
                .with_matches(100, &[0, 0])
                .with_tokens(&[(full + 900_000, 0), (full, 0)]);
            crate::policy::fixtures::frequencies(&mut LlmDSticky, &fixture, 1000).1
        };
        assert!(drawn[0].abs_diff(500) < 100, "{drawn:?}");
    }
}

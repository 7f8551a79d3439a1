//! NVIDIA Dynamo's KV router, 1.6.1: blocks to prefill, less what is cached, plus blocks in decode.
//!
//! `cost_i = prefill_load_scale · max(active_prefill_i + prompt − overlap_credit · overlap_i, 0) + decode_i`
//! in blocks of 16 tokens: `active_prefill_i` uncached prompt tokens in flight, `decode_i` the blocks of all
//! requests in flight. `argmin cost`, ties drawn; with a temperature `T > 0` drawn with probability
//! `∝ exp(−c_i / T)`, where `c_i` is the cost scaled to 0 to 1 over the fleet.
//!
//! The ledger is its own and sees each decision at once; overlap comes from KV events alone (inserting what
//! was routed is off by default). Dynamo counts a block that two requests share once, the ledger twice.
//! Host, disk and shared tiers do not exist here.

use serde::{Deserialize, Serialize};

use super::{Choice, Eligible, Policy, finite_and_not_negative};
use crate::decision::Reason;
use crate::request::Request;
use crate::rng::Rng;
use crate::time::Time;

const BLOCK_TOKENS: f64 = 16.0;

/// Parameters of [`PolicyConfig::Dynamo`](crate::PolicyConfig::Dynamo), all finite and not negative.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DynamoParams {
    /// Blocks that a cached block saves.
    #[serde(deserialize_with = "finite_and_not_negative")]
    pub overlap_credit: f64,
    /// Weight of a block to prefill, where a block in decode weighs 1.
    #[serde(deserialize_with = "finite_and_not_negative")]
    pub prefill_load_scale: f64,
    /// 0 takes the lowest cost.
    #[serde(deserialize_with = "finite_and_not_negative")]
    pub temperature: f64,
}

impl Default for DynamoParams {
    fn default() -> Self {
        Self { overlap_credit: 1.0, prefill_load_scale: 1.0, temperature: 0.0 }
    }
}

#[derive(Debug)]
pub(super) struct Dynamo {
    params: DynamoParams,
}

impl Dynamo {
    pub(super) const fn new(params: DynamoParams) -> Self {
        Self { params }
    }

    fn cost(&self, request: &Request<'_>, eligible: &Eligible<'_>, index: usize) -> f64 {
        let load = eligible.get(index).load;
        let prefill = load.uncached_prefill_tokens as f64 / BLOCK_TOKENS
            + (f64::from(request.prompt_tokens) / BLOCK_TOKENS).ceil();
        let overlap = f64::from(eligible.matched_tokens(index)) / BLOCK_TOKENS;
        let prefill = (prefill - self.params.overlap_credit * overlap).max(0.0);
        let decode = (load.context_tokens as f64 / BLOCK_TOKENS).ceil();
        self.params.prefill_load_scale * prefill + decode
    }
}

impl Policy for Dynamo {
    fn choose(
        &mut self,
        _: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        let cost = |index: usize| self.cost(request, eligible, index);
        let choice = eligible.lowest(Reason::LeastCost, rng, cost);
        if self.params.temperature > 0.0 {
            return draw(choice, self.params.temperature, rng);
        }
        choice
    }
}

/// Draws instead of taking the lowest.
fn draw(choice: Choice, temperature: f64, rng: &mut Rng) -> Choice {
    let costs = || choice.candidates.iter().map(|candidate| candidate.score);
    let lowest = costs().fold(f64::INFINITY, f64::min);
    let width = costs().fold(f64::NEG_INFINITY, f64::max) - lowest;
    choice.draw(rng, |cost| {
        libm::exp(if width > 0.0 { -(cost - lowest) / width / temperature } else { 0.0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{Fixture, frequencies};

    fn fixture() -> Fixture {
        // 161 tokens are 11 blocks.
        Fixture::with_requests(&[1, 1, 0]).with_matches(10, &[10, 4, 0]).with_tokens(&[
            (160, 320),
            (0, 64),
            (0, 0),
        ])
    }

    #[test]
    fn the_cost_is_blocks_to_prefill_plus_blocks_in_use() {
        let mut policy = Dynamo::new(DynamoParams::default());
        // (10 + 11 − 10) + 20; (0 + 11 − 4) + 4; (0 + 11 − 0) + 0.
        assert_eq!(fixture().scores(&mut policy), [31.0, 11.0, 11.0]);
        let params =
            DynamoParams { overlap_credit: 2.0, prefill_load_scale: 3.0, temperature: 0.0 };
        // 3 · (21 − 20) + 20; 3 · (11 − 8) + 4; 3 · 11.
        assert_eq!(fixture().scores(&mut Dynamo::new(params)), [23.0, 13.0, 33.0]);
    }

    #[test]
    fn a_temperature_draws_by_cost() {
        let temperature = 1.0 / std::f64::consts::LN_2;
        let params = DynamoParams { temperature, ..DynamoParams::default() };
        // Scaled costs of 1, 0, 0 halve the weight of the first: 1/5, 2/5, 2/5.
        let (choice, counts) = frequencies(&mut Dynamo::new(params), &fixture(), 50_000);
        assert!([0.2, 0.4].iter().any(|p| (choice.propensity - p).abs() < 1e-12));
        // Five standard deviations of a binomial with n = 50,000 are 447 at 1/5 and 548 at 2/5.
        assert!(counts[0].abs_diff(10_000) < 450 && counts[1].abs_diff(20_000) < 550, "{counts:?}");
    }
}

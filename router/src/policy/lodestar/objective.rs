//! What a choice is to make small, and what it costs in that currency.
//!
//! Every cost has the same three parts: what the request itself is expected to see, what it makes others see, and what
//! leaves the cache for it. They are seconds, except for an SLO, where they are chances to miss it.

use serde::{Deserialize, Serialize};

use crate::policy::finite_and_not_negative;

/// Weight of the mean TTFT in objectives that would otherwise not care.
const TIE_BREAK: f64 = 0.1;
/// Weight of the TTFT where the TPOT is to be small: long queues of prompts become many answers at a time.
const PROMPTS: f64 = 0.5;
/// Standard deviations from bound to bound of the predicted range, which holds nine in ten.
const RANGE_DEVIATIONS: f64 = 3.29;

/// What `lodestar` makes small. Can be switched while it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Objective {
    /// The mean time to first token.
    #[default]
    MeanTtft,
    /// The times to first token above their 90th percentile.
    TailTtft,
    /// The mean time per output token.
    Tpot,
    /// The mean end-to-end latency.
    E2e,
    /// The time that instances work.
    Throughput,
    /// The share of requests that miss either bound.
    Slo {
        /// Longest TTFT, ms.
        #[serde(deserialize_with = "finite_and_not_negative")]
        ttft_ms: f64,
        /// Longest TPOT, ms.
        #[serde(deserialize_with = "finite_and_not_negative")]
        tpot_ms: f64,
    },
    /// A sum of means, TPOT per output token of the answer.
    Mix {
        /// Weight of the TTFT.
        #[serde(deserialize_with = "finite_and_not_negative")]
        ttft: f64,
        /// Weight of the TPOT times the expected answer.
        #[serde(deserialize_with = "finite_and_not_negative")]
        tpot: f64,
    },
}

/// What is expected of a choice.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Expected {
    /// Time to first token, s, and the bounds that hold nine in ten.
    pub(super) ttft_s: f64,
    pub(super) range_s: [f64; 2],
    /// Prefill time on the instance, s.
    pub(super) service_s: f64,
    /// Time to first token of others, s: those behind it, and those whose blocks leave.
    pub(super) others_ttft_s: f64,
    /// Time per output token, s, and what it adds to all who decode beside it.
    pub(super) tpot_s: f64,
    pub(super) others_tpot_s: f64,
    /// What all who decode there wait while its prompt is computed, s.
    pub(super) others_stall_s: f64,
    /// Length of the answer.
    pub(super) answer_tokens: f64,
}

impl Objective {
    /// The bounds of the Lodestar authors' SLO reward.
    pub const SLO: Self = Self::Slo { ttft_ms: 1000.0, tpot_ms: 50.0 };

    /// What the choice costs; `tail_s` is the 90th percentile of recent TTFTs.
    pub(super) fn cost(&self, expected: &Expected, tail_s: f64) -> f64 {
        let ttft_s = expected.ttft_s + expected.others_ttft_s;
        let tpot_s = expected.tpot_s + expected.others_tpot_s;
        let answer_s = expected.answer_tokens * tpot_s + expected.others_stall_s;
        let answer_tokens = expected.answer_tokens.max(1.0);
        match *self {
            Self::MeanTtft => ttft_s,
            Self::TailTtft => (expected.range_s[1] - tail_s).max(0.0) + TIE_BREAK * ttft_s,
            Self::Tpot => (answer_s + PROMPTS * ttft_s) / answer_tokens,
            Self::E2e => ttft_s + answer_s,
            Self::Throughput => {
                let others_s = expected.answer_tokens * expected.others_tpot_s;
                expected.service_s + expected.others_ttft_s + others_s + TIE_BREAK * ttft_s
            }
            Self::Slo { ttft_ms, tpot_ms } => {
                let ttft_max_s = (ttft_ms / 1e3).max(1e-3);
                let met = within(ttft_max_s, expected.ttft_s, expected.range_s)
                    * within(
                        tpot_ms / 1e3,
                        tpot_s,
                        expected.range_s.map(|bound| bound * tpot_s / expected.ttft_s.max(1e-6)),
                    );
                1.0 - met + TIE_BREAK * ttft_s / ttft_max_s
            }
            Self::Mix { ttft, tpot } => ttft * ttft_s + tpot * answer_s,
        }
    }
}

/// The chance that a time is within a bound, if its logarithm is normal (by the logistic function).
fn within(bound_s: f64, centre_s: f64, [low_s, high_s]: [f64; 2]) -> f64 {
    let ln = |secs: f64| libm::log(secs.max(1e-6));
    let deviation = ((ln(high_s) - ln(low_s)) / RANGE_DEVIATIONS).max(0.01);
    let z = (ln(bound_s) - ln(centre_s)) / deviation;
    1.0 / (1.0 + libm::exp(-1.702 * z))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPECTED: Expected = Expected {
        ttft_s: 0.4,
        range_s: [0.2, 0.8],
        service_s: 0.3,
        others_ttft_s: 0.1,
        tpot_s: 0.02,
        others_tpot_s: 0.005,
        others_stall_s: 0.2,
        answer_tokens: 100.0,
    };

    fn cost(objective: Objective) -> f64 {
        objective.cost(&EXPECTED, 0.5)
    }

    #[test]
    fn each_objective_is_its_own_sum() {
        let is_near = |objective, expected: f64| (cost(objective) - expected).abs() < 1e-9;
        assert!(is_near(Objective::MeanTtft, 0.5));
        // 0.8 - 0.5, and a tenth of 0.5.
        assert!(is_near(Objective::TailTtft, 0.35));
        assert!(is_near(Objective::Tpot, 0.025 + 0.002 + 0.0025));
        assert!(is_near(Objective::E2e, 0.5 + 2.5 + 0.2));
        // 0.3 + 0.1 + 100 * 0.005, and a tenth of 0.5.
        assert!(is_near(Objective::Throughput, 0.95));
        assert!(is_near(Objective::Mix { ttft: 2.0, tpot: 0.1 }, 1.0 + 0.27));
    }

    #[test]
    fn an_slo_is_missed_by_chance() {
        let at = |ttft_ms, tpot_ms| cost(Objective::Slo { ttft_ms, tpot_ms });
        // Half of all TTFTs are within 400 ms; TPOT is never a matter.
        assert!((at(400.0, 1e6) - (0.5 + 0.125)).abs() < 1e-6);
        assert!(at(4000.0, 1e6) < 0.02 && at(40.0, 1e6) > 0.99);
        assert!(at(4000.0, 25.0) > 0.4, "the TPOT, at its bound");
    }
}

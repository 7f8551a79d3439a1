//! What a TTFT should be, by a line through the log: the reward model of the direct method.
//!
//! `q(x, i) = φ(x, i) · (β + δ_i)` with `φ` = 1, the request's uncached tokens, and of instance `i` the uncached tokens
//! ahead, requests in prefill, requests in decode, and tokens of context. `β` is least squares over all decisions;
//! `δ_i` is least squares over what `β` leaves of those on instance `i`, held towards 0 as by [`HELD_BY`] average
//! decisions. Nothing of it is known to the router: the model is here to judge, not to decide.

use std::collections::BTreeMap;

use lodestar_router::{Candidate, InstanceId};

use crate::calibrate_requests::linear::Symmetric;

/// Decisions whose weight holds an instance's own coefficients towards those of all.
const HELD_BY: f64 = 20.0;
/// Added to each diagonal element, relative: columns may be constant, or equal.
const DAMPING: f64 = 1e-6;

pub(super) const FEATURES: usize = 6;
pub(super) type Features = [f64; FEATURES];

/// What the model looks at.
pub(super) fn features(prompt_tokens: u32, candidate: &Candidate) -> Features {
    let load = candidate.load;
    [
        1.0,
        f64::from(prompt_tokens.saturating_sub(candidate.prefix_hit_tokens)),
        load.uncached_prefill_tokens as f64,
        f64::from(load.prefill_requests),
        f64::from(load.decode_requests),
        load.context_tokens as f64,
    ]
}

/// The model.
#[derive(Clone, Debug)]
pub(super) struct RewardModel {
    all: Vec<f64>,
    own: BTreeMap<InstanceId, Vec<f64>>,
}

impl RewardModel {
    /// Of where requests went and what their TTFT was, ms.
    pub(super) fn fit(samples: &[(InstanceId, Features, f64)]) -> Self {
        let weight = HELD_BY / samples.len().max(1) as f64;
        let mut pooled = Symmetric::zero(FEATURES);
        let mut target = [0.0; FEATURES];
        for (_, features, ttft) in samples {
            pooled.add_outer(features, weight);
            add(&mut target, features, weight * ttft);
        }
        // A column without a value other than 0 has no coefficient to speak of.
        for feature in 0..FEATURES {
            let mut unit = [0.0; FEATURES];
            unit[feature] = 1.0;
            pooled.add_outer(&unit, 1e-9);
        }
        let all = solve(&pooled, &target);
        let mut by_instance: BTreeMap<InstanceId, (Symmetric, Features)> = BTreeMap::new();
        for (instance, features, ttft) in samples {
            let (matrix, target) =
                by_instance.entry(*instance).or_insert_with(|| (pooled.clone(), [0.0; FEATURES]));
            matrix.add_outer(features, 1.0);
            add(target, features, ttft - dot(features, &all));
        }
        let own = by_instance
            .into_iter()
            .map(|(instance, (matrix, target))| (instance, solve(&matrix, &target)))
            .collect();
        Self { all, own }
    }

    /// The TTFT to expect, ms; never below 0.
    pub(super) fn predict(&self, instance: InstanceId, features: &Features) -> f64 {
        let own = self.own.get(&instance).map_or(0.0, |own| dot(features, own));
        (dot(features, &self.all) + own).max(0.0)
    }
}

fn solve(matrix: &Symmetric, target: &Features) -> Vec<f64> {
    let inverse = matrix.damped(DAMPING).inverse();
    inverse.map_or_else(|| vec![0.0; FEATURES], |inverse| inverse.times(target))
}

fn add(sum: &mut Features, features: &Features, weight: f64) {
    sum.iter_mut().zip(features).for_each(|(sum, feature)| *sum += weight * feature);
}

fn dot(a: &Features, b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_instance_has_a_line_of_its_own_once_it_has_samples() {
        // 0.1 ms a token on one, 0.4 on the other.
        let sample = |number: u32| {
            let tokens = f64::from(number * 37 % 1000);
            let slope = [0.1, 0.4][number as usize % 2];
            let features = [1.0, tokens, 0.0, 0.0, f64::from(number % 3), 0.0];
            (InstanceId(number % 2), features, 20.0 + slope * tokens)
        };
        let samples: Vec<_> = (0..2_000).map(sample).collect();
        let model = RewardModel::fit(&samples);
        let at = |instance, tokens| {
            model.predict(InstanceId(instance), &[1.0, tokens, 0.0, 0.0, 1.0, 0.0])
        };
        assert!((at(0, 500.0) - 70.0).abs() < 3.0, "{}", at(0, 500.0));
        assert!((at(1, 500.0) - 220.0).abs() < 3.0, "{}", at(1, 500.0));
        // One that was never seen is like all of them.
        assert!((at(9, 500.0) - 145.0).abs() < 5.0, "{}", at(9, 500.0));
    }
}

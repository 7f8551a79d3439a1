//! llm-d's predicted latency: TTFT and TPOT, learned online from the fleet as if all of it were one kind of instance. As its
//! guide for routing sets it up (`guides/predicted-latency-routing`, without objectives).
//!
//! 1. For each instance predict TTFT and TPOT from KV usage and waiting requests as scraped, prompt length, the cached part of
//!    the prompt, and own requests and uncached prompt tokens in flight.
//! 2. Affinity gate: of instances with at least 0.80 of the prompt, if there are any and the best TTFT among
//!    them is at most 5 s above the best of all, the others are left out.
//! 3. If some that are left have none of the router's requests, the others are left out. (Without service level objectives all
//!    instances are in llm-d's "negative tier", where the idle come first.)
//! 4. `0.8 · TTFT + 0.2 · TPOT`, each scaled to 0 to 1 over those that are left, in hundredths `d`; if all are equal in one, the
//!    other decides alone. One is drawn, in proportion to `1.01 − d`: the best has 101 chances, the worst has one.
//!
//! Where no answer has a second token, TTFT decides alone. Until ten first tokens are known all predictions are equal, which
//! leaves the gate and the draw.
//!
//! llm-d trains XGBoost in a sidecar, 200 trees for the mean (`LATENCY_OBJECTIVE_TYPE` of its chart), 0.05 each; the equivalent here is
//! [`Boosted`], 50 trees, 0.2 each, fitted anew every 10 s to at most 500
//! newest samples in each bucket of KV usage (by 0.1) and cached part (by 0.25), at the first decision that
//! is due, which then takes milliseconds. Nothing tells instances apart: on unequal GPUs the model is an
//! average, and llm-d documents that.

use std::collections::VecDeque;

use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::boosting::{Boosted, FEATURES, Sample};
use super::{Choice, Eligible, Fact, OUT_OF_QUESTION, Policy};
use crate::decision::Reason;
use crate::event::{InstanceId, Usage};
use crate::ledger::Reservation;
use crate::request::{Request, RequestId};
use crate::rng::Rng;
use crate::time::{Duration, Time};

const TTFT_WEIGHT: f64 = 0.8;
const TPOT_WEIGHT: f64 = 0.2;
const AFFINITY_THRESHOLD: f64 = 0.80;
const MAX_TTFT_PENALTY_SECS: f64 = 5.0;
/// Seconds by which predictions must differ to count as different.
const WIDTH_MIN: f64 = 1e-9;
const RETRAIN_PERIOD: Duration = Duration::from_secs(10);
const SAMPLES_MIN: usize = 10;
const BUCKET_SAMPLES_MAX: usize = 500;
const USAGE_BUCKETS: usize = 10;
const HIT_BUCKETS: usize = 4;

type Features = [f64; FEATURES];
const KV_USAGE: usize = 0;
const HIT_RATIO: usize = 4;
/// In hundredths.
const WEIGHT_MAX: f64 = 101.0;

#[derive(Debug, Default)]
pub(super) struct LlmDPredicted {
    /// What the last choice was made by.
    chosen: Features,
    /// What each request in flight was chosen by, and for which instance.
    in_flight: HashMap<RequestId, (InstanceId, Features), FxBuildHasher>,
    ttft: Learner,
    tpot: Learner,
    trained_at: Time,
}

/// Outcomes of one kind, and the model of them.
#[derive(Debug)]
struct Learner {
    buckets: Vec<VecDeque<Sample>>,
    model: Option<Boosted>,
}

impl Default for Learner {
    fn default() -> Self {
        Self { buckets: vec![VecDeque::new(); USAGE_BUCKETS * HIT_BUCKETS], model: None }
    }
}

impl Learner {
    fn add(&mut self, features: Features, target: f64) {
        let part = |value: f64, parts: usize| ((value * parts as f64) as usize).min(parts - 1);
        let usage = part(features[KV_USAGE], USAGE_BUCKETS);
        let bucket =
            &mut self.buckets[usage * HIT_BUCKETS + part(features[HIT_RATIO], HIT_BUCKETS)];
        if bucket.len() == BUCKET_SAMPLES_MAX {
            bucket.pop_front();
        }
        bucket.push_back(Sample { features, target });
    }

    fn train(&mut self) {
        let samples: Vec<Sample> = self.buckets.iter().flatten().copied().collect();
        if samples.len() >= SAMPLES_MIN {
            self.model = Some(Boosted::fit(&samples));
        }
    }
}

impl LlmDPredicted {
    fn train(&mut self, now: Time) {
        if now.saturating_since(self.trained_at) >= RETRAIN_PERIOD {
            self.trained_at = now;
            self.ttft.train();
            self.tpot.train();
        }
    }

    fn draw(&self, request: &Request<'_>, eligible: &Eligible<'_>, rng: &mut Rng) -> Choice {
        // Where nothing is known all are equal.
        let predict = |learner: &Learner| -> Vec<f64> {
            let predict = |index| {
                let features = features(request, eligible, index);
                learner.model.as_ref().map_or(0.0, |model| model.predict(&features).max(0.0))
            };
            (0..eligible.len()).map(predict).collect()
        };
        let (ttft, tpot) = (predict(&self.ttft), predict(&self.tpot));
        let is_sticky = |index: usize| eligible.hit_ratio(index, request) >= AFFINITY_THRESHOLD;
        let lowest = |of: &mut dyn Iterator<Item = usize>| {
            of.map(|index| ttft[index]).min_by(f64::total_cmp)
        };
        let best = lowest(&mut (0..eligible.len()));
        let best_sticky = lowest(&mut (0..eligible.len()).filter(|&index| is_sticky(index)));
        let is_gated = best_sticky
            .zip(best)
            .is_some_and(|(sticky, all)| sticky - all <= MAX_TTFT_PENALTY_SECS);
        let reason = if is_gated { Reason::PrefixHit } else { Reason::LeastLatency };
        let is_idle = |index: usize| eligible.get(index).load.requests == 0;
        let mut left: Vec<usize> =
            (0..eligible.len()).filter(|&index| !is_gated || is_sticky(index)).collect();
        if left.iter().any(|&index| is_idle(index)) {
            left.retain(|&index| is_idle(index));
        }
        let latency = RelativeLatency::of(&left, &ttft, &tpot);
        let lowest = eligible.lowest(reason, rng, |index| {
            if left.contains(&index) {
                f64::from(latency.hundredths(ttft[index], tpot[index]))
            } else {
                OUT_OF_QUESTION + ttft[index]
            }
        });
        let mut choice = lowest.draw(rng, |hundredths| (WEIGHT_MAX - hundredths).max(0.0));
        if self.ttft.model.is_some() {
            for (candidate, ttft) in choice.candidates.iter_mut().zip(&ttft) {
                candidate.predicted_ttft = Some(Duration::from_nanos((ttft * 1e9).round() as u64));
            }
        }
        choice
    }

    fn finished(&mut self, now: Time, reservation: &Reservation, usage: Usage) {
        let known = self.in_flight.remove(&reservation.request);
        if let Some((_, features)) = known
            && let Some(first) = reservation.first_token_at
            && usage.output_tokens > 1
        {
            let secs = now.saturating_since(first).as_secs_f64();
            self.tpot.add(features, secs / f64::from(usage.output_tokens - 1));
        }
    }
}

/// What the model sees of one instance and the request.
fn features(request: &Request<'_>, eligible: &Eligible<'_>, index: usize) -> Features {
    let load = eligible.get(index).load;
    [
        eligible.kv_usage(index),
        f64::from(request.prompt_tokens),
        f64::from(eligible.waiting(index)),
        f64::from(load.requests),
        eligible.hit_ratio(index, request),
        load.uncached_prefill_tokens as f64,
    ]
}

/// Puts both latencies between 0 and 1 and adds them.
struct RelativeLatency {
    ttft: Scale,
    tpot: Scale,
    /// Of both.
    weights: [f64; 2],
}

impl RelativeLatency {
    /// Among those at `indices`.
    fn of(indices: &[usize], ttft: &[f64], tpot: &[f64]) -> Self {
        let scale = |of: &[f64]| Scale::of(indices.iter().map(|&index| of[index]));
        let (ttft, tpot) = (scale(ttft), scale(tpot));
        let weights = match (ttft.width > WIDTH_MIN, tpot.width > WIDTH_MIN) {
            (false, true) => [0.0, 1.0],
            (true, false) => [1.0, 0.0],
            _ => [TTFT_WEIGHT, TPOT_WEIGHT],
        };
        Self { ttft, tpot, weights }
    }

    /// In whole hundredths.
    fn hundredths(&self, ttft: f64, tpot: f64) -> u32 {
        let [of_ttft, of_tpot] = self.weights;
        let latency = of_ttft * self.ttft.apply(ttft) + of_tpot * self.tpot.apply(tpot);
        100 - (100.0 * (1.0 - latency)) as u32
    }
}

struct Scale {
    min: f64,
    width: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        let min = values.clone().fold(f64::INFINITY, f64::min);
        let max = values.fold(f64::NEG_INFINITY, f64::max);
        Self { min, width: max - min }
    }

    fn apply(&self, value: f64) -> f64 {
        if self.width > WIDTH_MIN { (value - self.min) / self.width } else { 0.5 }
    }
}

impl Policy for LlmDPredicted {
    fn choose(
        &mut self,
        now: Time,
        request: &Request<'_>,
        eligible: &Eligible<'_>,
        rng: &mut Rng,
    ) -> Choice {
        self.train(now);
        let choice = self.draw(request, eligible, rng);
        self.chosen = features(request, eligible, choice.index);
        choice
    }

    fn overruled(&mut self, request: &Request<'_>, eligible: &Eligible<'_>, index: usize) {
        self.chosen = features(request, eligible, index);
    }

    fn observe(&mut self, now: Time, fact: &Fact<'_>) {
        match *fact {
            Fact::Routed(reservation) => {
                let entry = (reservation.instance, self.chosen);
                self.in_flight.insert(reservation.request, entry);
            }
            Fact::FirstToken(reservation) => {
                if let Some((_, features)) = self.in_flight.get(&reservation.request) {
                    let ttft = now.saturating_since(reservation.routed_at);
                    self.ttft.add(*features, ttft.as_secs_f64());
                }
            }
            Fact::Finished(reservation, usage) => self.finished(now, reservation, usage),
            Fact::Failed(reservation) => {
                self.in_flight.remove(&reservation.request);
            }
            Fact::Left(left) => self.in_flight.retain(|_, (instance, _)| *instance != left),
            Fact::Scraped(..) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fixtures::{Fixture, frequencies};

    /// Two instances with so many uncached tokens in flight.
    fn fixture(tokens: [u64; 2], matched_blocks: [u32; 2]) -> Fixture {
        Fixture::with_requests(&[1, 1])
            .with_matches(100, &matched_blocks)
            .with_tokens(&tokens.map(|tokens| (tokens, tokens)))
            .scraping()
            .with_metrics(&[(1, 0, 0.5), (1, 0, 0.5)])
    }

    /// One request from choice to end: TTFT a millisecond a token queued, TPOT 10 ms.
    fn serve(policy: &mut LlmDPredicted, id: u64, tokens: u64, output_tokens: u32) {
        fixture([tokens, tokens], [0, 0]).choose(policy);
        let routed = Fixture::reservation(id, 0, 1);
        policy.observe(Time::ZERO, &Fact::Routed(&routed));
        let first = Time::from_nanos(tokens * 1_000_000);
        policy.observe(first, &Fact::FirstToken(&routed));
        let usage = Usage { output_tokens, ..Usage::default() };
        let ended = Reservation { first_token_at: Some(first), ..routed };
        let decode = Duration::from_millis(10 * u64::from(output_tokens - 1));
        policy.observe(first + decode, &Fact::Finished(&ended, usage));
    }

    fn trained() -> LlmDPredicted {
        let mut policy = LlmDPredicted::default();
        (0..200).for_each(|id| serve(&mut policy, id, 100 * (id % 100), 11));
        policy
    }

    #[test]
    fn at_first_all_are_equal_but_for_who_holds_the_prompt() {
        let (choice, counts) =
            frequencies(&mut LlmDPredicted::default(), &fixture([9, 0], [0, 0]), 10_000);
        assert!((choice.propensity - 0.5).abs() < 1e-12 && counts[0].abs_diff(5_000) < 300);
        let holder = fixture([9, 0], [90, 0]);
        let (choice, chosen) = holder.choose(&mut LlmDPredicted::default());
        assert_eq!((choice.reason, chosen), (Reason::PrefixHit, 0));
    }

    #[test]
    fn every_request_leaves_one_sample_of_each_and_nothing_else() {
        let policy = trained();
        assert_eq!(policy.in_flight.len(), 0);
        for learner in [&policy.ttft, &policy.tpot] {
            // KV usage 0.5, nothing cached.
            assert_eq!(learner.buckets[5 * HIT_BUCKETS].len(), 200);
        }
    }

    #[test]
    fn it_is_trained_every_ten_seconds_on_ten_samples_or_more() {
        let has_model = |samples: u64, millis: u64| {
            let mut policy = LlmDPredicted::default();
            (0..samples).for_each(|id| serve(&mut policy, id, 100, 11));
            let mut fixture = fixture([0, 0], [0, 0]);
            fixture.now = Time::from_nanos(millis * 1_000_000);
            fixture.choose(&mut policy);
            policy.ttft.model.is_some()
        };
        assert!(has_model(10, 10_000));
        assert!(!has_model(9, 10_000) && !has_model(10, 9_999));
    }

    /// The two predicted TTFTs, how often each is drawn of 10,200 times, and why.
    fn drawn(policy: &mut LlmDPredicted, mut fixture: Fixture) -> ([f64; 2], [u32; 2], Reason) {
        fixture.now = Time::from_nanos(10_000_000_000);
        let (choice, counts) = frequencies(policy, &fixture, 10_200);
        let secs = |index: usize| choice.candidates[index].predicted_ttft.unwrap().as_secs_f64();
        ([secs(0), secs(1)], [counts[0], counts[1]], choice.reason)
    }

    #[test]
    fn after_training_the_lower_predicted_latency_has_more_chances() {
        let mut policy = trained();
        let (predicted, counts, reason) = drawn(&mut policy, fixture([8000, 1000], [0, 0]));
        assert!(
            (predicted[0] - 8.0).abs() < 0.5 && (predicted[1] - 1.0).abs() < 0.5,
            "{predicted:?}"
        );
        assert_eq!(reason, Reason::LeastLatency);
        // One in 102.
        assert!((60..140).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn the_newest_500_of_a_bucket_give_the_mean() {
        let mut learner = Learner::default();
        // 100 old ones take a minute, 500 new ones 1 to 500 ms.
        (0..100).for_each(|_| learner.add([0.0; FEATURES], 60.0));
        (1..=500).for_each(|millis| learner.add([0.0; FEATURES], f64::from(millis) / 1e3));
        learner.train();
        assert_eq!(learner.buckets[0].len(), 500);
        let secs = learner.model.unwrap().predict(&[0.0; FEATURES]);
        assert!((secs - 0.2505).abs() < 1e-9, "{secs}");
    }

    #[test]
    fn where_answers_have_one_token_ttft_decides_alone() {
        let mut policy = LlmDPredicted::default();
        (0..200).for_each(|id| serve(&mut policy, id, 100 * (id % 100), 1));
        let (_, counts, reason) = drawn(&mut policy, fixture([8000, 1000], [0, 0]));
        assert!(reason == Reason::LeastLatency && (60..140).contains(&counts[0]), "{counts:?}");
    }

    #[test]
    fn without_objectives_an_idle_instance_comes_first() {
        let mut policy = trained();
        let mut fixture = fixture([8000, 1000], [0, 0]);
        fixture.now = Time::from_nanos(10_000_000_000);
        fixture.instances[0].load.requests = 0;
        assert_eq!(fixture.choose(&mut policy).1, 0);
        // Not where the gate leaves it out.
        let holders = fixture.with_matches(100, &[0, 90]);
        assert_eq!(holders.choose(&mut policy).1, 1);
    }

    #[test]
    fn latencies_are_scaled_and_added_in_hundredths() {
        let of = |ttft: [f64; 3], tpot: [f64; 3]| {
            let latency = RelativeLatency::of(&[0, 1, 2], &ttft, &tpot);
            std::array::from_fn(|index| latency.hundredths(ttft[index], tpot[index]))
        };
        // 0.8 · 0.244 + 0.2 · 1 and 0.8 · 1 + 0.2 · 0.26.
        assert_eq!(of([1.0, 2.0, 5.1], [0.01, 0.02, 0.0126]), [0, 40, 86]);
        // Tokens take the same everywhere; a two-hundredth of the range rounds up.
        assert_eq!(of([1.0, 1.02, 5.0], [0.01; 3]), [0, 1, 100]);
        assert_eq!(of([1.0; 3], [0.01; 3]), [50; 3]);
    }

    #[test]
    fn a_holder_is_preferred_up_to_five_seconds() {
        let mut policy = trained();
        let (_, counts, reason) = drawn(&mut policy, fixture([4500, 100], [90, 0]));
        assert_eq!((reason, counts), (Reason::PrefixHit, [10_200, 0]));
        let (_, counts, reason) = drawn(&mut policy, fixture([5900, 100], [90, 0]));
        assert!(reason == Reason::LeastLatency && counts[0] < 140, "{counts:?}");
    }
}

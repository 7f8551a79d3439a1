//! What the law of an instance misses, learned by a network that all instances share.
//!
//! The network says by which factor an expected TTFT is off, on average and at two quantiles, from a description
//! of the request's place that names no instance: one that joins is described like any other. It multiplies a good
//! guess, so a bad network is little worse than none; and it is used only while it has been closer than the law
//! alone. Its interval is widened or narrowed until it covers what it should (Gibbs and Candès, 2021).
//!
//! Trained every second of traffic on what is new and on as much of what is old. Old samples are kept by the
//! size of what was expected, so that a quiet hour does not make it forget what a queue is.

use serde::{Deserialize, Serialize};

use crate::learned::network::{Activations, Adam, Loss, Network, Normaliser, Recipe, Rows};
use crate::rng::Rng;
use crate::time::{Duration, Time};
use crate::training::{Model, TrainingJob};

/// Numbers that describe a request's place.
pub(super) const FEATURES: usize = 14;
/// A request's place.
pub(super) type Features = [f32; FEATURES];

const SIZES: [usize; 4] = [FEATURES, 32, 32, OUTPUTS];
const OUTPUTS: usize = 3;
/// Part of all requests that the interval should hold.
pub(super) const COVERAGE: f64 = 0.9;
/// Time between two jobs.
const PERIOD: Duration = Duration::from_secs(1);
/// New samples in a job at most, and old ones beside them.
const BATCH: usize = 128;
/// Samples kept of each size of expected TTFT; sizes are powers of two.
const KEPT: usize = 128;
const SIZES_OF_TTFT: usize = 12;
/// Samples before the network answers.
const TRUSTED_SAMPLES: u64 = 64;
/// Largest factor that is learned or believed.
const FACTOR_MAX: f64 = 4.0;
/// What is kept of the averages of errors, which are those of some hundred samples, over a restart.
const RECALLED: f64 = 0.05;
/// Weight of the next error in the averages, and of the next miss in the width.
const ERROR_WEIGHT: f64 = 0.01;

/// By which factor to correct an expected TTFT.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Correction {
    pub(super) factor: f64,
    /// Bounds of the factor for [`COVERAGE`] of all requests.
    pub(super) low: f64,
    pub(super) high: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sample {
    features: Features,
    factor: f32,
}

/// The network, what it learns from, and how good it is.
#[derive(Debug)]
pub(super) struct Residual {
    network: Network,
    adam: Adam,
    /// How many samples in a hundred are trained on, and what is due of the next one, in hundredths.
    percent: u8,
    due: u8,
    fresh: Vec<Sample>,
    /// By size of what was expected.
    kept: Vec<Vec<Sample>>,
    rng: Rng,
    samples: u64,
    trained_at: Time,
    is_training: bool,
    /// The model under way comes of what was forgotten since.
    is_job_stale: bool,
    activations: Activations,
    /// Mean squared relative error of the law, and of both together.
    law_error: f64,
    network_error: f64,
    /// Logarithm of the interval's width, relative to the network's.
    ln_width: f64,
    /// Part of the last requests that their intervals held.
    covered: f64,
}

/// What outlives a process; fields as those of [`Residual`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Learned {
    network: Network,
    adam: Adam,
    fresh: Vec<Sample>,
    kept: Vec<Vec<Sample>>,
    samples: u64,
    law_error: f64,
    network_error: f64,
    ln_width: f64,
    covered: f64,
}

impl Learned {
    /// Whether shapes are those of this version and all numbers such as samples give.
    pub(super) fn is_sound(&self) -> bool {
        let mut samples = self.kept.iter().flatten().chain(&self.fresh);
        let is_sound = |sample: &Sample| {
            sample.features.iter().chain([&sample.factor]).all(|number| number.is_finite())
        };
        let not_negative = |number: f64| number.is_finite() && number >= 0.0;
        self.network.is_sound(&SIZES)
            && self.adam.is_sound(&self.network)
            && self.kept.len() == SIZES_OF_TTFT
            && self.kept.iter().all(|kept| kept.len() <= KEPT)
            && self.fresh.len() <= BATCH
            && samples.all(is_sound)
            && [self.law_error, self.network_error, self.covered].into_iter().all(not_negative)
            && self.ln_width.is_finite()
    }
}

impl Residual {
    /// Starts over. Work under way is still to come back.
    pub(super) fn forget(&mut self) {
        let Self { is_training, trained_at, percent, .. } = *self;
        let fresh = Self::new(self.rng.clone(), percent);
        *self = Self { is_training, is_job_stale: is_training, trained_at, ..fresh };
    }

    /// What it knows.
    pub(super) fn learned(&self) -> Learned {
        Learned {
            network: self.network.clone(),
            adam: self.adam.clone(),
            fresh: self.fresh.clone(),
            kept: self.kept.clone(),
            samples: self.samples,
            law_error: self.law_error,
            network_error: self.network_error,
            ln_width: self.ln_width,
            covered: self.covered,
        }
    }

    /// Goes on from what was known. The network is trusted as long as the first samples do not speak against it.
    pub(super) fn restore(&mut self, learned: &Learned) {
        let learned = learned.clone();
        (self.network, self.adam) = (learned.network, learned.adam);
        (self.fresh, self.kept) = (learned.fresh, learned.kept);
        self.samples = learned.samples;
        self.law_error = RECALLED * learned.law_error;
        self.network_error = RECALLED * learned.network_error;
        (self.ln_width, self.covered) = (learned.ln_width, learned.covered);
    }

    pub(super) fn new(mut rng: Rng, percent: u8) -> Self {
        let network = Network::new(&SIZES, &mut rng).with_constant_outputs(&[1.0, 0.8, 1.3]);
        Self {
            network,
            adam: Adam::default(),
            percent,
            due: 0,
            fresh: Vec::new(),
            kept: vec![Vec::new(); SIZES_OF_TTFT],
            rng,
            samples: 0,
            trained_at: Time::ZERO,
            is_training: false,
            is_job_stale: false,
            activations: Activations::default(),
            law_error: 0.0,
            network_error: 0.0,
            ln_width: 0.0,
            covered: COVERAGE,
        }
    }

    /// Whether the network has been better than the law alone.
    pub(super) fn is_trusted(&self) -> bool {
        self.samples >= TRUSTED_SAMPLES && self.network_error < self.law_error
    }

    /// What the network says, whether it is trusted or not.
    fn answer(&mut self, features: &Features) -> Correction {
        let answer = self.network.forward(features, &mut self.activations);
        let [factor, low, high] = [answer[0], answer[1], answer[2]]
            .map(|factor| f64::from(factor).clamp(1.0 / FACTOR_MAX, FACTOR_MAX));
        Correction { factor, low: low.min(factor), high: high.max(factor) }
    }

    /// The correction of an expected TTFT, or only its range.
    pub(super) fn correct(&mut self, features: &Features, centres: bool) -> Correction {
        let answer = self.answer(features);
        self.widen(answer, centres)
    }

    /// What is made of an answer of the network.
    fn widen(&self, answer: Correction, centres: bool) -> Correction {
        let centre = if centres && self.is_trusted() { answer.factor } else { 1.0 };
        let width = libm::exp(self.ln_width);
        let bound = |bound: f64| {
            centre * libm::exp((width * libm::log(bound / answer.factor)).clamp(-4.0, 4.0))
        };
        Correction { factor: centre, low: bound(answer.low), high: bound(answer.high) }
    }

    /// A request described so took `factor` times what its law expected.
    pub(super) fn learn(&mut self, features: &Features, factor: f64) {
        let factor = factor.clamp(1.0 / FACTOR_MAX, FACTOR_MAX);
        let answer = self.answer(features);
        let said = self.widen(answer, true);
        let blend = |error: &mut f64, expected: f64| {
            *error +=
                ERROR_WEIGHT * ((factor / expected - 1.0) * (factor / expected - 1.0) - *error);
        };
        blend(&mut self.law_error, 1.0);
        blend(&mut self.network_error, answer.factor);
        let is_covered = (said.low..=said.high).contains(&factor);
        let covered = f64::from(u8::from(is_covered));
        self.covered += ERROR_WEIGHT * (covered - self.covered);
        self.ln_width =
            (self.ln_width + 2.0 * ERROR_WEIGHT * (COVERAGE - covered)).clamp(-2.0, 2.0);
        self.samples += 1;
        self.due += self.percent;
        if self.due < 100 {
            return;
        }
        self.due -= 100;
        if self.fresh.len() < BATCH {
            self.fresh.push(Sample { features: *features, factor: factor as f32 });
        }
    }

    /// Part of the last hundred or so requests that their intervals held.
    pub(super) const fn coverage(&self) -> f64 {
        self.covered
    }

    /// A job, once a second, if something is new.
    pub(super) fn training_job(&mut self, now: Time) -> Option<TrainingJob> {
        let is_due = now.saturating_since(self.trained_at) >= PERIOD;
        if self.is_training || !is_due || self.fresh.is_empty() {
            return None;
        }
        self.is_training = true;
        self.trained_at = now;
        let fresh = std::mem::take(&mut self.fresh);
        let mut rows = Rows::default();
        fresh.iter().for_each(|sample| add(&mut rows, sample));
        for _ in 0..BATCH {
            let kept = &self.kept[self.rng.below(SIZES_OF_TTFT)];
            if !kept.is_empty() {
                add(&mut rows, &kept[self.rng.below(kept.len())]);
            }
        }
        for sample in fresh {
            self.keep(sample);
        }
        let mut network = self.network.clone();
        if self.adam == Adam::default() {
            network.normaliser = Normaliser::of(&rows.inputs, FEATURES);
        }
        let low = ((1.0 - COVERAGE) / 2.0) as f32;
        let recipe = Recipe {
            losses: vec![Loss::Mean, Loss::Quantile(low), Loss::Quantile(1.0 - low)],
            batch_rows: 64,
            learning_rate: 1e-3,
            learning_rate_decay: 1.0,
            weight_decay: 1e-4,
            gradient_norm_max: 1.0,
            dropout: 0.0,
        };
        let seed = self.rng.below(usize::MAX) as u64;
        let adam = self.adam.clone();
        Some(TrainingJob { policy_number: 0, network, adam, rows, recipe, passes: 2, seed })
    }

    /// What was given out is lost.
    pub(super) const fn abandon_training(&mut self) {
        (self.is_training, self.is_job_stale) = (false, false);
    }

    /// Takes a trained network into use, unless it is broken.
    pub(super) fn install(&mut self, model: Model) {
        self.is_training = false;
        let is_stale = std::mem::take(&mut self.is_job_stale);
        if !is_stale && model.network.is_sound(&SIZES) {
            (self.network, self.adam) = (model.network, model.adam);
        }
    }

    /// Keeps a sample; one of the same size makes place, each equally likely.
    fn keep(&mut self, sample: Sample) {
        // The first feature is a logarithm of seconds; 1 ms is the smallest size.
        let size =
            (f64::from(sample.features[0]) / std::f64::consts::LN_2 + 10.0).max(0.0) as usize;
        let kept = &mut self.kept[size.min(SIZES_OF_TTFT - 1)];
        if kept.len() < KEPT {
            kept.push(sample);
        } else {
            kept[self.rng.below(KEPT)] = sample;
        }
    }
}

fn add(rows: &mut Rows, sample: &Sample) {
    rows.inputs.extend(sample.features);
    rows.targets.extend([sample.factor; OUTPUTS]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_of_samples_is_trained_on_and_all_are_compared() {
        for (percent, rows) in [(100, 60), (25, 15), (0, 0)] {
            let mut residual = Residual::new(Rng::fork(1, "residual"), percent);
            (0..60).for_each(|_| residual.learn(&Features::default(), 2.0));
            let job = residual.training_job(Time::from_nanos(1_000_000_000));
            assert_eq!(job.map_or(0, |job| job.rows.targets.len() / OUTPUTS), rows);
            assert_eq!(residual.samples, 60);
        }
    }
}

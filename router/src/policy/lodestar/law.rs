//! How long an instance takes: a few coefficients, estimated from its first tokens.
//!
//! TTFT is a sum over the prefills ahead and the request's own, and linear in the coefficients. So least squares
//! suffices, and tens of requests do. Not a neural network: that needs thousands, and knows nothing outside of what
//! it has seen. What is not linear is left to the residual.
//!
//! Samples weigh by the inverse square of what was expected, since errors are proportional to times; a sample that is far off
//! weighs less (Huber). Where they say nothing, the prior does, as many times as slow as it is where they do: a GPU that is slow
//! at one thing is slow at all. Older samples weigh less by [`MEMORY`] each time. No coefficient is negative: coordinate
//! descent on the normal equations, started from the last solution, finds that minimum.

use serde::{Deserialize, Serialize};

/// Number of coefficients.
pub(super) const TERMS: usize = 9;
/// The one of waiting for a place, which comes in seconds: all others are the slower the slower the GPU.
const PLACE: usize = TERMS - 1;

/// What a request takes, in the unit of each coefficient; sums of several requests are of the same kind.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Work(pub(super) [f64; TERMS]);

/// Tokens prefilled in a step, at vLLM's default budget.
const CHUNK_TOKENS: f64 = 2048.0;
/// What a sample weighs after the next.
const MEMORY: f64 = 0.985;
/// What is kept of all samples' weight, which is that of some sixty, over a restart.
const RECALLED: f64 = 0.1;
/// Samples that the prior counts for.
const PRIOR_SAMPLES: f64 = 0.5;
/// Samples that it counts for in how slow an instance is.
const SLOWNESS_PRIOR_SAMPLES: f64 = 0.2;
/// How many times as slow, or as fast, as the prior an instance may be believed to be.
const SLOWNESS_MAX: f64 = 100.0;
/// Relative error beyond which a sample's weight falls.
const HUBER: f64 = 0.5;
/// Coefficients before the first sample, s: a request; 1,000 prompt tokens; a request that queues; 1,000 uncached
/// tokens; a million pairs of query and key; a step beside 100,000 tokens in decode; a request in decode; 100,000
/// tokens in decode; a second of expected waiting for a place in the batch. About an A30 with a model of 8B: slow
/// enough that what is learned is good news.
const GENERIC: [f64; TERMS] = [0.02, 0.003, 0.002, 0.12, 0.002, 0.01, 0.0002, 0.01, 1.0];

impl Work {
    /// What a prefill makes those behind it wait for.
    pub(super) fn of_prefill(prompt_tokens: u32, uncached_tokens: u32, decode_tokens: f64) -> Self {
        let (prompt, uncached) = (f64::from(prompt_tokens) / 1e3, f64::from(uncached_tokens) / 1e3);
        let pairs = uncached * (prompt - uncached / 2.0).max(0.0);
        let steps = f64::from(uncached_tokens) / CHUNK_TOKENS;
        Self([0.0, 0.0, 1.0, uncached, pairs, steps * decode_tokens / 1e5, 0.0, 0.0, 0.0])
    }

    /// What a request waits for by itself.
    pub(super) fn constant(
        prompt_tokens: u32,
        decode_requests: f64,
        decode_tokens: f64,
        place_wait_s: f64,
    ) -> Self {
        let prompt = f64::from(prompt_tokens) / 1e3;
        let decode = decode_tokens / 1e5;
        Self([1.0, prompt, 0.0, 0.0, 0.0, 0.0, decode_requests, decode, place_wait_s])
    }

    /// What an answer's tokens wait for: `utilisation` is seconds of prefills in a second.
    pub(super) fn of_decode(decode_requests: f64, decode_tokens: f64, utilisation: f64) -> Self {
        Self([1.0, 0.0, 0.0, 0.0, 0.0, utilisation, decode_requests, decode_tokens / 1e5, 0.0])
    }

    /// What changes from one place to another.
    pub(super) fn without_constant(mut self) -> Self {
        self.0[0] = 0.0;
        self
    }

    pub(super) fn add(&mut self, other: &Self) {
        for (sum, term) in self.0.iter_mut().zip(other.0) {
            *sum += term;
        }
    }

    pub(super) fn subtract(&mut self, other: &Self) {
        for (sum, term) in self.0.iter_mut().zip(other.0) {
            *sum -= term;
        }
    }
}

/// The same for times per output token: one; a request in decode; 100,000 tokens in decode; a prefill at all times.
const GENERIC_TPOT: [f64; TERMS] = [0.02, 0.0, 0.0, 0.0, 0.0, 0.05, 0.0002, 0.01, 0.0];

/// Normal equations and their solution.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Law {
    /// Coefficients without samples.
    generic: [f64; TERMS],
    /// Added to expected times before they divide: below it, errors are absolute, s.
    resolution_s: f64,
    squares: [[f64; TERMS]; TERMS],
    products: [f64; TERMS],
    coefficients: [f64; TERMS],
    samples: u64,
}

impl Law {
    /// Of times to first token.
    pub(super) const fn of_ttft() -> Self {
        Self::new(GENERIC, 0.02)
    }

    /// Of times per output token.
    pub(super) const fn of_tpot() -> Self {
        Self::new(GENERIC_TPOT, 0.002)
    }

    const fn new(generic: [f64; TERMS], resolution_s: f64) -> Self {
        Self {
            generic,
            resolution_s,
            squares: [[0.0; TERMS]; TERMS],
            products: [0.0; TERMS],
            coefficients: generic,
            samples: 0,
        }
    }

    /// Seconds that `work` takes.
    pub(super) fn secs(&self, work: &Work) -> f64 {
        self.coefficients.iter().zip(work.0).map(|(coefficient, term)| coefficient * term).sum()
    }

    pub(super) const fn samples(&self) -> u64 {
        self.samples
    }

    /// Forgets nearly everything it was taught: what it has learned stays until new samples say otherwise.
    pub(super) fn doubt(&mut self) {
        const KEPT: f64 = 0.02;
        self.keep(KEPT);
        self.samples = self.samples.min(4);
    }

    /// As it is believed after a restart.
    pub(super) fn recalled(&self) -> Self {
        let mut law = self.clone();
        law.keep(RECALLED);
        law
    }

    /// The same, and tried like one of which little is known.
    pub(super) fn recalled_in_doubt(&self) -> Self {
        Self { samples: self.samples.min(2), ..self.recalled() }
    }

    /// Lets all samples weigh so much of what they did.
    fn keep(&mut self, part: f64) {
        self.squares.iter_mut().flatten().for_each(|square| *square *= part);
        self.products.iter_mut().for_each(|product| *product *= part);
    }

    /// Whether all numbers are such as samples give.
    pub(super) fn is_sound(&self) -> bool {
        // A rounding error in what is ahead makes sums a hair negative.
        let mut sums = self.squares.iter().flatten().chain(&self.products);
        let mut coefficients =
            self.coefficients.iter().chain(&self.generic).chain([&self.resolution_s]);
        sums.all(|number| number.is_finite())
            && coefficients.all(|number| number.is_finite() && *number >= 0.0)
    }

    /// `work` has taken `secs`. Without samples, it is believed to be as `prior`.
    pub(super) fn learn(&mut self, work: &Work, secs: f64, prior: Option<&Self>) {
        let expected = self.secs(work);
        let scale = expected.max(0.0) + self.resolution_s;
        let error = ((secs - expected) / scale).abs();
        let weight = (HUBER / error.max(HUBER)) / (scale * scale);
        for (row, &x) in self.squares.iter_mut().zip(&work.0) {
            for (square, &other) in row.iter_mut().zip(&work.0) {
                *square = *square * MEMORY + weight * x * other;
            }
        }
        for (product, &x) in self.products.iter_mut().zip(&work.0) {
            *product = *product * MEMORY + weight * x * secs;
        }
        self.samples += 1;
        let slowness = prior.map_or(1.0, |prior| self.slowness(&prior.coefficients));
        let generic = self.generic;
        self.solve(prior.map_or(&generic, |prior| &prior.coefficients), slowness);
    }

    /// How many times as long as by `prior` its samples have taken, by least squares.
    fn slowness(&self, prior: &[f64; TERMS]) -> f64 {
        let (mut taken, mut expected) = (0.0, 0.0);
        for (term, row) in self.squares[..PLACE].iter().enumerate() {
            let by_prior: f64 =
                row[..PLACE].iter().zip(prior).map(|(square, by)| square * by).sum();
            let for_place = row[PLACE] * self.coefficients[PLACE];
            taken += prior[term] * (self.products[term] - for_place);
            expected += prior[term] * by_prior;
        }
        let ridge = |slowness: f64| SLOWNESS_PRIOR_SAMPLES / (slowness * slowness);
        let with = |ridge: f64| {
            ((taken + ridge) / (expected + ridge)).clamp(1.0 / SLOWNESS_MAX, SLOWNESS_MAX)
        };
        // A sample counts for the less the longer it takes, and so must what the prior counts for: once more with what that gives.
        with(ridge(with(ridge(1.0))))
    }

    /// Coordinate descent to the non-negative minimum, from a prior that is so many times too fast.
    fn solve(&mut self, prior: &[f64; TERMS], slowness: f64) {
        for _ in 0..4 {
            for (term, (&prior, &generic)) in prior.iter().zip(&self.generic).enumerate() {
                let slowness = if term == PLACE { 1.0 } else { slowness };
                let width = slowness.max(1.0) * prior + 0.1 * generic;
                let prior = slowness * prior;
                if width <= 0.0 {
                    continue; // not a term of this law
                }
                let ridge = PRIOR_SAMPLES / (width * width);
                let row = &self.squares[term];
                let own = row[term] * self.coefficients[term];
                let all: f64 =
                    row.iter().zip(&self.coefficients).map(|(square, other)| square * other).sum();
                let rest = self.products[term] + ridge * prior - (all - own);
                self.coefficients[term] = (rest / (row[term] + ridge)).max(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prefills with different lengths, cached shares and loads.
    fn works() -> impl Iterator<Item = Work> {
        (0..400_u32).map(|number| {
            let prompt = 500 + 7919 * number % 9000;
            let uncached = prompt - prompt * (number % 4) / 5;
            let decode = number % 11;
            let mut work = Work::of_prefill(prompt, uncached, f64::from(decode) * 2000.0);
            work.add(&Work::constant(prompt, f64::from(decode), f64::from(decode) * 2000.0, 0.0));
            work
        })
    }

    fn learned(truth: impl Fn(usize, &Work) -> f64) -> Law {
        let mut law = Law::of_ttft();
        for (number, work) in works().enumerate() {
            law.learn(&work, truth(number, &work), None);
        }
        law
    }

    fn worst_error(law: &Law, truth: &Law) -> f64 {
        works().map(|work| (law.secs(&work) / truth.secs(&work) - 1.0).abs()).fold(0.0, f64::max)
    }

    fn a100() -> Law {
        let coefficients = [0.015, 0.0028, 0.0, 0.045, 0.0012, 0.02, 0.0001, 0.03, 1.0];
        Law { coefficients, ..Law::of_ttft() }
    }

    #[test]
    fn another_gpu_is_learned_in_tens_of_requests() {
        let truth = a100();
        assert!(worst_error(&Law::of_ttft(), &truth) > 0.8, "it starts far off");
        let mut law = Law::of_ttft();
        works().take(40).for_each(|work| law.learn(&work, truth.secs(&work), None));
        assert!(worst_error(&law, &truth) < 0.15, "{}", worst_error(&law, &truth));
        let law = learned(|_, work| truth.secs(work));
        assert!(worst_error(&law, &truth) < 0.1, "{}", worst_error(&law, &truth));
    }

    #[test]
    fn who_is_slow_at_one_thing_is_expected_to_be_slow_at_others() {
        let fleet = learned(|_, work| a100().secs(work));
        // All of it cached, so that prefills show nothing: six times as slow in all the rest.
        let hits = |number: u32| {
            let decode = f64::from(number % 5);
            let mut work = Work::of_prefill(4000, 16, 2000.0 * decode);
            work.add(&Work::constant(4000, decode, 2000.0 * decode, 0.0));
            work
        };
        let prefill = Work::of_prefill(4000, 4000, 0.0);
        let mut slow = Law::of_ttft();
        (0..4).map(hits).for_each(|work| slow.learn(&work, 6.0 * fleet.secs(&work), Some(&fleet)));
        let slowness = slow.secs(&prefill) / fleet.secs(&prefill);
        assert!((5.0..7.0).contains(&slowness), "{slowness}");
        // A wait for a place comes in seconds already.
        assert!((slow.coefficients[PLACE] - fleet.coefficients[PLACE]).abs() < 1e-9);
    }

    #[test]
    fn one_wild_sample_in_ten_does_little_harm() {
        let truth = a100();
        let law =
            learned(|number, work| truth.secs(work) * if number % 10 == 3 { 20.0 } else { 1.0 });
        assert!(worst_error(&law, &truth) < 0.8, "{}", worst_error(&law, &truth));
    }

    #[test]
    fn a_time_per_token_depends_on_who_decodes_beside_it() {
        let mut law = Law::of_tpot();
        for number in 0..60 {
            let decode = f64::from(number % 9);
            let work = Work::of_decode(decode, decode * 3000.0, 0.2);
            law.learn(&work, 0.008 + 0.0005 * decode, None);
        }
        let tpot_s = law.secs(&Work::of_decode(6.0, 18_000.0, 0.2));
        assert!((tpot_s - 0.011).abs() < 0.0003, "{tpot_s}");
        assert!(law.coefficients[1..5].iter().all(|&coefficient| coefficient <= 0.0));
    }

    #[test]
    fn no_coefficient_is_negative() {
        let law = learned(|_, work| 1.0 / (1.0 + work.0[3]));
        assert!(law.coefficients.iter().all(|&coefficient| coefficient >= 0.0));
    }
}

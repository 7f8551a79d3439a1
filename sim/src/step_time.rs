//! How long a step takes on a GPU: one joint cost of the whole batch, from sums over its rows.
//!
//! Not a sum of a prefill cost and a decode cost: a mixed step reads the weights once. Not a function of
//! batch means either: attention is summed request by request. All arithmetic is on integers, with rates
//! in picoseconds, so that a run of decode steps is an arithmetic series with an exact sum.

use std::sync::Arc;

use lodestar_router::Duration;

use crate::engine::StepShape;

/// A step's duration as a function of its shape.
#[derive(Clone, Debug)]
pub enum StepTime {
    /// The law that recorded cases use.
    Recorded(RecordedStepTime),
    /// The law of a GPU and a model.
    Gpu(Arc<GpuStepTime>),
}

impl StepTime {
    /// Duration of a step that computes something.
    pub fn duration(&self, shape: &StepShape) -> Duration {
        match self {
            Self::Recorded(law) => law.duration(shape),
            Self::Gpu(law) => law.duration(shape),
        }
    }

    /// The same law with every coefficient times `factor`, rounded, so that it is still one of integers and
    /// whole runs of steps still have a closed form.
    #[must_use]
    pub fn scaled(&self, factor: f64) -> Self {
        let scale = |coefficient: u64| round(coefficient as f64 * factor);
        match self {
            Self::Recorded(law) => Self::Recorded(RecordedStepTime {
                a_ns: scale(law.a_ns),
                b_ns: scale(law.b_ns),
                c_ns: scale(law.c_ns),
                d_ns: scale(law.d_ns),
            }),
            Self::Gpu(law) => Self::Gpu(Arc::new(GpuStepTime {
                linear_ps: law.linear_ps.iter().map(|&ps| scale(ps)).collect(),
                per_half_pair_fs: scale(law.per_half_pair_fs),
                per_decode_request_ps: scale(law.per_decode_request_ps),
                per_context_token_ps: scale(law.per_context_token_ps),
                per_context_token_mixed_ps: scale(law.per_context_token_mixed_ps),
            })),
        }
    }

    /// A law under which no step takes longer than one that does at least as much takes under this one. Measured
    /// laws may have dips: more tokens in less time.
    #[must_use]
    pub(crate) fn lower_envelope(&self) -> Self {
        match self {
            Self::Recorded(law) => Self::Recorded(*law),
            Self::Gpu(law) => {
                let mut law = GpuStepTime::clone(law);
                let mut least = u64::MAX;
                for ps in law.linear_ps.iter_mut().rev() {
                    least = least.min(*ps);
                    *ps = least;
                }
                let per_context_token =
                    law.per_context_token_ps.min(law.per_context_token_mixed_ps);
                law.per_context_token_ps = per_context_token;
                law.per_context_token_mixed_ps = per_context_token;
                Self::Gpu(Arc::new(law))
            }
        }
    }

    /// Durations of the steps in which `requests` requests decode, starting with one that ends with
    /// `context_tokens` in all their contexts. `None` if they do not follow a series.
    pub fn decode_series(&self, requests: u64, context_tokens: u64) -> Option<DecodeSeries> {
        match self {
            Self::Recorded(law) => {
                let first = law.a_ns + law.c_ns * requests + law.d_ns * context_tokens;
                DecodeSeries::new(first, law.d_ns * requests, 1000)
            }
            Self::Gpu(law) => {
                let constant =
                    law.linear_ps[requests as usize] + law.per_decode_request_ps * requests;
                let first = constant + law.per_context_token_ps * context_tokens;
                DecodeSeries::new(first, law.per_context_token_ps * requests, 1)
            }
        }
    }
}

/// Durations of consecutive steps in which the same requests decode: step j takes
/// `floor((first + j * increment) / 1000)` units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeSeries {
    first: u64,
    increment: u64,
    unit_ns: u64,
}

impl DecodeSeries {
    const DIVISOR: u64 = 1000;

    /// A series, unless its first step would be shorter than one unit.
    fn new(first: u64, increment: u64, unit_ns: u64) -> Option<Self> {
        (first >= Self::DIVISOR).then_some(Self { first, increment, unit_ns })
    }

    /// Duration of step `step`.
    pub fn duration(&self, step: u64) -> Duration {
        Duration::from_nanos((self.first + step * self.increment) / Self::DIVISOR * self.unit_ns)
    }

    /// Duration of the first `steps` steps together, to the nanosecond what their sum is.
    pub fn elapsed(&self, steps: u64) -> Duration {
        Duration::from_nanos(
            floor_sum(steps, Self::DIVISOR, self.increment, self.first) * self.unit_ns,
        )
    }
}

/// `sum of floor((a * j + b) / m) for j in 0..n`, by the Euclidean algorithm: every round reduces the
/// slope as a greatest common divisor would, so it takes `O(log m)` rounds whatever `n` is.
fn floor_sum(mut n: u64, mut m: u64, mut a: u64, mut b: u64) -> u64 {
    let mut sum = 0;
    while n > 0 {
        sum += n * (n - 1) / 2 * (a / m) + n * (b / m);
        (a, b) = (a % m, b % m);
        let top = a * n + b;
        (n, b) = (top / m, top % m);
        (m, a) = (a, m);
    }
    sum
}

/// `max(1, (a_ns + b_ns P + c_ns D + d_ns C) / 1000)` whole microseconds, with P prefill tokens, D decode
/// requests and C context tokens of all rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedStepTime {
    /// Nanoseconds a step.
    pub a_ns: u64,
    /// Nanoseconds a prefill token.
    pub b_ns: u64,
    /// Nanoseconds a decode request.
    pub c_ns: u64,
    /// Nanoseconds a context token.
    pub d_ns: u64,
}

impl RecordedStepTime {
    fn duration(self, shape: &StepShape) -> Duration {
        let context_tokens = shape.prefill_context_tokens + shape.decode_context_tokens;
        let nanos = self.a_ns
            + self.b_ns * shape.prefill_tokens
            + self.c_ns * shape.decode_requests
            + self.d_ns * context_tokens;
        Duration::from_micros((nanos / 1000).max(1))
    }
}

/// The law of a GPU profile, ready for use:
/// `t = h(T) + c * pairs + d * B + e * C * (m if any prefill else 1)`, where
/// `h(T) = host + t0 + (w^p + (b T)^p)^(1/p)` blends reading the weights (memory bound) with multiplying
/// by them (compute bound) over T = prefill tokens + decode requests; pairs are (query, key) pairs of
/// prefill attention, B decode requests and C their context tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GpuStepTime {
    /// `h(T)` by T, up to the token budget.
    linear_ps: Vec<u64>,
    /// `c / 2`, since shapes count half pairs.
    per_half_pair_fs: u64,
    per_decode_request_ps: u64,
    per_context_token_ps: u64,
    per_context_token_mixed_ps: u64,
}

/// Coefficients of the hinge law as a profile states them.
#[derive(Clone, Copy, Debug, PartialEq, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct HingeCoefficients {
    /// Host time per step, ms. With async scheduling most of it hides behind the device.
    pub host_ms: f64,
    /// Fixed device time per step, ms.
    pub t0_ms: f64,
    /// Reading the weights once, ms.
    pub w_ms: f64,
    /// Linear layers, us per token.
    pub b_us_per_token: f64,
    /// Prefill attention, ns per (query, key) pair.
    pub c_ns_per_pair: f64,
    /// Per decode request, us.
    pub d_us_per_decode_request: f64,
    /// Decode attention, ns per context token.
    pub e_ns_per_context_token: f64,
    /// Sharpness of the knee between memory and compute bound.
    pub p: f64,
    /// Factor on decode attention in a step that also holds prefill.
    pub mixed_factor: f64,
}

impl GpuStepTime {
    /// The law for steps of up to `max_tokens` tokens. The coefficients have passed
    /// [`HingeCoefficients::check`]. `linear_ms`, if it has points, is the time of the linear layers by
    /// tokens, in place of the hinge.
    pub fn new(
        coefficients: &HingeCoefficients,
        linear_ms: &[(u32, f64)],
        max_tokens: u32,
    ) -> Self {
        let k = coefficients;
        assert!(k.check().is_ok(), "callers check coefficients where they read them");
        let linear_ps = (0..=max_tokens)
            .map(|tokens| {
                let tokens_ms = if linear_ms.is_empty() {
                    k.hinge_ms(f64::from(tokens))
                } else {
                    interpolate(linear_ms, tokens)
                };
                round((k.host_ms + k.t0_ms + tokens_ms) * 1e9)
            })
            .collect();
        Self {
            linear_ps,
            per_half_pair_fs: round(k.c_ns_per_pair * 1e6 / 2.0),
            per_decode_request_ps: round(k.d_us_per_decode_request * 1e6),
            per_context_token_ps: round(k.e_ns_per_context_token * 1e3),
            per_context_token_mixed_ps: round(k.e_ns_per_context_token * k.mixed_factor * 1e3),
        }
    }

    fn duration(&self, shape: &StepShape) -> Duration {
        let tokens = (shape.prefill_tokens + shape.decode_requests) as usize;
        let per_context_token_ps = if shape.prefill_tokens > 0 {
            self.per_context_token_mixed_ps
        } else {
            self.per_context_token_ps
        };
        let picos = self.linear_ps[tokens]
            + shape.prefill_half_pairs * self.per_half_pair_fs / 1000
            + shape.decode_requests * self.per_decode_request_ps
            + shape.decode_context_tokens * per_context_token_ps;
        Duration::from_nanos(picos / 1000)
    }
}

/// Between the two points around `tokens`; level before the first, with the last slope after the last.
fn interpolate(points: &[(u32, f64)], tokens: u32) -> f64 {
    let above = points.partition_point(|point| point.0 <= tokens);
    if above == 0 || points.len() == 1 {
        return points[0].1;
    }
    let above = above.min(points.len() - 1);
    let ((from, low), (to, high)) = (points[above - 1], points[above]);
    low + (high - low) * f64::from(tokens - from) / f64::from(to - from)
}

impl HingeCoefficients {
    /// Reading the weights or multiplying by them, with a knee between the two.
    fn hinge_ms(&self, tokens: f64) -> f64 {
        let compute_ms = self.b_us_per_token * tokens / 1e3;
        let powers = libm::pow(self.w_ms, self.p) + libm::pow(compute_ms, self.p);
        libm::pow(powers, 1.0 / self.p)
    }

    /// Checks that the law is a time: finite, not negative, some weight to read.
    ///
    /// # Errors
    /// The name of the first coefficient that is wrong, and its value.
    pub fn check(&self) -> Result<(), (&'static str, f64)> {
        let nonnegative = [
            ("host_ms", self.host_ms),
            ("t0_ms", self.t0_ms),
            ("b_us_per_token", self.b_us_per_token),
            ("c_ns_per_pair", self.c_ns_per_pair),
            ("d_us_per_decode_request", self.d_us_per_decode_request),
            ("e_ns_per_context_token", self.e_ns_per_context_token),
        ];
        for (name, value) in nonnegative {
            if !(0.0..1e6).contains(&value) {
                return Err((name, value));
            }
        }
        for (name, value) in
            [("w_ms", self.w_ms), ("p", self.p), ("mixed_factor", self.mixed_factor)]
        {
            if !(1e-6..1e6).contains(&value) {
                return Err((name, value));
            }
        }
        Ok(())
    }
}

fn round(value: f64) -> u64 {
    assert!((0.0..1e18).contains(&value), "coefficients were checked");
    (value + 0.5) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_table_takes_the_place_of_the_hinge() {
        let points = [(1, 10.0), (100, 20.0), (200, 40.0)];
        for (tokens, ms) in [(0, 10.0), (1, 10.0), (150, 30.0), (200, 40.0), (300, 60.0)] {
            assert!((interpolate(&points, tokens) - ms).abs() < 1e-12, "{tokens}");
        }
    }

    proptest! {
        #[test]
        fn the_closed_form_is_the_sum(
            first in 1000_u64..50_000_000,
            increment in 0_u64..5_000_000,
            steps in 0_u64..400,
        ) {
            let series = DecodeSeries::new(first, increment, 1).unwrap();
            let sum: u64 = (0..steps).map(|step| series.duration(step).as_nanos()).sum();
            prop_assert_eq!(series.elapsed(steps).as_nanos(), sum);
        }
    }
}

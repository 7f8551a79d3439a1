//! A measured step, and the step-time law as a function that can be differentiated.
//!
//! The simulator evaluates the law on integers (`lodestar_sim::step_time`); here it is the same law on
//! floating point numbers, with its derivative by every coefficient.

use lodestar_sim::step_time::HingeCoefficients;

/// What one step computed, and how long it took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSample {
    /// Tokens computed by prefill rows.
    pub prefill_tokens: f64,
    /// (query, key) pairs of prefill attention: the sum of `q (c0 + q / 2)` for `q` new tokens after
    /// `c0` computed ones.
    pub prefill_pairs: f64,
    /// Decode rows.
    pub decode_requests: f64,
    /// Sum of the decode rows' context lengths.
    pub decode_context_tokens: f64,
    /// How long the step took, ms.
    pub duration_ms: f64,
}

impl StepSample {
    /// All tokens of the step.
    pub fn tokens(&self) -> f64 {
        self.prefill_tokens + self.decode_requests
    }

    pub(crate) fn has_prefill(&self) -> bool {
        self.prefill_tokens > 0.0
    }
}

/// A coefficient of the law that a fit can estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coefficient {
    /// `t0_ms`.
    T0,
    /// `w_ms`.
    W,
    /// `b_us_per_token`.
    B,
    /// `p`.
    P,
    /// `c_ns_per_pair`.
    C,
    /// `d_us_per_decode_request`.
    D,
    /// `e_ns_per_context_token`.
    E,
    /// `mixed_factor`. While it is fitted, this slot holds the product with
    /// `e_ns_per_context_token`, in which the law is linear.
    M,
}

/// How many coefficients there are.
pub(crate) const COUNT: usize = 8;

impl Coefficient {
    /// In the order of a fit's vectors.
    pub(crate) const ALL: [Self; COUNT] =
        [Self::T0, Self::W, Self::B, Self::P, Self::C, Self::D, Self::E, Self::M];

    /// As a profile calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::T0 => "t0_ms",
            Self::W => "w_ms",
            Self::B => "b_us_per_token",
            Self::P => "p",
            Self::C => "c_ns_per_pair",
            Self::D => "d_us_per_decode_request",
            Self::E => "e_ns_per_context_token",
            Self::M => "mixed_factor",
        }
    }

    /// The values it may take.
    pub(crate) fn bounds(self) -> (f64, f64) {
        match self {
            Self::W => (1e-3, 1e5),
            Self::P => (1.0, 12.0),
            Self::T0 | Self::B | Self::C | Self::D | Self::E | Self::M => (0.0, 1e5),
        }
    }

    /// What a profile says if the data says nothing. `None` if a profile without it would be wrong.
    pub(crate) fn default_value(self) -> Option<f64> {
        match self {
            Self::T0 | Self::D => Some(0.0),
            // The fits of measured GPUs give 1.5 to 2.1.
            Self::P => Some(2.0),
            Self::M => Some(1.0),
            Self::W | Self::B | Self::C | Self::E => None,
        }
    }

    /// What a log must hold for this coefficient to show.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::T0 | Self::P => {
                "record steps from 1 token up to the token budget, evenly in log scale"
            }
            Self::W => "record steps of few tokens, such as decode with 1 to 8 requests",
            Self::B => "record steps of many tokens, such as prompts longer than the token budget",
            Self::C => "record steps with prefill, of prompts of different lengths",
            Self::D => "record decode steps with 1 to 256 requests, at short and at long contexts",
            Self::E => "record decode steps with contexts from 100 to 10,000 tokens",
            Self::M => "record decode steps both with and without prefill beside them",
        }
    }
}

/// Time of the linear layers by tokens in the step, in place of the hinge.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearTable {
    /// (tokens, ms), by ascending tokens, at least one.
    points: Vec<(f64, f64)>,
}

impl LinearTable {
    pub(crate) fn new(points: Vec<(f64, f64)>) -> Self {
        assert!(!points.is_empty(), "a table has a point");
        Self { points }
    }

    /// (tokens, ms), by ascending tokens.
    pub fn points(&self) -> &[(f64, f64)] {
        &self.points
    }

    /// Interpolated between points, level before the first, with the last slope after the last.
    pub(crate) fn at(&self, tokens: f64) -> f64 {
        interpolate(&self.points, tokens)
    }
}

/// Between the two points around `x`; level before the first, with the last slope after the last.
pub(crate) fn interpolate(points: &[(f64, f64)], x: f64) -> f64 {
    let above = points.partition_point(|point| point.0 <= x);
    if above == 0 || points.len() == 1 {
        return points[0].1;
    }
    let above = above.min(points.len() - 1);
    let ((x0, y0), (x1, y1)) = (points[above - 1], points[above]);
    y0 + (y1 - y0) * (x - x0) / (x1 - x0)
}

/// The law with its coefficients as a vector, in the order of [`Coefficient::ALL`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Law<'a> {
    pub(crate) host_ms: f64,
    pub(crate) table: Option<&'a LinearTable>,
    /// `mixed_factor` is this and not fitted.
    pub(crate) tied_mixed_factor: Option<f64>,
}

impl Law<'_> {
    /// The duration in ms, and its derivative by every coefficient.
    pub(crate) fn evaluate(&self, theta: &[f64; COUNT], step: &StepSample) -> (f64, [f64; COUNT]) {
        let [t0, w, b, p, c, d, e, e_mixed] = *theta;
        let mut slope = [0.0; COUNT];
        slope[Coefficient::T0 as usize] = 1.0;
        let linear_ms = if let Some(table) = self.table {
            table.at(step.tokens())
        } else {
            let compute_ms = b * step.tokens() / 1e3;
            let hinge = Hinge::at(w, compute_ms, p);
            slope[Coefficient::W as usize] = hinge.by_first;
            slope[Coefficient::B as usize] = hinge.by_second * step.tokens() / 1e3;
            slope[Coefficient::P as usize] = hinge.by_p;
            hinge.value
        };
        slope[Coefficient::C as usize] = step.prefill_pairs / 1e6;
        slope[Coefficient::D as usize] = step.decode_requests / 1e3;
        let context = step.decode_context_tokens / 1e6;
        let decode_ms = match (step.has_prefill(), self.tied_mixed_factor) {
            (true, None) => {
                slope[Coefficient::M as usize] = context;
                e_mixed * context
            }
            (true, Some(factor)) => {
                slope[Coefficient::E as usize] = context * factor;
                e * context * factor
            }
            (false, _) => {
                slope[Coefficient::E as usize] = context;
                e * context
            }
        };
        let prefill_ms = c * slope[Coefficient::C as usize];
        let request_ms = d * slope[Coefficient::D as usize];
        (self.host_ms + t0 + linear_ms + prefill_ms + request_ms + decode_ms, slope)
    }
}

/// `(a^p + b^p)^(1/p)` and its derivatives.
struct Hinge {
    value: f64,
    by_first: f64,
    by_second: f64,
    by_p: f64,
}

impl Hinge {
    fn at(first: f64, second: f64, p: f64) -> Self {
        let largest = first.max(second);
        if largest <= 0.0 {
            return Self { value: 0.0, by_first: 1.0, by_second: 1.0, by_p: 0.0 };
        }
        // Through the ratio, so that no power overflows.
        let ratio = first.min(second) / largest;
        let power = ratio.powf(p);
        let value = largest * (1.0 + power).powf(1.0 / p);
        let logarithm = if ratio > 0.0 { power * ratio.ln() } else { 0.0 };
        let by_p = value * (logarithm / (p * (1.0 + power)) - power.ln_1p() / (p * p));
        let by = |part: f64| (part / value).powf(p - 1.0);
        Self { value, by_first: by(first), by_second: by(second), by_p }
    }
}

/// The duration that a profile's law gives a step, ms.
pub fn predict_ms(
    coefficients: &HingeCoefficients,
    table: Option<&LinearTable>,
    step: &StepSample,
) -> f64 {
    let k = coefficients;
    let tied = Some(k.mixed_factor);
    let law = Law { host_ms: k.host_ms, table, tied_mixed_factor: tied };
    let theta = [
        k.t0_ms,
        k.w_ms,
        k.b_us_per_token,
        k.p,
        k.c_ns_per_pair,
        k.d_us_per_decode_request,
        k.e_ns_per_context_token,
        0.0,
    ];
    law.evaluate(&theta, step).0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_are_those_of_the_value() {
        let theta = [0.5, 7.0, 20.0, 1.8, 1.2, 3.0, 40.0, 90.0];
        let law = Law { host_ms: 1.0, table: None, tied_mixed_factor: None };
        for (prefill_tokens, decode_requests) in [(0.0, 8.0), (300.0, 16.0), (4000.0, 0.0)] {
            let step = StepSample {
                prefill_tokens,
                prefill_pairs: prefill_tokens * prefill_tokens / 2.0,
                decode_requests,
                decode_context_tokens: decode_requests * 700.0,
                duration_ms: 1.0,
            };
            let (value, slope) = law.evaluate(&theta, &step);
            for index in 0..COUNT {
                let mut moved = theta;
                let change = 1e-6 * theta[index];
                moved[index] += change;
                let secant = (law.evaluate(&moved, &step).0 - value) / change;
                assert!((secant - slope[index]).abs() < 1e-4 * (1.0 + secant.abs()), "{index}");
            }
        }
    }

    #[test]
    fn a_table_is_level_before_and_straight_after() {
        let table = LinearTable::new(vec![(1.0, 10.0), (100.0, 20.0), (200.0, 40.0)]);
        for (tokens, ms) in [(0.0, 10.0), (1.0, 10.0), (150.0, 30.0), (200.0, 40.0), (300.0, 60.0)]
        {
            assert!((table.at(tokens) - ms).abs() < 1e-12, "{tokens}");
        }
    }
}

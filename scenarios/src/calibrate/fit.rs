//! Fits the step-time law to measured steps, and says how well each coefficient is known.
//!
//! The residual is the logarithm of predicted over measured: a step of 5 ms and one of 500 ms count
//! alike, as they do for latencies in percent. Outliers (a garbage collection, a preempted host) are set
//! aside by Tukey's bisquare, which gives a residual beyond 4.7 scales no weight at all.

use lodestar_sim::catalog::FitError as ErrorPercent;
use lodestar_sim::step_time::HingeCoefficients;

use super::identify;
use super::solver::{Solution, solve};
use super::step::{COUNT, Coefficient, Law, LinearTable, StepSample};
use crate::quantile::quantile;

/// Rows below which no fit is tried.
pub const MIN_ROWS: usize = 20;

/// What a fit takes as given.
#[derive(Clone, Debug)]
pub struct FitOptions {
    /// Host time, which no step log tells from `t0_ms`.
    pub host_ms: f64,
    /// Taken instead of fitted.
    pub mixed_factor: Option<f64>,
    /// Time of the linear layers, in place of the hinge.
    pub table: Option<LinearTable>,
    /// Whether rows may be set aside as outliers. Not where every row is exact, as a sum of operators is.
    pub robust: bool,
}

/// A fitted law.
#[derive(Clone, Debug)]
pub struct Fit {
    /// The law as a profile states it.
    pub coefficients: HingeCoefficients,
    /// In place of the hinge.
    pub table: Option<LinearTable>,
    /// Every coefficient, in the order of the formula.
    pub estimates: Vec<Estimate>,
    /// Over all rows, those set aside included: the law has them wrong, whoever is to blame.
    pub error_percent: ErrorPercent,
    /// Rows, in their order.
    pub residuals: Vec<Residual>,
}

/// What became of one coefficient.
#[derive(Clone, Debug, PartialEq)]
pub struct Estimate {
    /// Which.
    pub coefficient: Coefficient,
    /// As it will stand in the profile.
    pub value: f64,
    /// How it came about.
    pub origin: Origin,
}

/// How a coefficient came about.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// Fitted, with its 95 % confidence interval.
    Fitted {
        /// Lower end.
        low: f64,
        /// Upper end.
        high: f64,
    },
    /// Fitted, and the best value is the smallest or largest one allowed.
    AtBound,
    /// Given by the caller.
    Given,
    /// The data cannot say; the value is the usual one.
    Assumed {
        /// Why the data cannot say.
        reason: String,
    },
    /// The data cannot say, and no value can be assumed.
    Missing {
        /// Why the data cannot say.
        reason: String,
    },
}

/// One row and what the law makes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Residual {
    /// The row.
    pub step: StepSample,
    /// By the law.
    pub predicted_ms: f64,
    /// Whether it was set aside.
    pub is_outlier: bool,
}

impl Residual {
    /// (predicted - measured) / measured, percent.
    pub fn percent(&self) -> f64 {
        (self.predicted_ms / self.step.duration_ms - 1.0) * 100.0
    }
}

/// Fewer rows than [`MIN_ROWS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{rows} rows are too few to fit: {MIN_ROWS} are needed, several hundred are good")]
pub struct TooFewRows {
    /// How many there are.
    pub rows: usize,
}

impl Fit {
    /// Coefficients that neither the data nor a default gives. A law without them is no profile.
    pub fn missing(&self) -> impl Iterator<Item = &Estimate> {
        self.estimates.iter().filter(|e| matches!(e.origin, Origin::Missing { .. }))
    }

    /// The same law with what operators cannot show: host time, and the factor on mixed steps.
    #[must_use]
    pub fn with_assumptions(mut self, host_ms: f64, mixed_factor: f64) -> Self {
        self.coefficients.host_ms = host_ms;
        self.coefficients.mixed_factor = mixed_factor;
        let mixed = self.estimates.iter_mut().find(|e| e.coefficient == Coefficient::M);
        mixed.expect("every coefficient has an estimate").value = mixed_factor;
        self
    }

    /// The same law with the hinge of another fit, for readers: a table stands in its place.
    #[must_use]
    pub fn with_hinge_of(mut self, hinge: &Self) -> Self {
        let HingeCoefficients { w_ms, b_us_per_token, p, .. } = hinge.coefficients;
        self.coefficients = HingeCoefficients { w_ms, b_us_per_token, p, ..self.coefficients };
        for coefficient in [Coefficient::W, Coefficient::B, Coefficient::P] {
            let index = coefficient as usize;
            self.estimates[index].value = hinge.estimates[index].value;
        }
        self
    }

    /// How many rows were set aside.
    pub fn outliers(&self) -> usize {
        self.residuals.iter().filter(|residual| residual.is_outlier).count()
    }
}

/// Fits the law to the rows.
///
/// # Errors
/// When there are too few rows.
pub fn fit(samples: &[StepSample], options: &FitOptions) -> Result<Fit, TooFewRows> {
    if samples.len() < MIN_ROWS {
        return Err(TooFewRows { rows: samples.len() });
    }
    let tied = options.mixed_factor;
    let mut law =
        Law { host_ms: options.host_ms, table: options.table.as_ref(), tied_mixed_factor: tied };
    let mut theta = start(samples);
    let mut free = [true; COUNT];
    let mut unknown = identify::absent(samples, &law);
    for (coefficient, _) in &unknown {
        fix(*coefficient, &mut theta, &mut free, &mut law);
    }
    for coefficient in given(&law) {
        free[coefficient as usize] = false;
    }
    let solution = loop {
        let solution = solve(samples, &law, theta, free, options.robust);
        let Some((coefficient, reason)) = identify::weakest(&solution) else { break solution };
        fix(coefficient, &mut theta, &mut free, &mut law);
        unknown.push((coefficient, reason));
    };
    Ok(conclude(samples, options, &law, &solution, &unknown))
}

/// Coefficients that are not fitted because the caller knows them.
fn given(law: &Law<'_>) -> Vec<Coefficient> {
    let mut given = Vec::new();
    if law.table.is_some() {
        given.extend([Coefficient::W, Coefficient::B, Coefficient::P]);
    }
    if law.tied_mixed_factor.is_some() {
        given.push(Coefficient::M);
    }
    given
}

fn fix(
    coefficient: Coefficient,
    theta: &mut [f64; COUNT],
    free: &mut [bool; COUNT],
    law: &mut Law<'_>,
) {
    free[coefficient as usize] = false;
    let (lowest, _) = coefficient.bounds();
    let value = coefficient.default_value();
    theta[coefficient as usize] = value.unwrap_or(lowest);
    if coefficient == Coefficient::M {
        law.tied_mixed_factor = law.tied_mixed_factor.or(value);
    }
}

/// A first guess, from quantiles: a few outliers do not move it.
fn start(samples: &[StepSample]) -> [f64; COUNT] {
    let sorted = |pick: &dyn Fn(&StepSample) -> Option<f64>| {
        let mut values: Vec<f64> = samples.iter().filter_map(pick).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let of = |values: &[f64], q: f64| if values.is_empty() { 0.0 } else { quantile(values, q) };
    let durations = sorted(&|step| Some(step.duration_ms));
    let tokens = sorted(&|step| Some(step.tokens()));
    let many = of(&tokens, 0.8).max(1.0);
    let per_token =
        sorted(&|step| (step.tokens() >= many).then(|| step.duration_ms / step.tokens()));
    let per_pair = sorted(&|s| (s.prefill_pairs > 0.0).then(|| s.duration_ms / s.prefill_pairs));
    let context = |step: &StepSample| step.decode_context_tokens;
    let per_context = sorted(&|s| (context(s) > 0.0).then(|| s.duration_ms / context(s)));
    let e = of(&per_context, 0.3) * 1e6 * 0.3;
    [
        0.0,
        of(&durations, 0.1).max(1e-2) * 0.8,
        of(&per_token, 0.5) * 1e3 * 0.7,
        1.8,
        of(&per_pair, 0.1) * 1e6 * 0.2,
        1.0,
        e,
        e,
    ]
}

fn conclude(
    samples: &[StepSample],
    options: &FitOptions,
    law: &Law<'_>,
    solution: &Solution,
    unknown: &[(Coefficient, String)],
) -> Fit {
    let theta = &solution.theta;
    let residuals: Vec<Residual> = samples
        .iter()
        .zip(&solution.weights)
        .map(|(step, weight)| Residual {
            step: *step,
            predicted_ms: law.evaluate(theta, step).0,
            is_outlier: *weight <= 0.0,
        })
        .collect();
    let estimates: Vec<Estimate> = Coefficient::ALL
        .into_iter()
        .map(|coefficient| estimate(coefficient, law, solution, unknown))
        .collect();
    let value = |coefficient: Coefficient| estimates[coefficient as usize].value;
    let coefficients = HingeCoefficients {
        host_ms: options.host_ms,
        t0_ms: value(Coefficient::T0),
        w_ms: value(Coefficient::W),
        b_us_per_token: value(Coefficient::B),
        c_ns_per_pair: value(Coefficient::C),
        d_us_per_decode_request: value(Coefficient::D),
        e_ns_per_context_token: value(Coefficient::E),
        p: value(Coefficient::P),
        mixed_factor: value(Coefficient::M),
    };
    let error_percent = error_of(&residuals);
    Fit { coefficients, table: options.table.clone(), estimates, error_percent, residuals }
}

fn estimate(
    coefficient: Coefficient,
    law: &Law<'_>,
    solution: &Solution,
    unknown: &[(Coefficient, String)],
) -> Estimate {
    let is_mixed = coefficient == Coefficient::M;
    if is_mixed && law.tied_mixed_factor.is_none() && is_nothing(Coefficient::E, solution) {
        let reason = "its quotient is by e_ns_per_context_token, which is unknown".to_owned();
        return Estimate { coefficient, value: 1.0, origin: Origin::Assumed { reason } };
    }
    let value = match law.tied_mixed_factor {
        Some(factor) if is_mixed => factor,
        _ => solution.value(coefficient),
    };
    let reason = unknown.iter().find(|(unknown, _)| *unknown == coefficient);
    let origin = match (reason, solution.half_width(coefficient)) {
        (Some((_, reason)), _) if coefficient.default_value().is_some() => {
            Origin::Assumed { reason: reason.clone() }
        }
        (Some((_, reason)), _) => Origin::Missing { reason: reason.clone() },
        (None, _) if !solution.free[coefficient as usize] => Origin::Given,
        (None, None) if is_nothing(coefficient, solution) => {
            let reason = "durations do not grow with what it prices".to_owned();
            Origin::Missing { reason }
        }
        (None, None) => Origin::AtBound,
        (None, Some(half)) => {
            let (lowest, highest) = coefficient.bounds();
            Origin::Fitted { low: (value - half).max(lowest), high: (value + half).min(highest) }
        }
    };
    Estimate { coefficient, value, origin }
}

/// Whether a law needs the coefficient, and the steps are fitted best with none of it.
fn is_nothing(coefficient: Coefficient, solution: &Solution) -> bool {
    let (lowest, _) = coefficient.bounds();
    coefficient.default_value().is_none()
        && solution.free[coefficient as usize]
        && solution.theta[coefficient as usize] <= lowest
}

fn error_of(residuals: &[Residual]) -> ErrorPercent {
    let mut percents: Vec<f64> =
        residuals.iter().map(|residual| residual.percent().abs()).collect();
    percents.sort_by(f64::total_cmp);
    ErrorPercent {
        mean: percents.iter().sum::<f64>() / percents.len() as f64,
        p95: quantile(&percents, 0.95),
        max: quantile(&percents, 1.0),
    }
}

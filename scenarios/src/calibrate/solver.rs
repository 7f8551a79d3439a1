//! Levenberg and Marquardt's method with bounds, inside iteratively reweighted least squares.

use super::matrix::{Matrix, cholesky, inverse, solve as solve_triangular};
use super::step::{COUNT, Coefficient, Law, StepSample};
use crate::quantile::quantile;

/// Bisquare's constant: 95 % efficiency where errors are normal.
const BISQUARE: f64 = 4.685;
/// Huber's constant, for the first rounds, where the scale is not yet known.
const HUBER: f64 = 1.345;
/// Rounds of reweighting; five or so usually suffice.
const ROUNDS: usize = 30;
/// Smallest scale of the residuals that is believed, relative. The law is a law to a few percent
/// (docs/calibration.md): where it misses by as much, no measurement is disturbed.
const MIN_SCALE: f64 = 0.03;

/// Where the fit ended, with what is needed to judge it.
#[derive(Clone, Debug)]
pub(crate) struct Solution {
    pub(crate) theta: [f64; COUNT],
    pub(crate) free: [bool; COUNT],
    /// Free coefficients that do not lie at a bound.
    pub(crate) active: Vec<Coefficient>,
    /// Of the rows: 0 is set aside.
    pub(crate) weights: Vec<f64>,
    /// `JᵀJ` of the active coefficients, scaled to a unit diagonal.
    pub(crate) correlation: Matrix,
    /// The square roots of the diagonal.
    pub(crate) norms: Vec<f64>,
    /// Covariance of the active coefficients, if the data determines them.
    covariance: Option<Matrix>,
    /// Student's t at 97.5 %.
    t: f64,
}

impl Solution {
    /// Half the width of the 95 % interval; `None` for a coefficient that is not active.
    pub(crate) fn half_width(&self, coefficient: Coefficient) -> Option<f64> {
        let index = self.active.iter().position(|active| *active == coefficient)?;
        let covariance = self.covariance.as_ref()?;
        let variance = covariance[index][index];
        if coefficient != Coefficient::M {
            return Some(self.t * variance.sqrt());
        }
        // The factor is a quotient; its variance follows from those of both parts.
        let alone = self.theta[Coefficient::E as usize];
        let factor = self.mixed_factor();
        let e = self.active.iter().position(|active| *active == Coefficient::E)?;
        let of_quotient =
            variance - 2.0 * factor * covariance[index][e] + factor * factor * covariance[e][e];
        Some(self.t * of_quotient.max(0.0).sqrt() / alone)
    }

    /// As a profile states it.
    pub(crate) fn value(&self, coefficient: Coefficient) -> f64 {
        if coefficient == Coefficient::M {
            self.mixed_factor()
        } else {
            self.theta[coefficient as usize]
        }
    }

    fn mixed_factor(&self) -> f64 {
        self.theta[Coefficient::M as usize] / self.theta[Coefficient::E as usize].max(1e-9)
    }
}

/// Minimises the residuals from `theta` on, moving only what is free.
pub(crate) fn solve(
    samples: &[StepSample],
    law: &Law<'_>,
    theta: [f64; COUNT],
    free: [bool; COUNT],
    robust: bool,
) -> Solution {
    let problem = Problem { samples, law, free };
    let mut weights = vec![1.0; samples.len()];
    let mut theta = problem.minimise(theta, &weights);
    let mut scale = 0.0;
    for round in 0..if robust { ROUNDS } else { 0 } {
        let residuals = problem.residuals(&theta);
        scale = scale_of(&residuals);
        weights = residuals.iter().map(|residual| weight(residual / scale, round)).collect();
        let before = theta;
        theta = problem.minimise(theta, &weights);
        let moved = before.iter().zip(&theta).any(|(a, b)| (a - b).abs() > 1e-7 * (1.0 + b.abs()));
        if !moved && round > 4 {
            break;
        }
    }
    problem.judge(theta, weights, scale, robust)
}

fn weight(u: f64, round: usize) -> f64 {
    if round < 4 {
        return if u.abs() <= HUBER { 1.0 } else { HUBER / u.abs() };
    }
    let inside = 1.0 - (u / BISQUARE).powi(2);
    if inside > 0.0 { inside * inside } else { 0.0 }
}

/// The standard deviation that the median of the absolute residuals implies.
fn scale_of(residuals: &[f64]) -> f64 {
    let mut absolute: Vec<f64> = residuals.iter().map(|residual| residual.abs()).collect();
    absolute.sort_by(f64::total_cmp);
    (1.4826 * quantile(&absolute, 0.5)).max(MIN_SCALE)
}

struct Problem<'a> {
    samples: &'a [StepSample],
    law: &'a Law<'a>,
    free: [bool; COUNT],
}

/// `JᵀWJ` and `-JᵀWr`, of all coefficients.
struct NormalEquations {
    matrix: Matrix,
    descent: [f64; COUNT],
}

impl Problem<'_> {
    fn residuals(&self, theta: &[f64; COUNT]) -> Vec<f64> {
        let residual = |s: &StepSample| (self.law.evaluate(theta, s).0 / s.duration_ms).ln();
        self.samples.iter().map(residual).collect()
    }

    fn cost(&self, theta: &[f64; COUNT], weights: &[f64]) -> f64 {
        let residuals = self.residuals(theta);
        residuals.iter().zip(weights).map(|(residual, weight)| weight * residual * residual).sum()
    }

    fn normal_equations(&self, theta: &[f64; COUNT], weights: &[f64]) -> NormalEquations {
        let mut normal = NormalEquations { matrix: [[0.0; COUNT]; COUNT], descent: [0.0; COUNT] };
        for (step, weight) in self.samples.iter().zip(weights) {
            let (predicted, slope) = self.law.evaluate(theta, step);
            let residual = (predicted / step.duration_ms).ln();
            let slope = slope.map(|slope| slope / predicted);
            for row in 0..COUNT {
                normal.descent[row] -= weight * slope[row] * residual;
                for column in 0..=row {
                    normal.matrix[row][column] += weight * slope[row] * slope[column];
                }
            }
        }
        for row in 0..COUNT {
            for column in 0..row {
                normal.matrix[column][row] = normal.matrix[row][column];
            }
        }
        normal
    }

    /// Free coefficients that are not pressed against a bound.
    fn active(&self, theta: &[f64; COUNT], normal: &NormalEquations) -> Vec<Coefficient> {
        let is_active = |coefficient: &Coefficient| {
            let index = *coefficient as usize;
            let (low, high) = coefficient.bounds();
            let pressed_low = theta[index] <= low && normal.descent[index] <= 0.0;
            let pressed_high = theta[index] >= high && normal.descent[index] >= 0.0;
            self.free[index] && !pressed_low && !pressed_high
        };
        Coefficient::ALL.into_iter().filter(is_active).collect()
    }

    fn minimise(&self, mut theta: [f64; COUNT], weights: &[f64]) -> [f64; COUNT] {
        let mut damping = 1e-3;
        let mut cost = self.cost(&theta, weights);
        for _ in 0..100 {
            let normal = self.normal_equations(&theta, weights);
            let active = self.active(&theta, &normal);
            let (before, mut improved) = (cost, false);
            while damping < 1e12 {
                let candidate = damped_step(&theta, &normal, &active, damping);
                let candidate_cost = self.cost(&candidate, weights);
                if candidate_cost < cost {
                    (theta, cost, improved) = (candidate, candidate_cost, true);
                    damping = (damping / 5.0).max(1e-12);
                    break;
                }
                damping *= 4.0;
            }
            if !improved || before - cost <= 1e-13 * before {
                break;
            }
        }
        theta
    }

    fn judge(&self, theta: [f64; COUNT], weights: Vec<f64>, scale: f64, robust: bool) -> Solution {
        // Unweighted: an outlier is a wrong duration, not a wrong step.
        let normal = self.normal_equations(&theta, &vec![1.0; weights.len()]);
        let weighted = self.normal_equations(&theta, &weights);
        let active = self.active(&theta, &weighted);
        let picked = pick(&normal.matrix, &active);
        let norms: Vec<f64> = (0..active.len()).map(|index| picked[index][index].sqrt()).collect();
        let mut correlation = picked;
        for row in 0..active.len() {
            for column in 0..active.len() {
                correlation[row][column] /= (norms[row] * norms[column]).max(f64::MIN_POSITIVE);
            }
        }
        let degrees = (self.samples.len() - active.len()) as f64;
        let variance = self.variance(&theta, scale, robust, degrees);
        let covariance = cholesky(&correlation, active.len()).ok().map(|l| {
            let mut covariance = inverse(&l, active.len());
            for row in 0..active.len() {
                for column in 0..active.len() {
                    covariance[row][column] *= variance / (norms[row] * norms[column]);
                }
            }
            covariance
        });
        // Cornish and Fisher's first term; three digits from 10 degrees of freedom on.
        let t = 1.96 + (1.96_f64.powi(3) + 1.96) / (4.0 * degrees);
        Solution { theta, free: self.free, active, weights, correlation, norms, covariance, t }
    }

    /// Of a residual, as Huber's theory has it for the bisquare.
    fn variance(&self, theta: &[f64; COUNT], scale: f64, robust: bool, degrees: f64) -> f64 {
        let residuals = self.residuals(theta);
        if !robust {
            return residuals.iter().map(|residual| residual * residual).sum::<f64>() / degrees;
        }
        let (mut squares, mut slopes) = (0.0, 0.0);
        for residual in &residuals {
            let u = residual / scale;
            let inside = 1.0 - (u / BISQUARE).powi(2);
            if inside > 0.0 {
                squares += (u * inside * inside).powi(2);
                slopes += inside * (1.0 - 5.0 * (u / BISQUARE).powi(2));
            }
        }
        let mean_slope = (slopes / residuals.len() as f64).max(0.1);
        scale * scale * squares / degrees / (mean_slope * mean_slope)
    }
}

/// Rows and columns of the active coefficients, moved to the front.
fn pick(matrix: &Matrix, active: &[Coefficient]) -> Matrix {
    let mut picked = [[0.0; COUNT]; COUNT];
    for (row, a) in active.iter().enumerate() {
        for (column, b) in active.iter().enumerate() {
            picked[row][column] = matrix[*a as usize][*b as usize];
        }
    }
    picked
}

fn damped_step(
    theta: &[f64; COUNT],
    normal: &NormalEquations,
    active: &[Coefficient],
    damping: f64,
) -> [f64; COUNT] {
    let mut matrix = pick(&normal.matrix, active);
    let mut descent = [0.0; COUNT];
    for (index, coefficient) in active.iter().enumerate() {
        // The second term moves what has no effect at all: nowhere, instead of everywhere.
        matrix[index][index] = matrix[index][index] * (1.0 + damping) + 1e-30;
        descent[index] = normal.descent[*coefficient as usize];
    }
    let mut moved = *theta;
    if let Ok(l) = cholesky(&matrix, active.len()) {
        let step = solve_triangular(&l, &descent, active.len());
        for (index, coefficient) in active.iter().enumerate() {
            let (low, high) = coefficient.bounds();
            let value = &mut moved[*coefficient as usize];
            *value = (*value + step[index]).clamp(low, high);
        }
    }
    moved
}

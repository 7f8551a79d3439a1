//! Levenberg-Marquardt with the simulator as the model.
//!
//! Latencies jump when a request misses a step, so derivatives are central differences over a step of
//! some percent, and what they scatter is taken off the normal equations: noise in a slope looks like
//! knowledge. Confidence intervals are sandwich estimates clustered by instance and time: requests of
//! one burst err together, and counting them one by one would promise too much.

use std::collections::BTreeMap;

use lodestar_sim::catalog::{GpuProfile, MeasuredEngine};
use lodestar_sim::step_time::HingeCoefficients;

use super::linear::Symmetric;
use super::objective::{
    CalibrationError, LogToFit, MIN_REQUESTS, Objective, Point, Simulated, UNKNOWNS, Unknown,
    residuals,
};
use super::report::{Estimate, FittedLog, Held, RequestFit};
use super::simplex;
use crate::quantile::quantile;

/// Of the difference quotients, as a share of the value.
const STEP: f64 = 0.25;
const ITERATIONS: usize = 20;
const ROUGH_ITERATIONS: usize = 4;
/// A floor whose median error is this much larger than the lowest one's is not another explanation.
const RIVAL_ERROR_RATIO: f64 = 1.5;
/// Coefficients that hardly differ in a queue.
const CONFUSED: [[&str; 2]; 2] =
    [["b_us_per_token", "c_ns_per_pair"], ["d_us_per_decode_request", "e_ns_per_context_token"]];
/// Where the descent begins, times the two coefficients.
const START_FACTORS: [[f64; 2]; 7] =
    [[1.0, 1.0], [0.7, 1.0], [0.7, 1.5], [1.0, 1.5], [1.5, 1.0], [1.5, 0.6], [0.3, 2.0]];
/// Rounds of fitting and of finding the rows that the fit contradicts.
const CORRECTIONS: usize = 4;
/// A coefficient that bends the law must gain at least this share.
const SHAPE_GAIN_MIN: f64 = 0.01;
/// A fit has converged when an iteration gains less than this share.
const GAIN_MIN: f64 = 3e-4;
/// Simplexes, one after the other, each around what the one before found: the distance of their first
/// neighbours, as a share of the values.
const SIMPLEX_SIZES: [f64; 2] = [0.15, -0.15];
/// A simplex that has shrunk to this share of its size has settled.
const SIMPLEX_TOLERANCE: f64 = 0.01;
const SIMPLEX_MOVES: usize = 150;
/// Standard errors above this share of the value leave it undetermined.
const RELATIVE_ERROR_MAX: f64 = 0.35;
/// Errors within this time on one instance count as one.
const CLUSTER_NS: u64 = 20_000_000_000;

/// Fits the law of `model` on the GPU of `profile` to logs, starting from the one it has.
///
/// # Errors
/// When a log cannot be replayed or nothing can be told from it.
pub fn calibrate_requests(
    logs: &[LogToFit],
    profile: &GpuProfile,
    model: &str,
    settings: MeasuredEngine,
) -> Result<RequestFit, CalibrationError> {
    let rows = logs.iter().map(|log| log.log.requests.len()).sum();
    if rows < MIN_REQUESTS {
        return Err(CalibrationError::TooFewRequests { rows });
    }
    let objective = Objective::new(logs, profile, model, settings);
    let start = Point { law: objective.start()?, overhead_ms: vec![0.0; logs.len()] };
    let mut free: Vec<&Unknown> = UNKNOWNS.iter().filter(|unknown| !unknown.is_shape).collect();
    let first = State::at(&objective, with_overhead(&objective, start.clone())?)?;
    // What a log says of caches cannot be checked before the law is about right, and a law fitted to
    // corrected rows explains them: so each round starts from what the log says.
    let floors = floors(&objective, &free, &first)?;
    let mut state = floors[0].clone();
    let mut corrected = logs.to_vec();
    for _ in 0..CORRECTIONS {
        let told = objective.with_logs(&corrected);
        state = State::at(&told, state.point)?;
        state = settle(&told, &free, descend(&told, &free, state, ITERATIONS)?)?;
        let rows =
            |logs: &[LogToFit]| logs.iter().map(|log| log.corrected_rows).collect::<Vec<_>>();
        let before = rows(&corrected);
        corrected = objective.corrected(&state.point)?;
        if rows(&corrected) == before {
            break;
        }
    }
    let objective = objective.with_logs(&corrected);
    state = State::at(&objective, state.point)?;
    loop {
        state = descend(&objective, &free, state, ITERATIONS)?;
        state = settle(&objective, &free, state)?;
        let slopes = Slopes::at(&objective, &free, &state)?;
        let Some(index) = slopes.least_determined(&free, &state) else { break };
        if free.len() == 1 {
            return Err(CalibrationError::NothingDetermined);
        }
        let held = free.remove(index);
        let mut point = state.point.clone();
        (held.set)(&mut point.law, (held.get)(&start.law));
        state = State::at(&objective, point)?;
    }
    for shape in UNKNOWNS.iter().filter(|unknown| unknown.is_shape) {
        let wider: Vec<&Unknown> = free.iter().copied().chain([shape]).collect();
        let bent = descend(&objective, &wider, state.clone(), ITERATIONS)?;
        let is_better = cost(&bent.residuals, state.huber) < (1.0 - SHAPE_GAIN_MIN) * state.cost;
        let slopes = Slopes::at(&objective, &wider, &bent)?;
        if is_better && slopes.least_determined(&wider, &bent).is_none() {
            (free, state) = (wider, bent);
        }
    }
    let slopes = Slopes::at(&objective, &free, &state)?;
    let rivals: Vec<_> = floors.iter().map(|floor| floor.point.law).collect();
    report(&objective, &first, &state, &free, &slopes, &rivals)
}

/// A point and what the simulator says there.
#[derive(Clone)]
struct State {
    point: Point,
    simulated: Vec<Simulated>,
    residuals: Vec<f64>,
    /// Residuals up to here count in full.
    huber: f64,
    cost: f64,
}

impl State {
    fn at(objective: &Objective<'_>, point: Point) -> Result<Self, CalibrationError> {
        let simulated = objective.simulate(&[point.law])?.remove(0);
        let residuals = residuals(&simulated, &point.overhead_ms);
        let huber = huber_limit(&residuals);
        let cost = cost(&residuals, huber);
        Ok(Self { point, simulated, residuals, huber, cost })
    }

    fn weights(&self) -> Vec<f64> {
        let weight = |residual: &f64| (self.huber / residual.abs().max(1e-12)).min(1.0);
        self.residuals.iter().map(weight).collect()
    }
}

/// 1.345 standard deviations if errors were normal, from their median.
fn huber_limit(residuals: &[f64]) -> f64 {
    (1.345 * 1.4826 * median_abs(residuals)).max(1e-4)
}

fn median_abs(values: &[f64]) -> f64 {
    let mut sizes: Vec<f64> = values.iter().map(|value| value.abs()).collect();
    sizes.sort_by(f64::total_cmp);
    quantile(&sizes, 0.5)
}

fn cost(residuals: &[f64], huber: f64) -> f64 {
    let one = |residual: &f64| {
        let size = residual.abs();
        if size <= huber { size * size / 2.0 } else { huber * (size - huber / 2.0) }
    };
    residuals.iter().map(one).sum()
}

/// A start for the overheads: the lower quartile of what is missing in TTFT.
fn with_overhead(objective: &Objective<'_>, mut point: Point) -> Result<Point, CalibrationError> {
    let simulated = objective.simulate(&[point.law])?.remove(0);
    for (overhead, pairs) in point.overhead_ms.iter_mut().zip(&simulated) {
        let mut missing: Vec<f64> =
            pairs.iter().map(|pair| pair.ttft_ms.0 - pair.ttft_ms.1).collect();
        missing.sort_by(f64::total_cmp);
        *overhead = quantile(&missing, 0.25).max(1.0);
    }
    Ok(point)
}

/// Requests that delay each other dig false valleys: a slow prompt that costs too much by the token and one
/// that costs too much by the pair hardly differ in a queue, and neither do many requests in decode and long
/// ones. So the descent begins at several places for each of these pairs. Where it ends, the best first, by the
/// median error; those that are much worse than the best are left out.
fn floors(
    objective: &Objective<'_>,
    free: &[&Unknown],
    first: &State,
) -> Result<Vec<State>, CalibrationError> {
    let mut floors = vec![first.clone()];
    for names in CONFUSED {
        let from = floors[0].point.clone();
        for factors in START_FACTORS {
            let mut point = from.clone();
            for (name, factor) in names.into_iter().zip(factors) {
                let unknown = UNKNOWNS.iter().find(|unknown| unknown.name == name);
                let unknown = unknown.expect("confused coefficients are unknowns");
                let value = factor * (unknown.get)(&point.law);
                (unknown.set)(&mut point.law, value);
            }
            let state = State::at(objective, with_overhead(objective, point)?)?;
            let state = descend(objective, free, state, ROUGH_ITERATIONS)?;
            floors.push(state);
        }
        floors.sort_by(|a, b| median_abs(&a.residuals).total_cmp(&median_abs(&b.residuals)));
    }
    let limit = RIVAL_ERROR_RATIO * median_abs(&floors[0].residuals);
    floors.retain(|state| median_abs(&state.residuals) <= limit);
    Ok(floors)
}

fn descend(
    objective: &Objective<'_>,
    free: &[&Unknown],
    mut state: State,
    iterations: usize,
) -> Result<State, CalibrationError> {
    let mut damping = 0.03;
    for _ in 0..iterations {
        let slopes = Slopes::at(objective, free, &state)?;
        let mut gained = 0.0;
        for _ in 0..5 {
            let Some(step) = slopes.step(damping) else {
                damping *= 10.0;
                continue;
            };
            let next = State::at(objective, moved(&state.point, free, &step))?;
            // Compared by the same yardstick.
            let cost = cost(&next.residuals, state.huber);
            if cost < state.cost {
                gained = 1.0 - cost / state.cost;
                state = next;
                damping = (damping / 3.0_f64).max(1e-4);
                break;
            }
            damping *= 5.0;
        }
        if gained < GAIN_MIN {
            break;
        }
    }
    Ok(state)
}

/// Goes on where slopes lead no further.
fn settle(
    objective: &Objective<'_>,
    free: &[&Unknown],
    mut state: State,
) -> Result<State, CalibrationError> {
    for size in SIMPLEX_SIZES {
        let values = free.iter().map(|unknown| (unknown.get)(&state.point.law));
        let coordinates: Vec<f64> = values.chain(state.point.overhead_ms.iter().copied()).collect();
        let floors = free.iter().map(|unknown| unknown.floor).chain(std::iter::repeat(5.0));
        let sizes: Vec<f64> =
            coordinates.iter().zip(floors).map(|(value, floor)| size * value.max(floor)).collect();
        let point_at = |position: &[f64]| {
            let step: Vec<f64> =
                position.iter().zip(&coordinates).map(|(to, at)| to - at).collect();
            moved(&state.point, free, &step)
        };
        let best =
            simplex::descend(&coordinates, &sizes, SIMPLEX_TOLERANCE, SIMPLEX_MOVES, |position| {
                let next = State::at(objective, point_at(position))?;
                Ok::<_, CalibrationError>(cost(&next.residuals, state.huber))
            })?;
        let next = State::at(objective, point_at(&best))?;
        if cost(&next.residuals, state.huber) < state.cost {
            state = next;
        }
    }
    Ok(state)
}

fn moved(point: &Point, free: &[&Unknown], step: &[f64]) -> Point {
    let mut point = point.clone();
    for (unknown, step) in free.iter().zip(step) {
        let value = (unknown.get)(&point.law) + step;
        (unknown.set)(&mut point.law, value.clamp(unknown.low, unknown.high));
    }
    for (overhead, step) in point.overhead_ms.iter_mut().zip(&step[free.len()..]) {
        *overhead = (*overhead + step).max(0.0);
    }
    point
}

/// How the residuals change with each unknown, coefficients first, then overheads.
struct Slopes {
    /// A row a residual.
    rows: Vec<Vec<f64>>,
    weights: Vec<f64>,
    /// Of the rows, without what the noise of difference quotients adds: what is really known.
    known: Symmetric,
    gradient: Vec<f64>,
}

impl Slopes {
    fn at(
        objective: &Objective<'_>,
        free: &[&Unknown],
        state: &State,
    ) -> Result<Self, CalibrationError> {
        let law = state.point.law;
        let mut laws = Vec::new();
        let mut widths = Vec::new();
        for unknown in free {
            let value = (unknown.get)(&law);
            let half = STEP * value.max(unknown.floor);
            let ends = [(value - half).max(unknown.low), value + half];
            laws.extend(ends.map(|end| {
                let mut law = law;
                (unknown.set)(&mut law, end);
                law
            }));
            widths.push(ends[1] - ends[0]);
        }
        let simulated = objective.simulate(&laws)?;
        let around: Vec<Vec<f64>> =
            simulated.iter().map(|logs| residuals(logs, &state.point.overhead_ms)).collect();
        let unknowns = free.len() + objective.logs.len();
        let weights = state.weights();
        let mut rows = vec![vec![0.0; unknowns]; state.residuals.len()];
        let mut noise = vec![0.0; unknowns];
        for (column, width) in widths.iter().enumerate() {
            let (below, above) = (&around[2 * column], &around[2 * column + 1]);
            for (index, row) in rows.iter_mut().enumerate() {
                row[column] = (above[index] - below[index]) / width;
                // If three points scatter by themselves, the second difference has three times the
                // variance of the first, and hardly anything else.
                let bend = (above[index] - 2.0 * state.residuals[index] + below[index]) / width;
                noise[column] += weights[index] * bend * bend / 3.0;
            }
        }
        let mut at = rows.iter_mut();
        for (log, pairs) in state.simulated.iter().enumerate() {
            let overhead = state.point.overhead_ms[log];
            for latency in pairs.iter().flat_map(|pair| [pair.ttft_ms.1, pair.e2e_ms.1]) {
                let row = at.next().expect("a row a residual");
                row[free.len() + log] = 1.0 / (latency + overhead);
            }
        }
        Ok(Self::of(rows, weights, &noise, state))
    }

    fn of(rows: Vec<Vec<f64>>, weights: Vec<f64>, noise: &[f64], state: &State) -> Self {
        let unknowns = rows.first().map_or(0, Vec::len);
        let mut normal = Symmetric::zero(unknowns);
        let mut gradient = vec![0.0; unknowns];
        for ((row, weight), residual) in rows.iter().zip(&weights).zip(&state.residuals) {
            normal.add_outer(row, *weight);
            for (sum, slope) in gradient.iter_mut().zip(row) {
                *sum -= weight * slope * residual;
            }
        }
        Self { rows, weights, known: normal.without_noise(noise), gradient }
    }

    fn step(&self, damping: f64) -> Option<Vec<f64>> {
        Some(self.known.damped(damping).inverse()?.times(&self.gradient))
    }

    /// Standard errors of all unknowns, if all are determined.
    fn standard_errors(&self, state: &State) -> Option<Vec<f64>> {
        let inverse = self.known.inverse()?;
        let unknowns = self.gradient.len();
        let mut clusters: BTreeMap<(usize, usize, u64), Vec<f64>> = BTreeMap::new();
        let pairs = state.simulated.iter().enumerate();
        let keys = pairs.flat_map(|(log, pairs)| {
            pairs
                .iter()
                .flat_map(move |pair| [(log, pair.instance, pair.arrival_ns / CLUSTER_NS); 2])
        });
        let terms = self.rows.iter().zip(&self.weights).zip(&state.residuals);
        for (key, ((row, weight), residual)) in keys.zip(terms) {
            let score = clusters.entry(key).or_insert_with(|| vec![0.0; unknowns]);
            for (sum, slope) in score.iter_mut().zip(row) {
                *sum += weight * slope * residual;
            }
        }
        let count = clusters.len() as f64;
        let mut spread = Symmetric::zero(unknowns);
        for score in clusters.values() {
            spread.add_outer(&inverse.times(score), count / (count - 1.0).max(1.0));
        }
        Some((0..unknowns).map(|index| spread.get(index, index).sqrt()).collect())
    }

    /// The free coefficient that the logs tell least about, if they tell too little.
    fn least_determined(&self, free: &[&Unknown], state: &State) -> Option<usize> {
        let errors = self.standard_errors(state);
        let badness = |(index, unknown): (usize, &&Unknown)| {
            let value = (unknown.get)(&state.point.law).max(unknown.floor);
            let share = match &errors {
                Some(errors) => errors[index] / value,
                // Something is not determined at all: most likely what changes least.
                None => 1e9 / (1e-30 + self.known.get(index, index).sqrt() * value),
            };
            (index, share)
        };
        let (index, share) =
            free.iter().enumerate().map(badness).max_by(|a, b| a.1.total_cmp(&b.1))?;
        (share > RELATIVE_ERROR_MAX).then_some(index)
    }
}

fn report(
    objective: &Objective<'_>,
    first: &State,
    last: &State,
    free: &[&Unknown],
    slopes: &Slopes,
    rivals: &[HingeCoefficients],
) -> Result<RequestFit, CalibrationError> {
    let errors = slopes.standard_errors(last).ok_or(CalibrationError::NothingDetermined)?;
    let interval = |value: f64, error: f64| ((value - 1.96 * error).max(0.0), value + 1.96 * error);
    let law = last.point.law;
    let estimates = UNKNOWNS.iter().map(|unknown| {
        let value = (unknown.get)(&law);
        let at = free.iter().position(|free| free.name == unknown.name);
        let interval = at.map_or(Err(Held::NotDetermined), |at| {
            // What explains the logs about as well is not excluded by them.
            let explained = rivals.iter().map(unknown.get);
            Ok(explained.fold(interval(value, errors[at]), |(low, high), value| {
                (low.min(value), high.max(value))
            }))
        });
        Estimate { name: unknown.name, value, interval }
    });
    let overheads = last.point.overhead_ms.iter().zip(&errors[free.len()..]);
    let logs = objective.logs.iter().zip(overheads).map(|(log, (value, error))| {
        Ok(FittedLog {
            name: log.name.clone(),
            overhead: Estimate {
                name: "overhead_ms",
                value: *value,
                interval: Ok(interval(*value, *error)),
            },
            corrected_rows: log.corrected_rows,
            validation: objective.replay(&law, log, *value)?,
        })
    });
    Ok(RequestFit {
        law,
        estimates: estimates.collect(),
        logs: logs.collect::<Result<_, CalibrationError>>()?,
        median_error: (median_abs(&first.residuals), median_abs(&last.residuals)),
    })
}

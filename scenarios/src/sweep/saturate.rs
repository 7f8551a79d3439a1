//! How many requests per second a fleet keeps up with: the knee.
//!
//! Below it a queue that builds up goes away again and TTFT depends little on the rate; above it the queue
//! grows as long as requests arrive. The knee is here the highest rate at which the P99 of TTFT under the
//! baseline policy stays below [`MAX_SLOWDOWN`] times what it is on an idle fleet.

use crate::quantile::quantile;
use crate::scenario::{Cell, Contender, Scenario, ScenarioError};

/// P99 of TTFT at the knee over that of an idle fleet.
const MAX_SLOWDOWN: f64 = 4.0;

/// A rate at which hardly two requests meet, per second.
const IDLE_RPS: f64 = 0.01;

/// The knee is found to this fraction.
const TOLERANCE: f64 = 0.02;

/// A trace should be so many times as long as one with which a knee is barely noticed.
const ENOUGH: f64 = 10.0;

/// The range that is searched, requests per second.
const RANGE_RPS: (f64, f64) = (0.05, 100_000.0);

/// Of the requests and of the runs.
const SEED: u64 = 1;

/// What a fleet keeps up with.
#[derive(Clone, Debug, PartialEq)]
pub struct Knee {
    /// The instances, such as `a100:4,l4:2`.
    pub fleet: String,
    /// The workload's name.
    pub workload: String,
    /// Requests per second.
    pub knee_rps: f64,
    /// P99 of TTFT on an idle fleet, ms.
    pub idle_p99_ms: f64,
    /// P99 of TTFT at the knee, ms.
    pub knee_p99_ms: f64,
}

/// Why there is no knee.
#[derive(Debug, thiserror::Error)]
pub enum SaturateError {
    /// The requests cannot be made or the baseline is not known.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The fleet cannot be built.
    #[error(transparent)]
    Fleet(#[from] crate::FleetError),
    /// A run that does not end.
    #[error("{cell} at {rate_rps} requests per second does not end")]
    Stuck {
        /// The cell.
        cell: String,
        /// The rate.
        rate_rps: f64,
        /// What the watchdog saw.
        source: lodestar_sim::Stuck,
    },
    /// No request got a token.
    #[error("{0}: no request is served, so there is no TTFT to look at")]
    NothingServed(String),
    /// The knee is below what is searched.
    #[error("{0}: the fleet does not even keep up with {low} requests per second: give it more instances", low = RANGE_RPS.0)]
    TooSlow(String),
    /// There are too few requests for a queue that would be noticed.
    #[error(
        "{cell}: its {requests} requests are too few for a knee: all at once they have a P99 of TTFT of {slowdown:.1} times \
         that of an idle fleet, and the knee is at {MAX_SLOWDOWN} times; give it about {enough}"
    )]
    TooShort {
        /// The cell.
        cell: String,
        /// How many it has.
        requests: usize,
        /// P99 of TTFT of all at once over that of an idle fleet.
        slowdown: f64,
        /// How many it should have.
        enough: usize,
    },
}

/// The knee of a cell's fleet and workload, whatever the cell's rate, under the scenario's baseline.
///
/// # Errors
/// When the requests or the fleet cannot be made, or there is no knee.
pub fn saturate(scenario: &Scenario, cell: &Cell) -> Result<Knee, SaturateError> {
    let baseline = std::slice::from_ref(&scenario.baseline);
    let contender = &crate::scenario::contenders(baseline, &scenario.contenders)?[0];
    let p99 = |rate_rps| p99_ms(scenario, cell, contender, rate_rps);
    let idle_p99_ms = p99(IDLE_RPS)?;
    let keeps_up = |p99_ms: f64| p99_ms <= MAX_SLOWDOWN * idle_p99_ms;

    let (mut low, highest) = RANGE_RPS;
    let mut knee_p99_ms = p99(low)?;
    if !keeps_up(knee_p99_ms) {
        return Err(SaturateError::TooSlow(cell.id.clone()));
    }
    let mut high = 2.0 * low;
    loop {
        let found = p99(high)?;
        if !keeps_up(found) {
            break;
        }
        (low, knee_p99_ms) = (high, found);
        high *= 2.0;
        if high > highest {
            return Err(too_short(cell, knee_p99_ms / idle_p99_ms)?);
        }
    }
    while high / low > 1.0 + TOLERANCE {
        let middle = (low * high).sqrt();
        let found = p99(middle)?;
        if keeps_up(found) {
            (low, knee_p99_ms) = (middle, found);
        } else {
            high = middle;
        }
    }
    Ok(Knee {
        fleet: cell.fleet.to_string(),
        workload: cell.content.name.clone(),
        // To three digits: more would pretend.
        knee_rps: format!("{low:.2e}").parse().expect("a number was just written"),
        idle_p99_ms,
        knee_p99_ms,
    })
}

/// A queue is as long as there are requests in it, so that with as many as this they would wait [`ENOUGH`] times as long as
/// at the knee.
fn too_short(cell: &Cell, slowdown: f64) -> Result<SaturateError, ScenarioError> {
    let requests = cell.content.requests(Some(RANGE_RPS.1), SEED)?.len();
    let enough = requests as f64 * ENOUGH * MAX_SLOWDOWN / slowdown;
    // A digit is enough of an estimate.
    let digit = 10_f64.powf(enough.log10().floor());
    let enough = ((enough / digit).ceil() * digit) as usize;
    Ok(SaturateError::TooShort { cell: cell.id.clone(), requests, slowdown, enough })
}

fn p99_ms(
    scenario: &Scenario,
    cell: &Cell,
    contender: &Contender,
    rate_rps: f64,
) -> Result<f64, SaturateError> {
    let cluster = scenario.cluster(cell)?;
    let requests = cell.content.requests(Some(rate_rps), SEED)?;
    let output = contender
        .runner
        .run(&cluster, &requests, scenario.information, SEED)
        .map_err(|source| SaturateError::Stuck { cell: cell.id.clone(), rate_rps, source })?;
    let ttft = output.requests.iter().filter_map(lodestar_sim::RequestRecord::ttft);
    let mut ttft_ms: Vec<f64> = ttft.map(|ttft| ttft.as_nanos() as f64 / 1e6).collect();
    if ttft_ms.is_empty() {
        return Err(SaturateError::NothingServed(cell.id.clone()));
    }
    ttft_ms.sort_by(f64::total_cmp);
    Ok(quantile(&ttft_ms, 0.99))
}

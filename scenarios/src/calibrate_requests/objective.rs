//! What is minimised: logarithms of simulated over measured latencies, as a function of the coefficients.

use lodestar_sim::catalog::{CatalogError, GpuProfile, MeasuredEngine};
use lodestar_sim::step_time::HingeCoefficients;
use rayon::prelude::*;

use crate::validate::{
    LogFleet, MeasuredLog, Overhead, Pair, Prompts, Validation, ValidationError,
    correct_impossible, prompts_of, validate,
};

/// A log to fit to.
#[derive(Clone, Debug)]
pub struct LogToFit {
    /// What it is called in a report.
    pub name: String,
    /// The requests.
    pub log: MeasuredLog,
    /// What they asked.
    pub prompts: Prompts,
    /// Rows whose cached tokens were raised.
    pub(super) corrected_rows: usize,
}

impl LogToFit {
    /// A log with the prompts that [`prompts_of`] finds.
    pub fn new(name: String, log: MeasuredLog) -> Self {
        let prompts = prompts_of(&log);
        Self { name, log, prompts, corrected_rows: 0 }
    }
}

/// Why coefficients cannot be fitted.
#[derive(Debug, thiserror::Error)]
pub enum CalibrationError {
    /// The profile to start from does not have the model, or it does not fit.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// A log that the simulator cannot replay.
    #[error("cannot replay {log}")]
    Replay {
        /// The log.
        log: String,
        /// Why.
        source: ValidationError,
    },
    /// Nothing can be told from the logs.
    #[error(
        "the logs determine no coefficient at all: give logs with prompts of different lengths and with \
         more load"
    )]
    NothingDetermined,
    /// Less than a fit can be trusted with.
    #[error(
        "the logs have {rows} requests and {MIN_REQUESTS} are needed to fit, several hundred are good; log a longer \
         stretch of traffic"
    )]
    TooFewRequests {
        /// How many there are.
        rows: usize,
    },
}

/// Requests below which no fit is tried, in all logs.
pub(super) const MIN_REQUESTS: usize = 100;

/// An unknown of the law.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unknown {
    pub(super) name: &'static str,
    /// A change that is small but seen, where the value itself is near zero.
    pub(super) floor: f64,
    /// Whether it bends the law rather than raising it: weakly seen in latencies, and fitted only after
    /// the others, if that helps.
    pub(super) is_shape: bool,
    pub(super) low: f64,
    pub(super) high: f64,
    pub(super) get: fn(&HingeCoefficients) -> f64,
    pub(super) set: fn(&mut HingeCoefficients, f64),
}

macro_rules! unknown {
    ($field:ident, $floor:expr, $is_shape:expr, $low:expr, $high:expr) => {
        Unknown {
            name: stringify!($field),
            floor: $floor,
            is_shape: $is_shape,
            low: $low,
            high: $high,
            get: |law| law.$field,
            set: |law, value| law.$field = value,
        }
    };
}

/// `t0_ms` is not among them: it and `host_ms` are one number to a log.
pub(super) const UNKNOWNS: [Unknown; 8] = [
    unknown!(host_ms, 10.0, true, 0.0, 1e3),
    unknown!(w_ms, 5.0, false, 0.1, 1e4),
    unknown!(b_us_per_token, 5.0, false, 0.0, 1e5),
    unknown!(c_ns_per_pair, 3.0, false, 0.0, 1e4),
    unknown!(d_us_per_decode_request, 100.0, false, 0.0, 1e5),
    unknown!(e_ns_per_context_token, 50.0, false, 0.0, 1e5),
    unknown!(p, 3.0, true, 1.0, 20.0),
    unknown!(mixed_factor, 2.0, true, 0.2, 20.0),
];

/// The logs with everything that does not change during a fit.
pub(super) struct Objective<'a> {
    pub(super) logs: &'a [LogToFit],
    profile: &'a GpuProfile,
    model: &'a str,
    settings: MeasuredEngine,
}

/// A point of the search: coefficients, and for each log the time outside its engines, ms.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) law: HingeCoefficients,
    pub(super) overhead_ms: Vec<f64>,
}

/// One log simulated without overhead.
pub(super) type Simulated = Vec<Pair>;

impl<'a> Objective<'a> {
    pub(super) fn new(
        logs: &'a [LogToFit],
        profile: &'a GpuProfile,
        model: &'a str,
        settings: MeasuredEngine,
    ) -> Self {
        Self { logs, profile, model, settings }
    }

    /// The same question of other logs.
    pub(super) fn with_logs<'b>(&self, logs: &'b [LogToFit]) -> Objective<'b>
    where
        'a: 'b,
    {
        Objective { logs, profile: self.profile, model: self.model, settings: self.settings }
    }

    /// The law to start from.
    pub(super) fn start(&self) -> Result<HingeCoefficients, CatalogError> {
        Ok(self.profile.on(self.model)?.step_time)
    }

    /// Every log under several laws, in parallel; the order is that of the laws, then of the logs.
    pub(super) fn simulate(
        &self,
        laws: &[HingeCoefficients],
    ) -> Result<Vec<Vec<Simulated>>, CalibrationError> {
        let jobs: Vec<_> =
            laws.iter().flat_map(|law| self.logs.iter().map(move |log| (law, log))).collect();
        // Every replay ends before an error is looked at: of two errors it is always the same one.
        let done: Vec<Result<Simulated, CalibrationError>> =
            jobs.par_iter().map(|(law, log)| Ok(self.replay(law, log, 0.0)?.pairs)).collect();
        let done = done.into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(done.chunks(self.logs.len()).map(<[_]>::to_vec).collect())
    }

    /// The logs without claims about caches that their own times contradict.
    pub(super) fn corrected(&self, point: &Point) -> Result<Vec<LogToFit>, CatalogError> {
        let correct = |(log, overhead): (&LogToFit, &f64)| {
            let fleet = self.fleet(&point.law, log)?;
            let (corrected, changed) = correct_impossible(&log.log, &fleet, *overhead);
            Ok(if changed.is_empty() {
                log.clone()
            } else {
                let corrected_rows = changed.len();
                LogToFit { corrected_rows, ..LogToFit::new(log.name.clone(), corrected) }
            })
        };
        self.logs.iter().zip(&point.overhead_ms).map(correct).collect()
    }

    fn fleet(&self, law: &HingeCoefficients, log: &LogToFit) -> Result<LogFleet, CatalogError> {
        let mut profile = self.profile.clone();
        for on_gpu in profile.models.iter_mut().filter(|on_gpu| on_gpu.model == self.model) {
            on_gpu.step_time = *law;
            // A table would stand in the place of what is fitted.
            on_gpu.linear_ms_by_tokens.clear();
        }
        LogFleet::of_profile(&log.log, &profile, self.model, self.settings)
    }

    pub(super) fn replay(
        &self,
        law: &HingeCoefficients,
        log: &LogToFit,
        overhead_ms: f64,
    ) -> Result<Validation, CalibrationError> {
        let fleet = self.fleet(law, log)?;
        validate(&log.log, &log.prompts, &fleet, Overhead::Given(overhead_ms))
            .map_err(|source| CalibrationError::Replay { log: log.name.clone(), source })
    }
}

/// `ln(simulated / measured)` of TTFT and E2E of each request, in the order of the logs.
pub(super) fn residuals(simulated: &[Simulated], overhead_ms: &[f64]) -> Vec<f64> {
    let mut residuals = Vec::new();
    for (pairs, overhead) in simulated.iter().zip(overhead_ms) {
        for pair in pairs {
            residuals.push(((pair.ttft_ms.1 + overhead) / pair.ttft_ms.0).ln());
            residuals.push(((pair.e2e_ms.1 + overhead) / pair.e2e_ms.0).ln());
        }
    }
    residuals
}

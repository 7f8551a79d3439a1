//! The requests of a cell, made anew for each seed.

use std::path::PathBuf;

use lodestar_traces::{
    Arrival, ReadOptions, Source, TraceRequest, WorkloadConfig, generate, read_all,
};

use super::error::ScenarioError;

/// Where the requests of a workload come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Content {
    /// The workload's name.
    pub name: String,
    /// How they are made.
    pub origin: Origin,
    /// Every answer exactly so long, instead of as the workload has it.
    pub output_tokens: Option<u32>,
}

/// Invented or recorded.
#[derive(Clone, Debug, PartialEq)]
pub enum Origin {
    /// Invented.
    Generated(Box<WorkloadConfig>),
    /// Read from a file: the first so many requests of it, if not all.
    Trace(PathBuf, Option<u32>),
}

impl Content {
    /// The requests at a mean rate. The same seed gives the same requests at every rate, closer together or
    /// further apart; of a recorded trace, the same ones for every seed.
    pub fn requests(
        &self,
        rate_rps: Option<f64>,
        seed: u64,
    ) -> Result<Vec<TraceRequest>, ScenarioError> {
        let mut requests = match &self.origin {
            Origin::Generated(config) => {
                let mut config = WorkloadConfig::clone(config);
                if let Some(rate_rps) = rate_rps {
                    config.arrivals = config.arrivals.with_rate_rps(rate_rps);
                }
                generate(&config, seed).map_err(|error| self.complaint(error.to_string()))?
            }
            Origin::Trace(path, limit) => self.read(path, *limit, rate_rps)?,
        };
        if let Some(tokens) = self.output_tokens {
            self.fix_outputs(&mut requests, tokens)?;
        }
        Ok(requests)
    }

    fn read(
        &self,
        path: &std::path::Path,
        limit: Option<u32>,
        rate_rps: Option<f64>,
    ) -> Result<Vec<TraceRequest>, ScenarioError> {
        let read = |rate_scale| {
            let options =
                ReadOptions { limit: limit.map(u64::from), rate_scale, ..ReadOptions::default() };
            read_all(path, &options)
                .map_err(|source| ScenarioError::Trace { workload: self.name.clone(), source })
        };
        let recorded = read(ReadOptions::default().rate_scale)?.requests;
        let Some(rate_rps) = rate_rps else { return Ok(recorded) };
        let recorded_rps = mean_rate_rps(&recorded).ok_or_else(|| {
            self.complaint("its requests have no span of time: leave `rates_rps` out".to_owned())
        })?;
        Ok(read(rate_rps / recorded_rps)?.requests)
    }

    fn fix_outputs(&self, requests: &mut [TraceRequest], tokens: u32) -> Result<(), ScenarioError> {
        for request in requests {
            if request.prompt.iter().any(|span| matches!(span.source, Source::Output(_))) {
                return Err(self.complaint(
                    "its prompts quote answers, whose length cannot change: leave `output_tokens` out"
                        .to_owned(),
                ));
            }
            request.output_tokens = tokens;
        }
        Ok(())
    }

    fn complaint(&self, complaint: String) -> ScenarioError {
        ScenarioError::Content { workload: self.name.clone(), complaint }
    }
}

/// Requests per second from the first to the last recorded time.
fn mean_rate_rps(requests: &[TraceRequest]) -> Option<f64> {
    let times = requests.iter().filter_map(|request| match request.arrival {
        Arrival::At { ns } => Some(ns),
        Arrival::After { .. } => None,
    });
    let (first, last) =
        times.fold((u64::MAX, 0), |(first, last), ns| (first.min(ns), last.max(ns)));
    (last > first).then(|| requests.len() as f64 / ((last - first) as f64 / 1e9))
}

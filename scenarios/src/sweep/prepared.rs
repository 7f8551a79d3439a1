//! One run of a sweep, and what the runs that see the same requests have in common.

use std::panic::{self, AssertUnwindSafe};

use lodestar_router::Information;
use lodestar_sim::ClusterConfig;
use lodestar_traces::TraceRequest;

use super::item::ItemOutcome;
use super::marks::{Mark, marks};
use super::measure::Measured;
use crate::digest::trace_sha256;
use crate::scenario::{Cell, Contender, Scenario};
use crate::tables::RunTables;

/// What all runs of a cell and seed have in common.
pub(super) struct Prepared {
    information: Information,
    cluster: ClusterConfig,
    requests: Vec<TraceRequest>,
    trace_sha256: String,
    marks: Vec<Mark>,
}

impl Prepared {
    /// The requests are made here. Who cannot be prepared costs the runs of one cell and seed.
    pub(super) fn of(scenario: &Scenario, cell: &Cell, seed: u64) -> Result<Self, String> {
        guarded(|| {
            let cluster = scenario.cluster(cell).map_err(|error| error.to_string())?;
            let requests = cell.content.requests(cell.rate_rps, seed).map_err(|e| chain(&e))?;
            let trace_sha256 = trace_sha256(&requests);
            let marks = marks(&cluster, cell, &requests);
            let information = scenario.information;
            Ok(Self { information, cluster, requests, trace_sha256, marks })
        })
    }

    /// A run that cannot end and a run that breaks an assertion both cost themselves only.
    pub(super) fn run(&self, contender: &Contender, seed: u64) -> ItemOutcome {
        let measured = guarded(|| {
            #[cfg(test)]
            assert_ne!(contender.label, super::tests::PANICS, "injected");
            let run = contender.runner.run(&self.cluster, &self.requests, self.information, seed);
            let output = run.map_err(|stuck| chain(&stuck))?;
            let tables = RunTables::new(&contender.label, &self.cluster, &output);
            Ok(Box::new(Measured::of(&tables, &self.trace_sha256, &self.marks)))
        });
        match measured {
            Ok(measured) => ItemOutcome::Done(measured),
            Err(problem) => ItemOutcome::Failed(problem),
        }
    }
}

/// A panic as an error: without it, rayon would carry it on and end the whole sweep.
fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("without a message")))
    })
}

/// An error with its causes, in a line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

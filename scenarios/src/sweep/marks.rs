//! What changes during a run whatever the policy: faults and joins of the plan, phases of the workload.
//!
//! Kept with the run as times and words, so that a figure need not know what a fault or a phase is.

use lodestar_sim::{ClusterConfig, PlannedEvent, PlannedKind};
use lodestar_traces::generate::{Arrivals, Prompts};
use lodestar_traces::{Arrival, TraceRequest, WorkloadConfig};
use serde::{Deserialize, Serialize};

use crate::scenario::{Cell, Origin};

/// Most marks of a run: of a rate that changes every second, the first ones say enough.
pub(super) const MAX_MARKS: usize = 24;

/// Something that changed at some time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// When, s from the start of the trace.
    pub at_s: f64,
    /// What, in a few words.
    pub label: String,
}

/// What changes in the runs of a cell, by time.
pub(super) fn marks(cluster: &ClusterConfig, cell: &Cell, requests: &[TraceRequest]) -> Vec<Mark> {
    let mut marks: Vec<Mark> =
        cluster.plan.iter().flat_map(|event| of_event(cluster, event)).collect();
    if let Origin::Generated(config) = &cell.content.origin {
        marks.extend(rate_phases(config, cell.rate_rps, requests));
        marks.extend(prompt_phases(config, requests));
    }
    marks.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
    marks.truncate(MAX_MARKS);
    marks
}

fn of_event(cluster: &ClusterConfig, event: &PlannedEvent) -> Vec<Mark> {
    let name = cluster.instances.get(event.instance).map_or("?", |instance| &instance.name);
    let start = |what: &str| Mark { at_s: event.at.as_secs_f64(), label: format!("{name} {what}") };
    let window = |what: &str, until: lodestar_router::Duration| {
        let end = Mark { at_s: until.as_secs_f64(), label: format!("{name} as before") };
        vec![start(what), end]
    };
    match event.kind {
        PlannedKind::Join => vec![start("joins")],
        PlannedKind::Drain => vec![start("drains")],
        PlannedKind::Crash => vec![start("crashes")],
        PlannedKind::Return => vec![start("returns")],
        PlannedKind::Slow { factor, until } => window(&format!("{factor} times slower"), until),
        PlannedKind::StaleMetrics { until, .. } => window("stale metrics", until),
        PlannedKind::LostKvEvents { until, .. } => window("KV events lost", until),
    }
}

fn rate_phases(
    config: &WorkloadConfig,
    rate_rps: Option<f64>,
    requests: &[TraceRequest],
) -> Vec<Mark> {
    let arrivals = config.arrivals.clone();
    let arrivals =
        rate_rps.map_or_else(|| arrivals.clone(), |rate| arrivals.clone().with_rate_rps(rate));
    let Arrivals::Piecewise { phases } = arrivals else { return Vec::new() };
    let last_s = requests.iter().filter_map(arrival_s).fold(0.0, f64::max);
    let mut marks = Vec::new();
    let mut at_s = 0.0;
    for (phase, next) in phases.iter().cycle().zip(phases.iter().cycle().skip(1)) {
        at_s += phase.duration_s;
        if at_s >= last_s || marks.len() == MAX_MARKS {
            break;
        }
        let rate = (next.rate_rps * 100.0).round() / 100.0;
        marks.push(Mark { at_s, label: format!("{rate} requests/s") });
    }
    marks
}

/// Where the prompts of one phase of groups end and those of the next begin.
fn prompt_phases(config: &WorkloadConfig, requests: &[TraceRequest]) -> Vec<Mark> {
    let Prompts::PrefixGroups(prompts) = &config.prompts else { return Vec::new() };
    let mut phases: Vec<u32> = prompts.groups.iter().map(|group| group.phase).collect();
    phases.sort_unstable();
    phases.dedup();
    let starts = phases.into_iter().skip(1).filter_map(|phase| {
        let before = prompts.groups.iter().filter(|group| group.phase < phase);
        let before: u64 = before
            .map(|group| u64::from(group.prefixes) * u64::from(group.requests_per_prefix))
            .sum();
        let share = before as f64 / prompts.requests() as f64;
        let first = requests.get((share * requests.len() as f64) as usize)?;
        Some(Mark { at_s: arrival_s(first)?, label: "other prompts".to_owned() })
    });
    starts.collect()
}

fn arrival_s(request: &TraceRequest) -> Option<f64> {
    match request.arrival {
        Arrival::At { ns } => Some(ns as f64 / 1e9),
        Arrival::After { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use lodestar_router::Duration;
    use lodestar_sim::PlannedEvent;

    use super::*;
    use crate::scenario::read_scenario;

    #[test]
    fn faults_and_phases_are_marked_in_the_order_of_time() {
        let scenario = read_scenario("drift").unwrap();
        let cell = |workload: &str| {
            scenario
                .cells
                .iter()
                .find(|cell| cell.content.name == workload)
                .expect("in the catalog")
        };
        let of = |workload: &str, plan: Vec<PlannedEvent>| {
            let cell = cell(workload);
            let mut cluster = scenario.cluster(cell).unwrap();
            cluster.plan = plan;
            marks(&cluster, cell, &cell.content.requests(cell.rate_rps, 1).unwrap())
        };
        let slow = PlannedKind::Slow { factor: 3.0, until: Duration::from_millis(20_000) };
        let slow = PlannedEvent { at: Duration::from_millis(10_500), instance: 1, kind: slow };
        let steps = of("rate-steps", vec![slow]);
        let labels: Vec<_> = steps.iter().map(|mark| (mark.at_s, mark.label.as_str())).collect();
        let expected = [
            (10.5, "a30-1 3 times slower"),
            (20.0, "a30-1 as before"),
            (250.0, "8 requests/s"),
            (625.0, "12 requests/s"),
        ];
        assert_eq!(labels, expected);
        let popularity = of("popularity", Vec::new());
        // 6,000 requests at 8 a second, and half of them before.
        assert_eq!(popularity.len(), 1, "{popularity:?}");
        assert!((300.0..450.0).contains(&popularity[0].at_s), "{popularity:?}");
    }
}

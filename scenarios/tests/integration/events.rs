//! What happens to instances in a scenario, and how many routers there are: from the file to the results.

use std::num::NonZeroUsize;
use std::path::Path;

use lodestar_router::Duration;
use lodestar_scenarios::scenario::{read_axes, read_scenario, scenario_names};
use lodestar_scenarios::sweep::{Item, Shard, Sweep, SweepError, SweepOptions, read_items};
use lodestar_sim::{PlannedEvent, PlannedKind};
use lodestar_traces::Arrival;

use crate::scenarios::parse;

/// Twenty seconds in which everything happens that can.
const FAULTS: &str = r#"
name = "faults"
description = "Two instances, and what can happen to them."
fleets = ["a100:1,l4:2"]
policies = ["least-request", "prefix-cache"]
router_replicas = [1, 2]

[[workload]]
name = "share47"
preset = "share47"
requests = 200
output_tokens = 20
rates_rps = [8]

[[event]]
at_s = 2.5
instance = 0
kind = "crash"

[[event]]
at_s = 3
instance = 1
kind = "slow"
factor = 3
until_s = 9

[[event]]
at_s = 3
instance = 1
kind = "stale-metrics"
delay_s = 0.5
until_s = 9

[[event]]
at_s = 3
instance = 1
kind = "lost-kv-events"
share = 0.25
until_s = 9

[[event]]
at_s = 10
instance = 0
kind = "return"

[[event]]
at_s = 12
instance = 1
kind = "drain"

[[event]]
at_s = 13
instance = 2
kind = "join"
"#;

fn error_with(old: &str, new: &str) -> String {
    assert!(FAULTS.contains(old), "{old}");
    parse(&FAULTS.replacen(old, new, 1)).expect_err("wrong")
}

fn sweep(text: &str, folder: &Path, resume: bool) -> Result<Vec<Item>, SweepError> {
    let options = SweepOptions {
        policies: Vec::new(),
        seeds: None,
        baseline: None,
        information: None,
        shard: Shard::WHOLE,
        resume,
    };
    let scenario = parse(text).expect("a scenario");
    Sweep::new(scenario, &options, folder)?.run(NonZeroUsize::new(1), &|_| ())?;
    read_items(folder)
}

#[test]
fn events_become_the_plan_of_every_cell() {
    let scenario = parse(FAULTS).unwrap();
    let event = |at_ms, instance, kind| {
        let at = Duration::from_millis(at_ms);
        PlannedEvent { at, instance, kind }
    };
    let until = Duration::from_secs(9);
    let delay = Duration::from_millis(500);
    let plan = [
        event(2_500, 0, PlannedKind::Crash),
        event(3_000, 1, PlannedKind::Slow { factor: 3.0, until }),
        event(3_000, 1, PlannedKind::StaleMetrics { delay, until }),
        event(3_000, 1, PlannedKind::LostKvEvents { share: 0.25, until }),
        event(10_000, 0, PlannedKind::Return),
        event(12_000, 1, PlannedKind::Drain),
        event(13_000, 2, PlannedKind::Join),
    ];
    let ids: Vec<_> = scenario.cells.iter().map(|cell| cell.id.as_str()).collect();
    assert_eq!(ids, ["a100-1_l4-2--share47--8rps", "a100-1_l4-2--share47--8rps--2-routers"]);
    for (cell, routers) in scenario.cells.iter().zip([1, 2]) {
        let cluster = scenario.cluster(cell).unwrap();
        assert_eq!((cluster.plan.as_slice(), cluster.router_replicas), (&plan[..], routers));
    }
}

#[test]
fn delays_of_a_crash_are_the_simulators_unless_the_file_says_otherwise() {
    let delays = |text: &str| {
        let scenario = parse(text).unwrap();
        let cluster = scenario.cluster(&scenario.cells[0]).unwrap();
        (cluster.detection_delay, cluster.retry_delay, scenario.sha256)
    };
    let with = |keys: &str| FAULTS.replace("router_replicas", &format!("{keys}router_replicas"));
    let simulators = lodestar_sim::ClusterConfig::new(Vec::new());
    let (detection, retry, digest) = delays(FAULTS);
    assert_eq!((detection, retry), (simulators.detection_delay, simulators.retry_delay));
    let (detection, retry, other) = delays(&with("detection_delay_s = 0.5\nretry_delay_s = 2\n"));
    assert_eq!((detection, retry), (Duration::from_millis(500), Duration::from_secs(2)));
    assert_ne!(digest, other);
    let error = parse(&with("detection_delay_s = -1\n")).unwrap_err();
    assert!(error.contains("`detection_delay_s` is -1: give seconds"), "{error}");
    for key in ["detection_delay_s", "retry_delay_s"] {
        let start = FAULTS.find("[[event]]").unwrap();
        let without_events = with(&format!("{key} = 1\n")).replace(&FAULTS[start..], "");
        let error = parse(&without_events).unwrap_err();
        assert!(error.contains(&format!("`{key}` has no effect")), "{error}");
    }
}

#[test]
fn an_event_that_cannot_happen_says_which_and_why() {
    let line = error_with("kind = \"slow\"", "kind = \"slo\"");
    assert!(line.contains("line 23") && line.contains("expected one of `crash`"), "{line}");
    let line = error_with("factor = 3", "fator = 3");
    assert!(line.contains("line 24") && line.contains("unknown field `fator`"), "{line}");
    let line = error_with("instance = 0\nkind = \"crash\"", "kind = \"crash\"");
    assert!(line.contains("line 15") && line.contains("missing field `instance`"), "{line}");
    for (old, new, message) in [
        ("factor = 3\n", "", "`event[1]` is slow and has no `factor`: add it"),
        (
            "delay_s = 0.5\nuntil_s = 9",
            "delay_s = 0.5",
            "`event[2]` is stale-metrics and has no `until_s`",
        ),
        (
            "\"crash\"",
            "\"crash\"\nuntil_s = 9",
            "`event[0]` is a crash, which has no `until_s`: leave it out",
        ),
        (
            "share = 0.25",
            "share = 0.25\nfactor = 2",
            "`event[3]` is lost-kv-events, which has no `factor`",
        ),
        ("at_s = 2.5", "at_s = -2", "`event[0].at_s` is -2: give seconds, 0 to 1e9"),
        ("delay_s = 0.5", "delay_s = nan", "`event[2].delay_s` is NaN: give seconds"),
        (
            "instance = 2",
            "instance = 3",
            "`event[6]` cannot happen at 13 s to instance 3 of a100:1,l4:2 (0 to 2): there is no such instance",
        ),
        (
            "at_s = 2.5",
            "at_s = 3.5",
            "`event[1]` cannot happen at 3 s to instance 1 of a100:1,l4:2 (0 to 2): events are in the order",
        ),
        ("kind = \"join\"", "kind = \"return\"", "only an instance that has crashed"),
        ("factor = 3", "factor = 0", "the factor of a slowdown is from 0.01 to 1000"),
        (
            "at_s = 13",
            "at_s = 113",
            "`event[6].at_s` is 113, but the last request of a100-1_l4-2--share47--8rps is sent after 2",
        ),
        ("until_s = 9", "until_s = 99", "`event[1].until_s` is 99, but the last request of"),
        ("[1, 2]", "[1, 0]", "`router_replicas` has 0, expected 1 to 64"),
        ("[1, 2]", "[]", "`router_replicas` is empty: leave it out for one router"),
        ("[1, 2]", "[2, 2]", "`router_replicas` has 2 twice: leave one out"),
    ] {
        let error = error_with(old, new);
        assert!(error.starts_with("s.toml: `") && error.contains(message), "{error}\n{message}");
    }
}

#[test]
fn a_sweep_runs_through_what_happens() {
    let folder = tempfile::tempdir().unwrap();
    let items = sweep(FAULTS, folder.path(), false).unwrap();
    let routers: Vec<_> = items.iter().map(|item| item.cell.router_replicas).collect();
    assert_eq!(routers, [1, 1, 2, 2]);
    for item in &items {
        let measured = item.measured().expect("it ended");
        assert_eq!(measured.series.bin_s, 1);
        let [a100, drained, joined] = &measured.series.instances[..] else { panic!("three") };
        // A member that returns is another one, and the same instance.
        let there = |bin: usize| a100.waiting_requests[bin].is_some();
        assert_eq!([1, 5, 11].map(there), [true, false, true]);
        assert!(drained.waiting_requests[5].is_some());
        assert!(joined.waiting_requests[5].is_none() && joined.waiting_requests[14].is_some());
    }
    let without = &FAULTS[..FAULTS.find("[[event]]").unwrap()];
    let undisturbed = tempfile::tempdir().unwrap();
    let mean = |items: &[Item]| items[0].measured().unwrap().summary.ttft_ms.unwrap().mean;
    let calm = sweep(without, undisturbed.path(), false).unwrap();
    assert!(mean(&items) > 2.0 * mean(&calm), "{} {}", mean(&items), mean(&calm));
}

#[test]
fn a_sweep_with_other_events_or_routers_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    sweep(FAULTS, folder.path(), false).unwrap();
    assert_eq!(sweep(FAULTS, folder.path(), true).unwrap().len(), 4);
    for (old, new) in
        [("factor = 3", "factor = 3.5"), ("at_s = 13", "at_s = 14"), ("[1, 2]", "[1]")]
    {
        let error = sweep(&FAULTS.replacen(old, new, 1), folder.path(), true).unwrap_err();
        assert!(error.to_string().contains("scenario's digest"), "{error}");
    }
}

#[test]
fn a_knee_is_of_a_fleet_to_which_nothing_happens() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.toml");
    std::fs::write(&path, FAULTS).unwrap();
    let path = path.to_str().unwrap();
    let axes = read_axes(path).unwrap();
    assert_eq!((axes.cells.len(), axes.plan.len()), (1, 0));
    assert_eq!(axes.cells[0].router_replicas, 1);
    assert_eq!(read_scenario(path).unwrap().plan.len(), 7);
}

#[test]
fn events_of_the_catalog_leave_time_before_and_after() {
    let mut kinds = Vec::new();
    for name in scenario_names() {
        let scenario = read_scenario(name).unwrap();
        for event in &scenario.plan {
            let end = match event.kind {
                PlannedKind::Slow { until, .. }
                | PlannedKind::StaleMetrics { until, .. }
                | PlannedKind::LostKvEvents { until, .. } => until,
                PlannedKind::Join
                | PlannedKind::Drain
                | PlannedKind::Crash
                | PlannedKind::Return => event.at,
            };
            assert!(event.at >= Duration::from_secs(120), "{name}");
            for cell in &scenario.cells {
                for seed in 1..=scenario.seeds {
                    let requests = cell.content.requests(cell.rate_rps, seed).unwrap();
                    let Arrival::At { ns } = requests.last().unwrap().arrival else {
                        panic!("open loop")
                    };
                    let after = ns.saturating_sub(end.as_nanos());
                    assert!(after >= 180_000_000_000, "{} {seed}: {after} ns", cell.id);
                }
            }
            kinds.push(std::mem::discriminant(&event.kind));
        }
    }
    kinds.dedup();
    assert_eq!(kinds.len(), 7, "a crash, a return, and the others");
}

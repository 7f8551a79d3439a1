//! What a scenario file may say, and how it is told what it may not.

use std::fs;

use lodestar_scenarios::scenario::{Scenario, read_axes, read_scenario, scenario_names};
use lodestar_scenarios::sweep::saturate;
use lodestar_traces::Arrival;

pub(crate) const SMALL: &str = r#"
name = "small"
description = "Two fleets, two rates of one workload and the own rate of another."
fleets = ["a100:2", "a100:1,l4:1"]
policies = ["random", "least-request", { name = "prefix-cache", stddev_factor = 2.0, label = "pc-2" }, "prefix-cache"]
seeds = 2

[engine.a100]
num_blocks = 3000

[[workload]]
name = "share47"
preset = "share47"
requests = 60
output_tokens = 1
rates_rps = [8, 16.5]

[[workload]]
name = "tree"
[workload.generate]
requests = 40
arrivals = { process = "poisson", rate_rps = 20 }
prompts = { kind = "prefix_tree", unique_tokens = { shape = "fixed", value = 300 }, output_tokens = { shape = "fixed", value = 20 } }
"#;

pub(crate) fn parse(text: &str) -> Result<Scenario, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s.toml");
    fs::write(&path, text).expect("written");
    read_scenario(path.to_str().expect("UTF-8"))
        .map_err(|error| error.to_string().replace(&path.display().to_string(), "s.toml"))
}

/// What [`SMALL`] says once a part of it is replaced.
fn error_with(old: &str, new: &str) -> String {
    assert!(SMALL.contains(old), "{old}");
    parse(&SMALL.replace(old, new)).expect_err("wrong")
}

#[test]
fn cells_are_fleets_by_workloads_by_rates() {
    let scenario = parse(SMALL).unwrap();
    let ids: Vec<_> = scenario.cells.iter().map(|cell| cell.id.as_str()).collect();
    assert_eq!(
        ids,
        [
            "a100-2--share47--8rps",
            "a100-2--share47--16.5rps",
            "a100-2--tree--own-rate",
            "a100-1_l4-1--share47--8rps",
            "a100-1_l4-1--share47--16.5rps",
            "a100-1_l4-1--tree--own-rate",
        ]
    );
    // The second half of the fleet keeps its defaults.
    let blocks: Vec<_> = scenario
        .cluster(&scenario.cells[3])
        .unwrap()
        .instances
        .iter()
        .map(|instance| (instance.name.clone(), instance.engine.num_blocks == 3000))
        .collect();
    assert_eq!(blocks, [("a100-0".to_owned(), true), ("l4-0".to_owned(), false)]);
    let requests = scenario.cells[1].content.requests(scenario.cells[1].rate_rps, 1).unwrap();
    assert_eq!((requests.len(), requests[0].output_tokens), (60, 1));
}

#[test]
fn the_digest_is_of_what_decides_a_run() {
    let digest = |text: String| parse(&text).unwrap().sha256;
    let base = digest(SMALL.to_owned());
    assert_eq!(digest(SMALL.replace("seeds = 2", "seeds = 9")), base);
    assert_eq!(digest(SMALL.replace("\"random\", ", "")), base);
    assert_ne!(digest(SMALL.replace("num_blocks = 3000", "num_blocks = 3001")), base);
    assert_ne!(digest(SMALL.replace("requests = 60", "requests = 61")), base);
}

#[test]
fn loads_are_shares_of_the_knee() {
    let with_loads = SMALL.replace("rates_rps = [8, 16.5]", "loads = [0.5, 0.8]");
    let error = parse(&with_loads).unwrap_err();
    assert!(error.contains("workload.share47.loads") && error.contains("saturate"), "{error}");
    let knees = "loads = [0.5, 0.8]\nknee_rps = { \"a100:2\" = 20.01, \"a100:1,l4:1\" = 9 }";
    let scenario = parse(&SMALL.replace("rates_rps = [8, 16.5]", knees)).unwrap();
    let rates: Vec<_> = scenario.cells.iter().map(|cell| cell.rate_rps).collect();
    let expected = [Some(10.01), Some(16.01), None, Some(4.5), Some(7.2), None];
    assert_eq!(rates, expected);
}

#[test]
fn what_is_wrong_is_named() {
    let error = error_with("num_blocks", "num_blokcs");
    assert!(error.contains("line 9") && error.contains("unknown field `num_blokcs`"), "{error}");
    let error = error_with("requests = 60", "requets = 60");
    assert!(error.contains("unknown field `requets`"), "{error}");
    let error = error_with("stddev_factor", "stddev");
    assert!(error.contains("`policies[2]`") && error.contains("unknown field `stddev`"), "{error}");
    let error = error_with("\"least-request\"", "\"least-reqest\"");
    assert!(error.contains("did you mean \"least-request\"?"), "{error}");
    let error = error_with("\"least-request\"", "{ name = \"hindsight\", label = \"best\" }");
    assert!(error.ends_with("write \"hindsight\" instead of the table"), "{error}");
    let error = error_with("num_blocks = 3000", "num_blocks = 0");
    assert!(error.contains("`engine.a100` is wrong: num_blocks is 0; it must be at"), "{error}");
    let error = error_with(", label = \"pc-2\"", "");
    assert_eq!(
        error,
        "the policy prefix-cache is named twice: leave one out, or give one another `label`"
    );
    let error = error_with("rates_rps = [8, 16.5]", "rates_rps = []");
    assert_eq!(
        error,
        "s.toml: `workload.share47.rates_rps` is empty: leave it out for the workload's own rate"
    );
    let error = error_with("[8, 16.5]", "[8, 8]");
    assert_eq!(error, "s.toml: `workload` makes the cell a100-2--share47--8rps twice");
    let error = error_with("[8, 16.5]", "[8, 0]");
    assert_eq!(error, "s.toml: `workload.share47.rates_rps` has 0.0, expected 0.000001 to 1000000");
    let error = error_with("fleets = [\"a100:2\", \"a100:1,l4:1\"]", "fleets = []");
    assert!(error.starts_with("s.toml: `fleets` is empty"), "{error}");
    let error = error_with("\"a100:1,l4:1\"]", "\"a100:2\"]");
    assert_eq!(error, "s.toml: `fleets` has a100:2 twice: leave one out");
    let error = error_with("seeds = 2", "seeds = 99999999999");
    assert!(error.contains("`seeds` is 99999999999, expected 1 to 10000"), "{error}");
    let error = error_with("seeds = 2", "seeds = 2\nrouter_replicas = [1, 2, 1]");
    assert_eq!(error, "s.toml: `router_replicas` has 1 twice: leave one out");
    let knees = "rates_rps = [8, 16.5]\nknee_rps = { \"a100:2\" = 20, \"a100:4\" = 40 }";
    let error = error_with("rates_rps = [8, 16.5]", knees);
    assert_eq!(
        error,
        "s.toml: `workload.share47.knee_rps` has one of a100:4, and the fleets are a100:2 and a100:1,l4:1: leave it out"
    );
    let error = error_with("engine.a100", "engine.a30");
    assert_eq!(error, "s.toml: `engine.a30` is in no fleet: leave it out");
    let factor = |value: &str| format!("seeds = 2\nstep_time_factor = {{ l4 = {value} }}");
    assert!(parse(&SMALL.replace("seeds = 2", &factor("1.5"))).is_ok());
    let error = error_with("seeds = 2", &factor("0.0"));
    assert_eq!(error, "s.toml: `step_time_factor.l4` is 0, expected 0.01 to 100");
    let error = error_with("preset = \"share47\"", "preset = \"share48\"");
    assert!(error.contains("\"share48\" is unknown; there are: demo"), "{error}");
    let error = error_with("preset = \"share47\"", "");
    assert!(error.contains("needs exactly one of `preset`, `generate` and `trace`"), "{error}");
}

#[test]
fn a_scenario_that_does_not_exist_is_answered_with_the_nearest() {
    let error = read_scenario("paper-a3").unwrap_err().to_string();
    assert!(error.contains("did you mean paper-a30?"), "{error}");
}

#[test]
fn every_scenario_of_the_catalog_can_be_swept() {
    for name in scenario_names() {
        let scenario = read_scenario(name).unwrap();
        assert_eq!(scenario.name, name, "a scenario has one name");
        assert!(scenario.contenders.iter().any(|c| c.label == scenario.baseline), "{name}");
        for cell in &scenario.cells {
            let requests = cell.content.requests(cell.rate_rps, 1);
            assert!(requests.is_ok_and(|requests| !requests.is_empty()), "{}", cell.id);
        }
    }
}

#[test]
fn a_knee_is_where_ttft_leaves_that_of_an_idle_fleet() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.toml");
    // Loads without a knee: the state from which one looks for it.
    let text = SMALL.replace("rates_rps = [8, 16.5]", "loads = [0.5]");
    fs::write(&path, text.replace("requests = 60", "requests = 400")).unwrap();
    let axes = read_axes(path.to_str().unwrap()).unwrap();
    assert_eq!(axes.cells.len(), 4, "two fleets, two workloads");
    let [two, unequal] = [0, 2].map(|cell| saturate(&axes, &axes.cells[cell]).unwrap());
    assert_eq!((two.fleet.as_str(), unequal.workload.as_str()), ("a100:2", "share47"));
    assert!(two.knee_p99_ms <= 4.0 * two.idle_p99_ms, "{two:?}");
    // Two A100 are worth more than one and an L4, and prompts of 4,700 tokens take them 0.3 s each.
    assert!(two.knee_rps > 1.2 * unequal.knee_rps, "{two:?} {unequal:?}");
    assert!((2.0..20.0).contains(&two.knee_rps), "{two:?}");
}

#[test]
fn a_trace_lies_beside_its_scenario_and_is_sped_up_to_a_rate() {
    let folder = tempfile::tempdir().unwrap();
    let requests = crate::fixtures::requests(201);
    let trace = folder.path().join("t.jsonl");
    lodestar_traces::write(&trace, lodestar_traces::Format::LodestarJsonl, &requests).unwrap();
    let start = SMALL.find("[[workload]]").unwrap();
    let text = format!(
        "{}[[workload]]\nname = \"t\"\ntrace = \"t.jsonl\"\nrequests = 101\nrates_rps = [10.1, 40.4]\n",
        &SMALL[..start]
    );
    let path = folder.path().join("s.toml");
    fs::write(&path, text).unwrap();
    let scenario = read_scenario(path.to_str().unwrap()).unwrap();
    let spans = [0, 1].map(|cell| {
        let cell = &scenario.cells[cell];
        let requests = cell.content.requests(cell.rate_rps, 1).unwrap();
        assert_eq!(requests.len(), 101);
        match requests[100].arrival {
            Arrival::At { ns } => ns,
            Arrival::After { .. } => panic!("the trace is open loop"),
        }
    });
    // 101 requests at 10.1 and 40.4 per second.
    assert!(
        spans[0].abs_diff(10_000_000_000) < 10 && spans[1].abs_diff(2_500_000_000) < 10,
        "{spans:?}"
    );
}

#[test]
fn engines_can_do_without_prefix_caching_and_chunked_prefill() {
    let without =
        "num_blocks = 3000\nmax_model_len = 20000\nprefix_caching = false\nchunked_prefill = false";
    let cached = |text: &str| -> u32 {
        let scenario = parse(text).unwrap();
        let cell = &scenario.cells[0];
        let requests = cell.content.requests(cell.rate_rps, 1).unwrap();
        let runner = &scenario.contenders[0].runner;
        let cluster = scenario.cluster(cell).unwrap();
        let output = runner.run(&cluster, &requests, scenario.information, 1).unwrap();
        output.requests.iter().map(|request| request.cached_tokens).sum()
    };
    assert!(cached(SMALL) > 0);
    let text = SMALL.replace("num_blocks = 3000", without);
    assert_eq!(cached(&text), 0);
    let scenario = parse(&text).unwrap();
    let engine = &scenario.cluster(&scenario.cells[0]).unwrap().instances[0].engine;
    assert_eq!((engine.max_num_batched_tokens, engine.enable_chunked_prefill), (20_000, false));
    let error =
        error_with("num_blocks = 3000", &format!("{without}\nmax_num_batched_tokens = 2048"));
    let expected =
        "s.toml: `engine.a100` is wrong: chunked prefill is off, so max_num_batched_tokens 2048";
    assert!(error.starts_with(expected), "{error}");
}

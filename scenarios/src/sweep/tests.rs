//! What only a defect of Lodestar could bring about.

use std::num::NonZeroUsize;

use super::*;
use crate::scenario::read_scenario;

/// A contender with this label panics in the middle of its run.
pub(super) const PANICS: &str = "panics";

const SCENARIO: &str = r#"
name = "panics"
description = "One of three contenders has a defect."
fleets = ["a100:1"]
policies = ["random", { name = "round-robin", label = "panics" }, "prefix-cache"]
seeds = 3

[[workload]]
name = "share9"
preset = "share9"
requests = 10
output_tokens = 1
"#;

#[test]
fn a_run_that_panics_costs_itself_only() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.toml");
    std::fs::write(&file, SCENARIO).unwrap();
    let scenario = read_scenario(file.to_str().unwrap()).unwrap();
    let options = SweepOptions {
        policies: Vec::new(),
        seeds: None,
        baseline: None,
        information: None,
        shard: Shard::WHOLE,
        resume: false,
    };
    let sweep = Sweep::new(scenario, &options, folder.path()).unwrap();
    sweep.run(NonZeroUsize::new(2), &|_| ()).unwrap();
    let items = read_items(folder.path()).unwrap();
    assert_eq!(items.len(), 9);
    for item in items {
        match item.outcome {
            ItemOutcome::Done(measured) => {
                assert_ne!(item.policy, PANICS);
                assert_eq!(measured.summary.finished, 10);
            }
            ItemOutcome::Failed(problem) => {
                assert_eq!(item.policy, PANICS);
                assert!(
                    problem.contains("panicked: ") && problem.contains("injected"),
                    "{problem}"
                );
            }
        }
    }
}

//! What is said of a policy from another one's log, beside what the policy does.

use std::path::{Path, PathBuf};

use lodestar_router::PolicyConfig;
use lodestar_scenarios::decisions::{Evaluation, LOG_FILE, LogReader, evaluate, repeat};
use lodestar_scenarios::{Replay, Workload};
use lodestar_traces::{WorkloadConfig, generate};

use crate::fixtures::{policies, run_on};

/// Runs the demo's requests on a fleet of equal instances, half loaded, and keeps the routers' logs.
fn logs(names: &[&str], folder: &Path) {
    let requests = generate(&WorkloadConfig::preset("demo").expect("there"), 1).expect("valid");
    let workload = Workload { name: "demo", read_options: None, requests: &requests };
    let fleet = "a100:3".parse().expect("a fleet");
    let replay = Replay::new(workload, fleet, "llama-3.1-8b", policies(names), 1);
    run_on(2, &replay.expect("valid").with_log(folder));
}

fn log(folder: &Path, name: &str) -> LogReader {
    let path: PathBuf = folder.join(name).join(LOG_FILE);
    LogReader::open(&path).expect("a log")
}

fn evaluation(folder: &Path, of: &str, policy: &str) -> Evaluation {
    let policy = PolicyConfig::from_name(policy).expect("a known policy");
    evaluate(log(folder, of), &policy, None).expect("long enough")
}

#[test]
fn estimates_are_near_what_the_simulator_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    logs(&["random", "least-request", "prefix-cache"], folder);
    for policy in ["least-request", "prefix-cache"] {
        let truth = evaluation(folder, policy, policy).logged.mean_ms;
        let estimated = evaluation(folder, "random", policy);
        let all = [estimated.inverse_propensity, estimated.direct, estimated.doubly_robust];
        for estimate in all {
            // They are too low, since a random choice leaves an emptier instance to be chosen (docs/decisions.md).
            let off = estimate.mean_ms / truth - 1.0;
            assert!((-0.05..0.01).contains(&off), "{policy}: {off}, {estimated}");
            assert!(estimate.low_ms < estimate.mean_ms && estimate.mean_ms < estimate.high_ms);
        }
        assert!((estimated.agreement - 1.0 / 3.0).abs() < 0.03, "{estimated}");
        assert_eq!((estimated.clipped, estimated.doubt()), (0, None));
    }
    let [least_request, prefix_cache] =
        ["least-request", "prefix-cache"].map(|policy| evaluation(folder, "random", policy));
    assert!(prefix_cache.doubly_robust.high_ms < least_request.doubly_robust.mean_ms);

    // Its own log says of a policy what was measured, to the last bit.
    let itself = evaluation(folder, "random", "random");
    assert!((itself.mean_weight - 1.0).abs() < 1e-9);
    assert!((itself.inverse_propensity.mean_ms - itself.logged.mean_ms).abs() < 1e-9);
    // One that draws among equals only says little of another, and says so.
    assert!(evaluation(folder, "prefix-cache", "random").doubt().is_some());

    let repeated = repeat(log(folder, "prefix-cache")).expect("readable");
    assert_eq!((repeated.decisions, repeated.equal), (5000, 5000));
}

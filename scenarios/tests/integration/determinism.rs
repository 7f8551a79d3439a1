//! The same scenario gives the same bytes, whatever the number of threads.

use lodestar_scenarios::{Replay, ReplayError, RunTables, Summary, Workload, load};
use tempfile::tempdir;

use crate::fixtures::{POLICIES, files_of, policies, replay, requests, run_on, write};

#[test]
fn files_do_not_depend_on_the_number_of_threads() {
    let requests = requests(80);
    let replay = replay(&requests, 7);
    let folder = tempdir().unwrap();
    let written: Vec<_> = (1..=3)
        .map(|threads| {
            let path = folder.path().join(threads.to_string());
            write(&run_on(threads, &replay).results, &path);
            files_of(&path)
        })
        .collect();
    let names: Vec<_> = written[0].keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "least-request/instances.parquet",
            "least-request/requests.parquet",
            "manifest.json",
            "prefix-cache/instances.parquet",
            "prefix-cache/requests.parquet",
            "random/instances.parquet",
            "random/requests.parquet",
            "summary.csv",
        ]
    );
    assert!(written[0] == written[1], "one thread and two differ");
    assert!(written[0] == written[2], "one thread and three differ");
}

#[test]
fn what_is_read_is_what_was_written() {
    let requests = requests(40);
    let replay = replay(&requests, 3);
    let folder = tempdir().unwrap();
    let path = folder.path().join("results");
    let written = run_on(2, &replay).results;
    write(&written, &path);
    let read = load(&path).unwrap();
    assert_eq!(read.scenario, written.scenario);
    assert_eq!(read.runs, written.runs);
    let names: Vec<_> = read.runs.iter().map(RunTables::policy).collect();
    assert_eq!(names, POLICIES);
    assert_eq!(Summary::of(&read.runs[0]), Summary::of(&written.runs[0]));
}

#[test]
fn progress_adds_up() {
    use std::sync::atomic::{AtomicU64, Ordering};

    let requests = requests(40);
    let replay = replay(&requests, 3);
    let ended = AtomicU64::new(0);
    let count = |requests| {
        ended.fetch_add(requests, Ordering::Relaxed);
    };
    replay.run(None, &count).unwrap();
    assert_eq!(ended.into_inner(), replay.total_requests());
}

#[test]
fn a_scenario_that_cannot_be_run_says_why() {
    let requests = requests(4);
    let error_of = |requests, fleet: &str, model, names: &[&str]| -> ReplayError {
        let fleet = fleet.parse().expect("a fleet");
        let workload = Workload { name: "small", read_options: None, requests };
        Replay::new(workload, fleet, model, policies(names), 1).expect_err("no scenario")
    };
    let error = error_of(&[], "a100:1", "llama-3.1-8b", &["random"]);
    assert_eq!(error.to_string(), "the trace small has no requests");
    let error = error_of(&requests, "a100:1", "llama-3.1-8b", &["random", "least-kv", "random"]);
    assert_eq!(error.to_string(), "the policy random was named twice");
    let error = error_of(&requests, "a100:1", "llama-3.1-8b", &[]);
    assert_eq!(error.to_string(), "no policy was named");
    let error = error_of(&requests, "z80:1", "llama-3.1-8b", &["random"]);
    assert!(error.to_string().contains("z80"), "{error}");
    let error = error_of(&requests, "a100:1", "eliza", &["random"]);
    assert!(error.to_string().contains("eliza"), "{error}");
}

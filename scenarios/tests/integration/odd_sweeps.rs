//! Sweeps of which something is missing, and runs that nobody can have measured.

use std::fs;
use std::path::Path;

use lodestar_scenarios::sweep::{Overview, SweepOptions, merge, write_tables};

use crate::sweeps::{options, sweep, whole};

#[test]
fn whoever_reads_a_part_of_a_sweep_is_told_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let extent = |out: &Path| Overview::read(out, None).unwrap().extent;
    let shards = ["1/2", "2/2"].map(|shard| {
        let part = folder.path().join(shard.replace('/', "-"));
        sweep(&options(shard), 2, &part).unwrap();
        part
    });
    // Every other cell and seed: of six cells with two seeds all that have the second one.
    let half = extent(&shards[0]);
    assert_eq!((half.cells, half.seeds, half.runs, half.missing), (6, 2, 48, 24));
    let first = &half.first_missing[0];
    assert_eq!(first, "a100-2--share47--8rps/least-request/2");
    assert!(half.note().unwrap().starts_with("24 of 48 runs; missing: a100-2--share47--8rps/"));
    assert!(half.note().unwrap().ends_with("/2 and 20 more"), "{:?}", half.note());
    let out = folder.path().join("out");
    merge(&shards, &out, None).unwrap();
    assert_eq!((extent(&out).missing, extent(&out).note()), (0, None));
    // A sweep that grows asks for more, and what it had stays.
    let more = SweepOptions { seeds: Some(3), resume: true, ..options("1/1") };
    let more = SweepOptions { policies: vec!["prefix-cache".to_owned()], ..more };
    assert_eq!(sweep(&more, 2, &out).unwrap(), 6);
    assert_eq!((extent(&out).runs, extent(&out).missing, extent(&out).seeds), (54, 0, 3));
    // A file that does not have what is there, or is not there, or is another one's.
    let planned = out.join("planned.json");
    let good = fs::read_to_string(&planned).unwrap();
    let refused = |text: &str, part: &str| {
        fs::write(&planned, text).unwrap();
        let error = Overview::read(&out, None).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    let fewer = good.replace("\"prefix-cache\":3", "\"prefix-cache\":2");
    refused(&fewer, "does not have runs/a100-2--share47--8rps/prefix-cache/3.json, which is there");
    refused(&good.replace(":3", ":99999999999"), "is 99999999999, expected 1 to 10000");
    refused(&good.replace("\"format_version\":1", "\"format_version\":2"), "another version");
    fs::remove_file(&planned).unwrap();
    let error = Overview::read(&out, None).unwrap_err().to_string();
    assert!(error.contains("has runs but no planned.json"), "{error}");
    let error = merge(&[out], &folder.path().join("again"), None).unwrap_err().to_string();
    assert!(error.contains("has runs but no planned.json"), "{error}");
}

#[test]
fn what_cannot_have_been_measured_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    sweep(&options("1/12"), 1, folder.path()).unwrap();
    let path = folder.path().join("runs/a100-2--share47--8rps/random/1.json");
    let good: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    let done = "/outcome/done";
    let refused = |field: &str, value: serde_json::Value, part: &str| {
        let mut edited = good.clone();
        *edited.pointer_mut(&field.replace("...", done)).expect("a field") = value;
        fs::write(&path, edited.to_string()).unwrap();
        let error = write_tables(folder.path(), None).unwrap_err().to_string();
        let says = error.contains("random/1.json is damaged: ") && error.contains("delete it");
        assert!(says && error.contains(part), "{error}");
    };
    let (number, list) = (|value: f64| value.into(), |values: &[f64]| values.into());
    let negative = "`summary.ttft_ms` has -5, expected more than 0";
    refused(".../summary/ttft_ms/mean", number(-5.0), negative);
    refused(".../summary/ttft_ms/p99", number(0.0), "`summary.ttft_ms` has 0, expected more");
    refused(".../summary/e2e_ms/p50", number(-1.0), "`summary.e2e_ms` has -1, expected at least");
    let order = "`summary.ttft_ms` is wrong, expected quantiles in order";
    refused(".../summary/ttft_ms/p50", number(1e9), order);
    refused(".../ttft_quantiles_ms/7", number(1e9), "`ttft_quantiles_ms` is wrong, expected quant");
    refused(".../summary/hit_ratio", number(55.0), "`summary.hit_ratio` has 55, expected 0 to 1");
    refused(".../summary/finished", 1_000_000_000.into(), "`summary.requests` is wrong, expected");
    refused(".../rejected_by_router", 9.into(), "`rejected_by_router` is wrong, expected at most");
    let points = "`ttft_quantiles_ms` has 5 values, expected 200";
    refused(".../ttft_quantiles_ms", list(&[1.0, 2.0, 3.0, 4.0, 5.0]), points);
    let usage = "`series.instances.kv_usage` has -50, expected 0 to 1";
    refused(".../series/instances/0/kv_usage/0", number(-50.0), usage);
    let bins = "`series.instances.running_requests` has 0 values, expected";
    refused(".../series/instances/0/running_requests", list(&[]), bins);
    refused(".../series/bin_s", 0.into(), "`series.bin_s` is wrong, expected at least 1");
    refused("/cell/rate_rps", number(-8.0), "`cell.rate_rps` has -8, expected more than 0");
    fs::write(&path, good.to_string()).unwrap();
    write_tables(folder.path(), None).unwrap();
}

#[test]
fn what_no_sweep_left_is_not_merged() {
    let folder = tempfile::tempdir().unwrap();
    let (part, file) = (folder.path().join("part"), folder.path().join("file"));
    let (empty, idle) = (folder.path().join("empty"), folder.path().join("idle"));
    sweep(&options("1/14"), 1, &part).unwrap();
    sweep(&options("14/14"), 1, &idle).unwrap();
    fs::write(&file, "").unwrap();
    fs::create_dir(&empty).unwrap();
    let out = folder.path().join("out");
    for (wrong, part_of) in [(&file, "file is not a folder"), (&empty, "empty holds no runs")] {
        let error = merge(&[part.clone(), wrong.clone()], &out, None).unwrap_err().to_string();
        assert!(error.contains(part_of), "{error}");
    }
    let error = merge(std::slice::from_ref(&idle), &out, None).unwrap_err().to_string();
    assert!(error.contains("idle holds no runs"), "{error}");
    assert!(!out.exists(), "nothing is written before all is read");
    merge(&[part, idle], &out, None).unwrap();
}

#[test]
fn who_leaves_more_requests_without_an_answer_than_the_baseline_is_marked() {
    let folder = tempfile::tempdir().unwrap();
    whole(folder.path());
    let lose = |seed: u64, requests: u64| {
        let path = format!("runs/a100-2--share47--8rps/random/{seed}.json");
        let path = folder.path().join(path);
        let mut item: serde_json::Value =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let summary = &mut item["outcome"]["done"]["summary"];
        let all = summary["requests"].as_u64().unwrap();
        summary["finished"] = (all - requests).into();
        summary["rejected"] = requests.into();
        fs::write(&path, item.to_string()).unwrap();
        all
    };
    let marked = || {
        let merged = write_tables(folder.path(), None).unwrap();
        let rows = merged.comparison.iter().filter(|row| row.loses_requests);
        let rows: Vec<_> = rows.map(|row| (row.policy.clone(), row.lost_requests)).collect();
        let cells: u64 = merged.summary.iter().map(|row| row.loses_requests).sum();
        assert_eq!(cells, rows.len() as u64);
        assert_eq!(merged.text().contains("cells: random in 1\n"), cells > 0, "{}", merged.text());
        rows
    };
    let all = lose(1, 3);
    assert_eq!(marked(), [], "one seed of two says nothing");
    lose(2, 3);
    assert_eq!(marked(), [("random".to_owned(), Some(3.0 / all as f64))]);
    let csv = fs::read_to_string(folder.path().join("comparison.csv")).unwrap();
    let header = csv.lines().next().unwrap();
    assert!(header.ends_with(",lost_requests_percent,loses_requests"), "{header}");
    assert_eq!(csv.matches(",true\n").count(), 1, "{csv}");
}

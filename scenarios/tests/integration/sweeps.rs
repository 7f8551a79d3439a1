//! Sweeps: whole, in pieces, interrupted, damaged.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use lodestar_router::Information;
use lodestar_scenarios::scenario::Scenario;
use lodestar_scenarios::sweep::{
    Merged, Overview, Shard, Sweep, SweepError, SweepOptions, Verdicts, merge, read_items,
    write_tables,
};

use crate::fixtures::files_of;
use crate::scenarios::{SMALL, parse};

fn scenario() -> Scenario {
    parse(SMALL).expect("a scenario")
}

pub(crate) fn options(shard: &str) -> SweepOptions {
    let shard = shard.parse().expect("a shard");
    SweepOptions {
        policies: Vec::new(),
        seeds: None,
        baseline: None,
        information: None,
        shard,
        resume: false,
    }
}

/// Runs it and returns how many runs that were. They are told one after another.
pub(crate) fn sweep(
    options: &SweepOptions,
    threads: usize,
    folder: &Path,
) -> Result<usize, SweepError> {
    let sweep = Sweep::new(scenario(), options, folder)?;
    let told = AtomicUsize::new(0);
    sweep.run(NonZeroUsize::new(threads), &|standing| {
        assert_eq!(standing.done, told.fetch_add(1, Ordering::Relaxed) + 1);
    })?;
    assert_eq!(told.into_inner(), sweep.total());
    Ok(sweep.total())
}

pub(crate) fn whole(folder: &Path) -> (Merged, BTreeMap<String, Vec<u8>>) {
    assert_eq!(sweep(&options("1/1"), 1, folder).expect("it runs"), 6 * 4 * 2);
    let merged = write_tables(folder, None).expect("tables");
    (merged, files_of(folder))
}

#[test]
fn shards_merged_are_the_bytes_of_one_sweep() {
    let folder = tempfile::tempdir().unwrap();
    let (_, expected) = whole(&folder.path().join("whole"));
    let shards: Vec<PathBuf> = ["1/5", "2/5", "3/5", "4/5", "5/5"]
        .iter()
        .map(|shard| {
            let part = folder.path().join(shard.replace('/', "-"));
            sweep(&options(shard), 2, &part).unwrap();
            part
        })
        .collect();
    let out = folder.path().join("merged");
    merge(&shards, &out, None).unwrap();
    assert_eq!(files_of(&out).keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    assert!(files_of(&out) == expected, "the bytes differ");
    // Merging what is merged changes nothing.
    merge(&shards[..1], &out, None).unwrap();
    assert!(files_of(&out) == expected, "the bytes differ");
}

#[test]
fn an_interrupted_sweep_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (_, expected) = whole(folder.path());
    let runs = folder.path().join("runs");
    fs::remove_dir_all(runs.join("a100-2--share47--8rps")).unwrap();
    fs::remove_file(runs.join("a100-2--tree--own-rate/random/2.json")).unwrap();
    // What a pulled plug leaves behind.
    fs::write(runs.join("a100-2--tree--own-rate/random/.tmp1.partial"), "{").unwrap();
    let error = sweep(&options("1/1"), 1, folder.path()).unwrap_err().to_string();
    assert!(error.contains("already holds 39 runs: continue with --resume"), "{error}");
    let resume = SweepOptions { resume: true, ..options("1/1") };
    assert_eq!(sweep(&resume, 1, folder.path()).unwrap(), 9);
    write_tables(folder.path(), None).unwrap();
    fs::remove_file(runs.join("a100-2--tree--own-rate/random/.tmp1.partial")).unwrap();
    assert!(files_of(folder.path()) == expected, "the bytes differ");
}

#[test]
fn policies_of_a_cell_and_seed_see_the_same_requests() {
    let folder = tempfile::tempdir().unwrap();
    whole(folder.path());
    let mut traces: BTreeMap<(String, u64), Vec<String>> = BTreeMap::new();
    for item in read_items(folder.path()).unwrap() {
        let measured = item.measured().expect("it ended");
        assert_eq!(measured.ttft_quantiles_ms.len(), 200);
        assert!(measured.series.ttft_mean_ms.len() <= 120);
        let trace = measured.trace_sha256.clone();
        traces.entry((item.cell.id.clone(), item.seed)).or_default().push(trace);
    }
    assert_eq!(traces.len(), 6 * 2);
    for (key, mut digests) in traces {
        assert_eq!(digests.len(), 4, "{key:?}");
        digests.dedup();
        assert_eq!(digests.len(), 1, "{key:?}");
    }
}

#[test]
fn ratios_are_to_the_baseline_and_to_the_best() {
    let folder = tempfile::tempdir().unwrap();
    let (merged, _) = whole(folder.path());
    assert_eq!(merged.comparison.len(), 6 * 4);
    let baseline = merged.summary.iter().find(|row| row.policy == "prefix-cache").unwrap();
    assert_eq!(baseline.verdicts, Verdicts { wins: 0, ties: 6, losses: 0 });
    assert!((baseline.mean_ratio.unwrap().value - 1.0).abs() < 1e-12);
    assert!(merged.summary.iter().all(|row| row.mean_ratio_to_best.unwrap().value >= 1.0));
    let other = write_tables(folder.path(), Some("random")).unwrap();
    let random = other.summary.iter().find(|row| row.policy == "random").unwrap();
    assert!((random.mean_ratio.unwrap().value - 1.0).abs() < 1e-12);
    let error = write_tables(folder.path(), Some("least-kv")).unwrap_err().to_string();
    assert!(
        error.contains("the baseline least-kv is not among the policies (least-request"),
        "{error}"
    );
}

#[test]
fn ratios_are_paired_by_seed_and_have_intervals() {
    let folder = tempfile::tempdir().unwrap();
    let options = SweepOptions { seeds: Some(3), ..options("1/1") };
    sweep(&options, 2, folder.path()).unwrap();
    let merged = write_tables(folder.path(), None).unwrap();
    let means: BTreeMap<(u32, String, u64), f64> = read_items(folder.path())
        .unwrap()
        .iter()
        .map(|item| {
            let mean = item.measured().unwrap().summary.ttft_ms.unwrap().mean;
            ((item.cell.index, item.policy.clone(), item.seed), mean)
        })
        .collect();
    let mean = |cell, policy: &str, seed| means[&(cell, policy.to_owned(), seed)];
    let log = |cell, seed| (mean(cell, "random", seed) / mean(cell, "prefix-cache", seed)).ln();
    let row = merged.comparison.iter().find(|r| r.cell.index == 2 && r.policy == "random").unwrap();
    let by_hand = (1..=3).map(|seed| log(2, seed)).sum::<f64>() / 3.0;
    assert!((row.mean_ratio.unwrap().value - by_hand.exp()).abs() < 1e-12);
    // Over cells: a geometric mean a seed, and their spread.
    let seeds = [1, 2, 3].map(|seed| (0..6).map(|cell| log(cell, seed)).sum::<f64>() / 6.0);
    let centre = seeds.iter().sum::<f64>() / 3.0;
    let error = (seeds.iter().map(|s| (s - centre).powi(2)).sum::<f64>() / 2.0 / 3.0).sqrt();
    let ratio = merged.summary.iter().find(|r| r.policy == "random").unwrap().mean_ratio.unwrap();
    let high = ratio.interval.unwrap().high;
    assert!((ratio.value - centre.exp()).abs() < 1e-12);
    assert!((high - (centre + 4.302_653 * error).exp()).abs() < 1e-9, "{high}");
    // The best heuristic of a cell is never above any, and loses to nobody.
    for row in &merged.comparison {
        let to_best = row.mean_ratio_to_best.unwrap().value;
        assert!(to_best >= 1.0, "{row:?}");
        if row.best_heuristic.as_ref() == Some(&row.policy) {
            assert!((to_best - 1.0).abs() < 1e-12, "{row:?}");
        }
    }
    for row in &merged.summary {
        let of_policy = merged.comparison.iter().filter(|r| r.policy == row.policy);
        let lost = of_policy.filter(|r| r.mean_ratio_to_best.unwrap().value > 1.02).count();
        assert_eq!(row.lost_to_best, lost as u64);
    }
    assert!(merged.summary.iter().any(|row| row.lost_to_best > 0), "nobody loses");
}

#[test]
fn a_single_seed_has_no_interval_and_no_verdict() {
    let folder = tempfile::tempdir().unwrap();
    let options = SweepOptions { seeds: Some(1), ..options("1/1") };
    sweep(&options, 2, folder.path()).unwrap();
    let merged = write_tables(folder.path(), None).unwrap();
    for row in &merged.summary {
        assert_eq!(row.mean_ratio.unwrap().interval, None);
        assert_eq!(row.verdicts, Verdicts { wins: 0, ties: 6, losses: 0 });
    }
    assert!(merged.text().contains("there are no intervals"), "{}", merged.text());
}

#[test]
fn a_failed_run_is_recorded_and_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let start = SMALL.find("[workload.generate]").expect("it is there");
    let text = format!("{}trace = \"gone.jsonl\"\n", &SMALL[..start]);
    let sweep = Sweep::new(parse(&text).unwrap(), &options("1/1"), folder.path()).unwrap();
    sweep.run(NonZeroUsize::new(2), &|_| ()).unwrap();
    let merged = write_tables(folder.path(), None).unwrap();
    let items = read_items(folder.path()).unwrap();
    assert_eq!(items.len(), 48);
    // One workload of two, on two fleets, under four policies, with two seeds.
    assert_eq!(merged.failed.len(), 16);
    assert!(merged.failed[0].1.contains("gone.jsonl"), "{}", merged.failed[0].1);
    let failed: Vec<_> = merged.comparison.iter().map(|row| row.failed).collect();
    assert_eq!(failed.iter().filter(|failed| **failed == 2).count(), 8, "{failed:?}");
    // A failed run is made again, a finished one is not.
    let resume = SweepOptions { resume: true, ..options("1/1") };
    let again = Sweep::new(parse(&text).unwrap(), &resume, folder.path()).unwrap();
    assert_eq!(again.total(), merged.failed.len());
}

#[test]
fn a_shard_is_one_of_some() {
    for wrong in ["0/4", "5/4", "4", "1/0", "a/b", "-1/3", "1/3/4"] {
        let error = wrong.parse::<Shard>().unwrap_err().to_string();
        assert!(error.contains("write K/N with K from 1 to N"), "{error}");
    }
    assert_eq!("1/1".parse::<Shard>().unwrap(), Shard::WHOLE);
}

#[test]
fn what_does_not_belong_together_is_not_merged() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    sweep(&options("1/6"), 1, &a).unwrap();
    let other = parse(&SMALL.replace("num_blocks = 3000", "num_blocks = 3001")).unwrap();
    Sweep::new(other, &options("2/6"), &b).unwrap().run(None, &|_| ()).unwrap();
    let error = merge(&[a.clone(), b], &folder.path().join("out"), None).unwrap_err().to_string();
    assert!(error.contains("differ in their scenario's digest"), "{error}");
    // Another build of the same version: neither merged nor gone on with.
    let own = a.join("runs/a100-2--share47--8rps/random/1.json");
    let text = fs::read_to_string(&own).unwrap();
    let digest = read_items(&a).unwrap()[0].executable_sha256.clone();
    fs::write(&own, text.replace(&digest, &"0".repeat(64))).unwrap();
    for error in [
        merge(std::slice::from_ref(&a), &folder.path().join("out"), None).unwrap_err(),
        sweep(&SweepOptions { resume: true, ..options("1/6") }, 1, &a).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(error.contains("differ in their executable's digest"), "{error}");
        assert!(error.contains("use the build that made the first runs"), "{error}");
    }
    fs::write(&own, text).unwrap();
    // A label that stood for something else when the runs were made.
    let other = parse(&SMALL.replace("stddev_factor = 2.0", "stddev_factor = 2.5")).unwrap();
    let resume = SweepOptions { resume: true, ..options("1/1") };
    let error = Sweep::new(other, &resume, &a).unwrap_err().to_string();
    assert!(error.contains("differ in their policy's parameters"), "{error}");
    assert!(!folder.path().join("out").exists(), "nothing is written before all is read");

    let item = a.join("runs/a100-2--share47--8rps/random/1.json");
    let text = fs::read_to_string(&item).unwrap();
    fs::write(&item, &text[..text.len() / 2]).unwrap();
    let error = write_tables(&a, None).unwrap_err().to_string();
    assert!(error.contains("random/1.json is damaged") && error.contains("--resume"), "{error}");
    // Not damaged: deleting it would lose it.
    let version = text.find("\"format_version\":").unwrap() + "\"format_version\":".len();
    fs::write(&item, format!("{}9{}", &text[..version], &text[version..])).unwrap();
    let error = write_tables(&a, None).unwrap_err().to_string();
    assert!(error.contains("random/1.json is of another version"), "{error}");
    assert!(!error.contains("delete"), "{error}");
    fs::write(&item, text.replace("\"seed\":1", "\"seed\":2")).unwrap();
    let error = write_tables(&a, None).unwrap_err().to_string();
    assert!(error.contains("it belongs at runs/a100-2--share47--8rps/random/2.json"), "{error}");
    let empty = folder.path().join("empty");
    // More shards than cells and seeds: the last ones have nothing to do, and merging them adds nothing.
    let idle = Sweep::new(scenario(), &options("14/14"), &empty).unwrap();
    assert!(idle.is_empty() && idle.total() == 0);
    let error = write_tables(&empty, None).unwrap_err().to_string();
    assert!(error.contains("holds no runs of a sweep"), "{error}");
}

#[test]
fn a_write_that_fails_in_mid_sweep_keeps_what_is_finished() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder of the third cell should be.
    let in_the_way = folder.path().join("runs/a100-2--tree--own-rate");
    fs::create_dir_all(in_the_way.parent().unwrap()).unwrap();
    fs::write(&in_the_way, "").unwrap();
    let error = sweep(&options("1/1"), 1, folder.path()).unwrap_err().to_string();
    assert!(error.contains("cannot write") && error.contains("--resume"), "{error}");
    assert!(!read_items(folder.path()).unwrap().is_empty());
}

#[test]
fn an_overview_has_the_course_of_one_seed_and_the_figures_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let (merged, _) = whole(folder.path());
    let overview = Overview::read(folder.path(), None).unwrap();
    assert_eq!(overview.comparison, merged.comparison);
    assert_eq!(overview.summary, merged.summary);
    for item in &overview.items {
        let measured = item.measured().expect("it ended");
        assert_eq!(measured.ttft_quantiles_ms.len(), 200);
        let names: Vec<_> = measured.series.instances.iter().map(|i| i.name.as_str()).collect();
        match (item.seed, item.cell.fleet.as_str()) {
            (1, "a100:2") => assert_eq!(names, ["a100-0", "a100-1"]),
            (1, _) => assert_eq!(names, ["a100-0", "l4-0"]),
            (seed, _) => assert_eq!((seed, names.len()), (2, 0)),
        }
    }
    let command = "lodestar sweep FILE --policies least-request,pc-2,prefix-cache,random --seeds 2";
    assert!(overview.command.starts_with(command), "{}", overview.command);
}

#[test]
fn what_policies_saw_is_written_down_and_not_mixed() {
    let folder = tempfile::tempdir().unwrap();
    let of = |information| {
        let out = folder.path().join(format!("{information:?}"));
        let options = SweepOptions { information: Some(information), ..options("1/8") };
        sweep(&options, 1, &out).unwrap();
        write_tables(&out, None).unwrap();
        out
    };
    let (deployed, ideal) = (of(Information::Deployed), of(Information::Ideal));
    let results = |out: &Path| fs::read_to_string(out.join("results.csv")).unwrap();
    assert!(results(&deployed).contains(",deployed,") && !results(&deployed).contains(",ideal,"));
    assert!(results(&ideal).contains(",ideal,"));
    let error = merge(&[deployed, ideal], &folder.path().join("both"), None).unwrap_err();
    assert!(error.to_string().contains("differ in their information"), "{error}");
}

#[test]
fn a_damaged_table_of_runs_is_noticed_whatever_has_changed() {
    let folder = tempfile::tempdir().unwrap();
    whole(folder.path());
    let table = folder.path().join("results.parquet");
    let bytes = fs::read(&table).unwrap();
    let assert_noticed = |bytes: &[u8], what: usize| {
        fs::write(&table, bytes).unwrap();
        let error = Overview::read(folder.path(), None).unwrap_err().to_string();
        assert!(error.contains("results.parquet is damaged"), "{what}: {error}");
        assert!(error.contains("delete it and run the sweep with --resume"), "{error}");
    };
    assert_noticed(&bytes[..100], 100);
    for at in (0..bytes.len()).step_by(bytes.len() / 20) {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert_noticed(&changed, at);
    }
    fs::write(&table, bytes).unwrap();
    Overview::read(folder.path(), None).unwrap();
}

#[test]
fn yardsticks_say_what_is_left_to_win() {
    let folder = tempfile::tempdir().unwrap();
    let policies = ["random", "prefix-cache", "lodestar", "hindsight", "physical-bound"];
    let policies = policies.map(str::to_owned);
    let options = SweepOptions { policies: policies.into(), ..options("1/8") };
    sweep(&options, 2, folder.path()).unwrap();
    write_tables(folder.path(), None).unwrap();
    let summary = fs::read_to_string(folder.path().join("summary.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(summary.as_bytes());
    let gaps: BTreeMap<String, (String, f64)> = reader
        .deserialize::<BTreeMap<String, String>>()
        .map(|line| {
            let line = line.unwrap();
            (line["policy"].clone(), (line["kind"].clone(), line["gap_closed"].parse().unwrap()))
        })
        .collect();
    assert_eq!(gaps["hindsight"], ("yardstick".to_owned(), 1.0));
    assert!(gaps["physical-bound"].1 > 1.0, "{gaps:?}");
    assert!(gaps["random"].1 < gaps["prefix-cache"].1.max(0.0) + 1e-9, "{gaps:?}");
    assert!(gaps["prefix-cache"].1 < 1.0, "{gaps:?}");
    // A share in each cell, too; and nobody who must decide as requests come is faster than hindsight with any seed.
    let comparison = fs::read_to_string(folder.path().join("comparison.csv")).unwrap();
    let mut reader = csv::Reader::from_reader(comparison.as_bytes());
    for line in reader.deserialize::<BTreeMap<String, String>>().map(Result::unwrap) {
        let share: f64 = line["gap_closed"].parse().unwrap();
        let is_all = (share - 1.0).abs() < 1e-9;
        assert_eq!(is_all, line["policy"] == "hindsight", "{line:?}");
    }
    let mut means: BTreeMap<u64, BTreeMap<String, f64>> = BTreeMap::new();
    for item in read_items(folder.path()).unwrap() {
        let ttft = item.measured().unwrap().summary.ttft_ms.unwrap();
        means.entry(item.seed).or_default().insert(item.policy, ttft.mean);
    }
    for means in means.values() {
        for policy in ["random", "prefix-cache", "lodestar"] {
            assert!(means["hindsight"] <= means[policy], "{means:?}");
        }
    }
}

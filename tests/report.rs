//! What `lodestar plot` makes of a folder, and says to one of which nothing can be made.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Its name is what somebody might try who does not like us.
const SCENARIO: &str = r#"
name = "<script>alert(1)</script> & \"co\""
description = "Small."
fleets = ["a100:1,l4:1"]
policies = ["random", "prefix-cache", "mooncake"]
seeds = 2

[[workload]]
name = "share9"
preset = "share9"
requests = 40
output_tokens = 2
rates_rps = [2, 4]

[[workload]]
name = "steps"
[workload.generate]
requests = 60
arrivals = { process = "piecewise", phases = [{ rate_rps = 12, duration_s = 3 }, { rate_rps = 4, duration_s = 9 }] }
prompts = { kind = "prefix_tree", unique_tokens = { shape = "fixed", value = 300 }, output_tokens = { shape = "fixed", value = 9 } }
"#;

fn lodestar(folder: &Path, arguments: &[&str]) -> Output {
    let command =
        Command::new(env!("CARGO_BIN_EXE_lodestar")).args(arguments).current_dir(folder).output();
    command.expect("it starts")
}

/// A folder with a sweep in `out`.
fn swept() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("s.toml"), SCENARIO).expect("written");
    let output = lodestar(folder.path(), &["sweep", "s.toml", "--out", "out"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
}

fn report(folder: &Path) -> String {
    fs::read_to_string(folder.join("out/report.html")).expect("a report")
}

/// Fails where an element ends that has not begun, or begins and does not end.
fn check_nesting(page: &str) {
    const EMPTY: [&str; 7] = ["meta", "rect", "polyline", "line", "circle", "polygon", "path"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once('<') {
        let (tag, tail) = after.split_once('>').expect("a tag ends");
        rest = tail;
        let name = tag.split([' ', '\n', '/']).find(|part| !part.is_empty()).expect("a name");
        if tag.starts_with('!') || EMPTY.contains(&name) {
            continue;
        }
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "after {} characters", page.len() - rest.len());
            continue;
        }
        open.push(name);
        // What is in these is no HTML.
        if let ("style" | "script", Some(at)) = (name, rest.find(&format!("</{name}>"))) {
            rest = &rest[at..];
        }
    }
    assert!(open.is_empty(), "{open:?} do not end");
}

#[test]
fn a_report_is_one_page_with_everything_in_it() {
    let folder = swept();
    let page = report(folder.path());
    check_nesting(&page);
    for part in [
        "id=\"run\"",
        "id=\"policies\"",
        "id=\"ratios\"",
        "id=\"load\"",
        "id=\"comparison\"",
        "id=\"cells\"",
        "id=\"predictions\"",
        "name=\"viewport\"",
        "color-scheme: light dark",
        "id=\"cell-2\"",
        "lodestar sweep FILE --policies mooncake,prefix-cache,random --seeds 2 --baseline prefix-cache --information deployed --out DIR",
        "TTFT distribution",
        "Queue of the whole fleet",
        "KV cache in use",
        "Learning curve",
        "a100-0",
        "l4-0",
        "P99 of TTFT against load",
        "3.0 s: 4 requests/s",
        "share9 at 4 requests/s on a100:1,l4:1",
    ] {
        assert!(page.contains(part), "no {part}");
    }
    assert!(
        !page.contains("://") && !page.contains("src=") && !page.contains("<link"),
        "it loads something"
    );
    assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt; &amp; "), "the name is there");
    assert!(!page.contains("<script>alert"), "the name is not escaped");
    // What fits on a phone is who and how fast.
    let column = |name: &str| page.find(&format!(">{name}</button>")).expect("a column");
    assert!(column("policy") < column("mean") && column("mean to best") < column("kind"));
    // A row a policy and a row a cell and policy.
    assert_eq!(page.matches("<tr class=\"baseline\">").count(), 1 + 3);
    assert_eq!(page.matches("<tr").count(), 2 + 3 + 9);
    for figure in ["ttft_ratio.svg", "p99_by_load.png", "a100-1_l4-1--steps--own-rate/course.png"] {
        assert!(folder.path().join("out/figures").join(figure).is_file(), "{figure}");
    }
}

#[test]
fn the_map_of_ratios_has_the_best_policy_first() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("s.toml"), SCENARIO).expect("written");
    let policies = "least-request,mooncake,prefix-cache";
    let sweep = ["sweep", "s.toml", "--out", "out", "--policies", policies];
    assert!(lodestar(folder.path(), &sweep).status.success());
    let summary = fs::read_to_string(folder.path().join("out/summary.csv")).expect("a table");
    let ratio_and_policy = |row: &str| {
        let fields: Vec<&str> = row.split(',').collect();
        (fields[5].parse::<f64>().expect("a ratio to the best"), fields[0].to_owned())
    };
    let mut ranked: Vec<_> = summary.lines().skip(1).map(ratio_and_policy).collect();
    ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
    let names: Vec<&str> = ranked.iter().map(|(_, policy)| policy.as_str()).collect();
    assert_ne!(names.join(","), policies, "the alphabet's order cannot be told from it");
    let map = fs::read_to_string(folder.path().join("out/figures/ttft_ratio.svg")).expect("a map");
    let places = names.iter().map(|name| map.find(name).expect("a column"));
    assert!(places.is_sorted(), "{names:?}");
}

#[test]
fn part_of_a_sweep_is_drawn_and_drawn_again_the_same() {
    let folder = swept();
    let first = report(folder.path());
    let out = folder.path().join("out");
    assert!(lodestar(folder.path(), &["plot", "out"]).status.success());
    assert!(report(folder.path()) == first, "the same runs gave another page");
    fs::remove_dir_all(out.join("runs/a100-1_l4-1--share9--4rps")).expect("removed");
    fs::remove_file(out.join("results.parquet")).expect("removed");
    assert!(lodestar(folder.path(), &["plot", "out", "--baseline", "random"]).status.success());
    let page = report(folder.path());
    check_nesting(&page);
    assert!(!page.contains("id=\"load\"") && page.contains("--baseline random"));
}

#[test]
fn several_sweeps_are_one_page_with_a_row_each() {
    let folder = swept();
    let sweep = [
        "sweep",
        "s.toml",
        "--out",
        "more/b",
        "--policies",
        "random,least-kv",
        "--baseline",
        "random",
    ];
    fs::create_dir(folder.path().join("more")).expect("made");
    assert!(lodestar(folder.path(), &sweep).status.success());
    fs::rename(folder.path().join("out"), folder.path().join("more/a")).expect("moved");
    assert!(lodestar(folder.path(), &["plot", "more"]).status.success());
    let page = fs::read_to_string(folder.path().join("more/report.html")).expect("a report");
    check_nesting(&page);
    for part in
        ["href=\"a/report.html\"", "href=\"b/report.html\"", "3 cells, 3 policies, seeds 1 to 2"]
    {
        assert!(page.contains(part), "no {part}");
    }
    assert!(
        page.contains("&lt;script&gt;alert(1)") && !page.contains("<script>alert"),
        "not escaped"
    );
    // Four policies, of which random has figures in both sweeps and comes first, however slow.
    assert_eq!(page.matches("<tr").count(), 1 + 4);
    let map = fs::read_to_string(folder.path().join("more/figures/ttft_ratio.svg")).expect("a map");
    let place = |name: &str| map.find(name).expect("a column");
    for other in ["prefix-cache", "mooncake", "least-kv"] {
        assert!(place("random") < place(other), "{other}");
    }
    let again = lodestar(folder.path(), &["plot", "more", "--baseline", "random"]);
    assert_eq!(again.status.code(), Some(2));
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(said.contains("--baseline has no effect on several sweeps"), "{said}");
    fs::write(folder.path().join("more/b/summary.csv"), "").expect("written");
    let damaged = lodestar(folder.path(), &["plot", "more"]);
    assert_eq!(damaged.status.code(), Some(2));
    let said = String::from_utf8_lossy(&damaged.stderr).into_owned();
    assert!(said.contains("more/b/summary.csv is damaged"), "{said}");
}

#[test]
fn a_replay_is_drawn_too_and_can_be_replaced_after_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace =
        "{\"lodestar_trace\":1}\n{\"id\":0,\"at_ns\":0,\"prompt\":\"h1:40\",\"output_tokens\":4}\n";
    fs::write(folder.path().join("t.jsonl"), trace).expect("written");
    let replay = [
        "replay",
        "t.jsonl",
        "--fleet",
        "l4:1,a100:1",
        "--policy",
        "random,round-robin",
        "--out",
        "out",
    ];
    assert!(lodestar(folder.path(), &replay).status.success());
    assert!(lodestar(folder.path(), &["plot", "out"]).status.success());
    let page = report(folder.path());
    check_nesting(&page);
    assert!(page.contains("lodestar replay TRACE --fleet l4:1,a100:1"), "the command");
    assert!(lodestar(folder.path(), &replay).status.success(), "the report is in the way");
}

#[test]
fn a_folder_of_which_no_report_can_be_made_is_exit_code_2() {
    let folder = swept();
    let item: PathBuf = folder.path().join("out/runs/a100-1_l4-1--share9--4rps/random/1.json");
    let whole = |path: &Path| fs::read(path).expect("a file");
    let good_item = whole(&item);
    let refused = |arguments: &[&str], part: &str| {
        let output = lodestar(folder.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(part) && said.lines().count() == 1, "{said}");
    };
    fs::create_dir(folder.path().join("empty")).expect("made");
    refused(&["plot", "absent"], "absent is not a folder: check the path");
    refused(&["plot", "empty"], "empty holds no runs of a sweep");
    refused(
        &["plot", "out", "--baseline", "least-kv"],
        "the baseline least-kv is not among the policies",
    );
    fs::write(&item, &good_item[..good_item.len() / 2]).expect("written");
    refused(&["plot", "out"], "random/1.json is damaged");
    fs::write(&item, &good_item).expect("written");
    // Whatever SHA256SUMS covers, and without it nothing is vouched for.
    let digests = folder.path().join("out/SHA256SUMS");
    let good_digests = whole(&digests);
    for name in ["results.parquet", "results.csv", "comparison.csv", "summary.csv"] {
        let table = folder.path().join("out").join(name);
        let good = whole(&table);
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        fs::write(&table, flipped).expect("written");
        refused(&["plot", "out"], &format!("{name} is damaged: SHA256SUMS says that"));
        fs::remove_file(&digests).expect("removed");
        refused(&["plot", "out"], "out has tables but no SHA256SUMS");
        fs::write(&digests, &good_digests).expect("written");
        fs::write(&table, good).expect("written");
    }
    // What the message advises.
    fs::remove_file(&digests).expect("removed");
    assert!(lodestar(folder.path(), &["merge", "out", "--out", "out"]).status.success());
    assert_eq!(whole(&digests), good_digests);
    fs::remove_dir_all(folder.path().join("out/figures")).expect("removed");
    fs::write(folder.path().join("out/figures"), "").expect("written");
    refused(&["plot", "out"], "cannot write the figure");
    assert_eq!(whole(&item), good_item, "a run was touched");
}

/// Says SKIPPED where there is no Chromium.
#[test]
fn a_report_opens_in_a_browser_and_its_tables_sort() {
    let folder = swept();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/check_report.sh");
    let output = Command::new("bash")
        .arg(script)
        .arg(folder.path().join("out/report.html"))
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("SKIPPED") || said.contains("ok a click sorts upwards"), "{said}");
}

//! A router's log is a trace and a measured log: what `replay --log` wrote, read by the other commands.

#![expect(
    clippy::unwrap_used,
    reason = "a test ends at the first surprise; clippy knows #[test] only"
)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;

/// The exit code, what was said, and what was complained about.
fn lodestar(folder: &Path, arguments: &str) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_lodestar"))
        .args(arguments.split(' '))
        .current_dir(folder)
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[track_caller]
fn run(folder: &Path, arguments: &str) -> String {
    let (code, stdout, stderr) = lodestar(folder, arguments);
    assert_eq!(code, 0, "{arguments}: {stderr}");
    stdout
}

/// A run of two instances in turn, and its log.
fn logged_run() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let generate = "trace generate t.jsonl --workload share28 --requests 300 --rate 6";
    run(folder.path(), generate);
    run(folder.path(), "replay t.jsonl --fleet a100:2 --policy round-robin --out o --log");
    folder
}

const LOG: &str = "o/round-robin/decisions.jsonl";

/// What `trace info` says of requests and lengths.
fn lengths(folder: &Path, trace: &str) -> Vec<String> {
    let info = run(folder, &format!("trace info {trace} --no-plot"));
    let names = ["requests ", "prompt ", "output "];
    let is_asked = |line: &&str| names.iter().any(|name| line.starts_with(name));
    let lines: Vec<String> = info.lines().filter(is_asked).map(str::to_owned).collect();
    assert_eq!(lines.len(), 3, "{info}");
    lines
}

#[test]
fn the_log_of_a_replay_replays_as_the_trace_did() {
    let folder = logged_run();
    let folder = folder.path();
    assert_eq!(lengths(folder, LOG), lengths(folder, "t.jsonl"));
    run(folder, &format!("replay {LOG} --fleet a100:2 --policy round-robin --out again"));
    let summary = |run: &str| fs::read_to_string(folder.join(run).join("summary.csv")).unwrap();
    let hits = summary("o").lines().nth(1).unwrap().split(',').nth_back(2).unwrap().to_owned();
    assert!(hits.parse::<f64>().unwrap() > 0.05, "prefixes are shared: {hits}");
    // Latencies and hits: the same requests reach the same instances at the same distances.
    assert_eq!(summary("again"), summary("o"));

    let said = run(folder, &format!("trace convert {LOG} converted.parquet"));
    assert!(
        said.starts_with("300 requests from Lodestar router log to Lodestar Parquet"),
        "{said}"
    );
    let mut packed =
        GzEncoder::new(File::create(folder.join("log.gz")).unwrap(), Compression::fast());
    std::io::copy(&mut File::open(folder.join(LOG)).unwrap(), &mut packed).unwrap();
    packed.finish().unwrap();
    assert_eq!(lengths(folder, "log.gz"), lengths(folder, LOG));
    let repeated = run(folder, "evaluate log.gz");
    assert_eq!(repeated, "round-robin: 300 of 300 decisions are equal\n");
}

#[test]
fn the_log_of_a_replay_is_predicted_and_fitted() {
    let folder = logged_run();
    let folder = folder.path();
    for log in [LOG, "o/round-robin"] {
        let said = run(folder, &format!("validate --log {log} --profile a100 --no-plot"));
        for latency in ["TTFT", "E2E"] {
            let row = said.lines().find(|line| line.starts_with(latency)).unwrap();
            // Name, measured ms, simulated ms, bias %, R2.
            let r2: f64 = row.split_whitespace().nth(7).unwrap().parse().unwrap();
            assert!(r2 > 0.999, "{said}");
        }
        let hits = said.lines().find(|line| line.starts_with("prefix hits")).unwrap();
        let (ours, theirs) = hits.split_once(" % of prompt tokens simulated, ").unwrap();
        assert_eq!(ours.split_whitespace().last(), theirs.split_whitespace().next(), "{hits}");
    }
    let fit = format!("calibrate requests --log {LOG} --start a100 --gpu mine --out mine.toml");
    let (code, _, stderr) = lodestar(folder, &fit);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.starts_with("error: a new GPU needs --memory-bytes"), "{stderr}");
    let said = run(folder, &format!("{fit} --memory-bytes 85000000000"));
    assert!(said.contains("profile  mine.toml"), "{said}");
    assert!(folder.join("mine.toml").exists());
}

#[test]
fn a_damaged_log_is_refused() {
    let folder = logged_run();
    let folder = folder.path();
    let log = fs::read_to_string(folder.join(LOG)).unwrap();
    let lines = log.lines().count();
    let start = log.lines().next().unwrap().to_owned() + "\n";
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("cut", &log[..log.len() - 9]);
    write("newer", &log.replacen("\"log_version\":1", "\"log_version\":2", 1));
    write("start", &start);
    write("empty", "");
    let cut = format!("cut, line {lines}: ");
    for (arguments, part) in [
        ("trace info cut", cut.as_str()),
        ("validate --profile a100 --log cut", &cut),
        ("trace info newer", "newer, line 1: `log_version` is format version 2"),
        ("validate --profile a100 --log newer", "newer, line 1: `log_version` is 2"),
        ("trace info start", "start: holds no request"),
        ("validate --profile a100 --log start", "start: the log has 0 usable rows"),
        ("trace info empty", "empty: holds no request"),
        ("validate --profile a100 --log empty", "empty: the log is empty"),
        ("validate --profile a100 --log .", ".: has no decisions.jsonl"),
    ] {
        let (code, _, stderr) = lodestar(folder, arguments);
        assert_eq!((code, stderr.lines().count()), (2, 1), "{arguments}: {stderr}");
        assert!(stderr.contains(part), "{arguments}: {stderr}");
    }
}

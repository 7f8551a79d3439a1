//! Every figure is drawn, says what it shows, and is the same every time.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use lodestar_plots::{
    CalibrationFigure, CalibrationPoint, TraceInfoFigure, calibration_figure, replay_figures,
    trace_figure,
};
use lodestar_router::PolicyConfig;
use lodestar_scenarios::{Replay, Results, Workload};
use lodestar_traces::{Arrival, Source, Span, TraceRequest};
use tempfile::tempdir;

const POLICIES: [&str; 2] = ["round-robin", "prefix-cache"];

/// Requests 100 ms apart on two unequal instances.
fn results() -> Results {
    let request = |id: u64| TraceRequest {
        id,
        arrival: Arrival::At { ns: id * 100_000_000 },
        prompt: vec![Span { source: Source::Hash(id % 5), start: 0, tokens: 400 }],
        output_tokens: 8,
        session: None,
        priority: 0,
        cache_salt: None,
    };
    let requests: Vec<_> = (0..200).map(request).collect();
    let policies = POLICIES.map(|name| PolicyConfig::from_name(name).expect("valid")).into();
    let fleet = "h100:1,l4:1".parse().expect("valid");
    let workload = Workload { name: "tiny <&> trace", read_options: None, requests: &requests };
    let replay = Replay::new(workload, fleet, "llama-3.1-8b", policies, 1).expect("valid");
    replay.run(None, &|_| ()).expect("valid").results
}

fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).expect("valid").map(|entry| entry.expect("valid"));
    entries
        .map(|entry| {
            (
                entry.file_name().into_string().expect("valid"),
                fs::read(entry.path()).expect("valid"),
            )
        })
        .collect()
}

/// Fails unless the figure is there twice, well-formed, and contains the texts.
fn check_figure(files: &BTreeMap<String, Vec<u8>>, name: &str, texts: &[&str]) {
    let png = &files[&format!("{name}.png")];
    assert!(
        png.starts_with(b"\x89PNG") && png.len() > 10_000,
        "{name}.png has {} bytes",
        png.len()
    );
    let svg = String::from_utf8(files[&format!("{name}.svg")].clone()).expect("valid");
    assert!(svg.starts_with("<svg width=") && svg.trim_end().ends_with("</svg>"), "{name}.svg");
    for text in texts {
        assert!(svg.contains(text), "{name}.svg does not say {text}");
    }
}

#[test]
fn figures_of_a_replay() {
    let results = results();
    let folder = tempdir().unwrap();
    replay_figures(&results, &folder.path().join("a/figures")).unwrap();
    let files = files_of(&folder.path().join("a/figures"));
    assert_eq!(files.len(), 10, "{:?}", files.keys());

    let scenario = "tiny &lt;&amp;&gt; trace (200 requests), llama-3.1-8b on 1 × h100 + 1 × l4 (l4 derived ±12 %), seed 1";
    let [first, second] = POLICIES;
    check_figure(
        &files,
        "ttft_cdf",
        &[scenario, first, second, "TTFT distribution", "share of requests"],
    );
    check_figure(
        &files,
        "ttft_over_time",
        &[scenario, first, second, "Median (p50)", "simulated time (s)"],
    );
    check_figure(&files, "queue_over_time", &[scenario, first, second, "waiting requests"]);
    check_figure(
        &files,
        "load",
        &[scenario, first, second, "h100-0", "l4-0", "KV cache in use", "100 %"],
    );
    check_figure(
        &files,
        "overview",
        &[scenario, first, second, "TTFT distribution", "h100-0", "l4-0"],
    );

    replay_figures(&results, &folder.path().join("b")).unwrap();
    assert!(files == files_of(&folder.path().join("b")), "the same results were drawn differently");
}

#[test]
fn the_figure_of_a_trace() {
    let info = TraceInfoFigure {
        name: "tiny".to_owned(),
        requests_per_minute: vec![120, 90, 0, 240],
        prompt_tokens: (1..400).collect(),
        output_tokens: (1..400).map(|n| n % 50 + 1).collect(),
        hit_ratio_by_capacity: vec![(100_000, 0.1), (1_000_000, 0.4), (10_000_000, 0.5)],
    };
    let folder = tempdir().unwrap();
    trace_figure(&info, &folder.path().join("trace")).unwrap();
    let texts =
        ["Trace tiny", "Arrivals", "Lengths", "prompt", "output", "Prefix hit ratio", "10M"];
    check_figure(&files_of(folder.path()), "trace", &texts);
}

#[test]
fn a_figure_of_nothing_is_still_a_figure() {
    let info = TraceInfoFigure {
        name: "empty".to_owned(),
        requests_per_minute: Vec::new(),
        prompt_tokens: Vec::new(),
        output_tokens: Vec::new(),
        hit_ratio_by_capacity: Vec::new(),
    };
    let folder = tempdir().unwrap();
    trace_figure(&info, &folder.path().join("trace")).unwrap();
    check_figure(&files_of(folder.path()), "trace", &["Trace empty"]);
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = replay_figures(&results(), &file).unwrap_err().to_string();
    assert!(error.starts_with("cannot write the figure"), "{error}");
}

#[test]
fn the_figure_of_a_calibration() {
    let point = |n: u32| CalibrationPoint {
        tokens: f64::from(n),
        measured_ms: f64::from(n + 10),
        predicted_ms: f64::from(n + 10) * (1.0 + f64::from(n % 7) / 100.0),
        has_prefill: n.is_multiple_of(2),
        has_decode: n.is_multiple_of(3) || !n.is_multiple_of(2),
        is_outlier: n.is_multiple_of(50),
    };
    let figure = CalibrationFigure {
        title: "Step times of a model on h100x4".to_owned(),
        subtitle: "a test".to_owned(),
        points: (1..500).map(point).collect(),
    };
    let folder = tempdir().unwrap();
    calibration_figure(&figure, &folder.path().join("fit")).unwrap();
    let texts = ["h100x4", "Residuals", "Fitted against measured", "mixed", "set aside"];
    check_figure(&files_of(folder.path()), "fit", &texts);
}

//! Logs of real clusters: what is read, what is refused, and how well they are predicted.

use std::fs;
use std::path::PathBuf;

use lodestar_scenarios::Fleet;
use lodestar_scenarios::validate::{
    Assessment, CachedTokens, LogFleet, MeasuredLog, Overhead, Prompts, assess,
};
use lodestar_sim::catalog::{self, MeasuredEngine};
use lodestar_traces::{ReadOptions, read_all};

const HEADER: &str = "arrival_ms,instance,prompt_tokens,cached_tokens,output_tokens,ttft_ms,end_ms";
const MODEL: &str = "llama-3.1-8b";

/// Twenty-four good rows, one of them replaced.
fn log_with(row: usize, line: &str) -> String {
    let good = |row: usize| format!("{},0,1000,0,10,180.5,{}", row * 1000, row * 1000 + 400);
    let rows = (1..=24).map(|at| if at == row { line.to_owned() } else { good(at) });
    rows.fold(HEADER.to_owned(), |text, row| text + "\n" + &row)
}

fn error_of(text: &str) -> String {
    MeasuredLog::parse(text.as_bytes()).expect_err("not a log").to_string()
}

#[test]
fn a_bad_cell_is_named_by_row_and_column() {
    for (line, expected) in [
        ("7000,0,1000,0,10,NaN,7400", "row 7, column `ttft_ms`: \"NaN\" is not a finite number"),
        ("7000,0,1000,0,10,-5,7400", "row 7, column `ttft_ms`: \"-5\" is a negative duration"),
        (
            "7000,0,1000,0,10,0,7400",
            "row 7, column `ttft_ms`: \"0\" says that the first token took no",
        ),
        (
            "7000,0,1000,0,10,180,6999",
            "row 7, column `end_ms`: \"6999\" is before the request arrived",
        ),
        (
            "7000,0,1000,0,10,180,7100",
            "row 7, column `end_ms`: \"7100\" ends the request before its",
        ),
        (
            "7000,0,1e3,0,10,180,7400",
            "row 7, column `prompt_tokens`: \"1e3\" is not a number of tokens",
        ),
        (
            "7000,0,1000,1001,10,180,7400",
            "row 7, column `cached_tokens`: \"1001\" is more than the",
        ),
        ("7000, ,1000,0,10,180,7400", "row 7, column `instance`: \"\" names no instance"),
        ("7000,0,1000,0,10,180", "row 7: "),
    ] {
        let error = error_of(&log_with(7, line));
        assert!(error.starts_with(expected), "{error}");
        assert!(error.contains(';'), "says what to do: {error}");
    }
}

#[test]
fn a_header_without_what_is_needed_is_refused() {
    let without = |name: &str, other: &str| error_of(&log_with(0, "").replace(name, other));
    let error = without("ttft_ms", "latency");
    assert!(error.starts_with("no column has the time to first token: name one"), "{error}");
    let error = without("instance", "host");
    assert!(error.starts_with("no column has the instance: name one of"), "{error}");
    let error = without("ttft_ms", "ttft");
    assert!(error.starts_with("column `ttft`: the unit of this time is not known"), "{error}");
    let error = without("end_ms", "end_minutes");
    assert!(error.starts_with("column `end_minutes`: the unit"), "{error}");
    assert!(error_of("").starts_with("the log is empty"));
}

#[test]
fn too_few_rows_are_refused_and_failed_requests_left_out() {
    let text = log_with(7, "7000,0,0,0,0,0,7010");
    let log = MeasuredLog::parse(text.as_bytes()).unwrap();
    assert_eq!(log.requests.len(), 23);
    assert_eq!(log.notes, ["row 7 has no prompt or no output and was left out"]);
    let short: Vec<&str> = text.lines().take(12).collect();
    let error = error_of(&short.join("\n"));
    assert!(error.starts_with("the log has 10 usable rows and 20 are needed"), "{error}");
}

#[test]
fn units_are_those_of_the_columns_and_json_is_a_log_too() {
    let csv = MeasuredLog::parse(log_with(0, "").as_bytes()).unwrap();
    let json = (1..=24).map(|row| {
        let (start, end) = (f64::from(row), f64::from(row) + 0.4);
        format!(
            "{{\"arrival_s\": {start}, \"pod\": \"0\", \"input_tokens\": 1000, \"cached_tokens\": 0, \
             \"output_tokens\": 10, \"ttft_us\": 180500, \"end_s\": {end:.1}}}\n"
        )
    });
    let json = MeasuredLog::parse(json.collect::<String>().as_bytes()).unwrap();
    for (a, b) in csv.requests.iter().zip(&json.requests) {
        assert!((a.e2e_ms - b.e2e_ms).abs() < 1e-6 && (a.ttft_ms - b.ttft_ms).abs() < 1e-9);
        assert_eq!((a.arrival_ns, a.prompt_tokens), (b.arrival_ns, b.prompt_tokens));
    }
}

#[test]
fn an_instance_that_is_not_in_the_fleet_is_named() {
    let log = MeasuredLog::parse(log_with(7, "7000,9,1000,0,10,180,7400").as_bytes()).unwrap();
    let fleet: Fleet = "l20:7".parse().unwrap();
    let error = LogFleet::of_fleet(&log, &fleet, MODEL, MeasuredEngine::default())
        .expect_err("there is no instance 9")
        .to_string();
    assert!(
        error.starts_with("row 7, column `instance`: instance \"9\" is not in the fleet l20:7"),
        "{error}"
    );
}

/// A file of measurements that the repository does not hold; `None` says so.
fn measured(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data").join(path);
    if path.exists() {
        return Some(path);
    }
    #[expect(clippy::print_stderr, reason = "a test that was skipped must say so")]
    {
        eprintln!("SKIPPED: {} is not here", path.display());
    }
    None
}

fn assess_log(text: &[u8], profile: &str, prompts: Option<&Prompts>) -> Assessment {
    let log = MeasuredLog::parse(text).expect("a log");
    let profile = catalog::profile(profile).expect("in the catalog");
    let fleet =
        LogFleet::of_profile(&log, &profile, MODEL, MeasuredEngine::default()).expect("a fleet");
    assess(&log, prompts, &fleet, Overhead::Estimated).expect("a replay")
}

/// Least R2 of TTFT, most median error of TTFT, least correlation of E2E.
#[test]
fn l20_logs_are_predicted() {
    for (name, rows, r2, median_error, correlation) in [
        ("share9_rl", 2492, 0.80, 0.048, 0.97),
        ("share71_prefix", 1101, 0.82, 0.060, 0.95),
        ("may25_p2048mix_prefixload", 1199, 0.94, 0.055, 0.98),
    ] {
        let Some(path) = measured(&format!("lodestar/l20_replay_{name}.csv")) else { return };
        let text = fs::read(path).unwrap();
        assert_eq!(MeasuredLog::parse(&text).unwrap().cached, CachedTokens::Estimated);
        let assessment = assess_log(&text, "l20", None);
        let validation = assessment.best();
        let (ttft, e2e) = (validation.ttft(), validation.e2e());
        assert_eq!(ttft.requests, rows);
        assert!(ttft.r2 > r2, "{name}: {ttft:?}");
        assert!(ttft.median_error < median_error, "{name}: {ttft:?}");
        assert!(e2e.correlation > correlation, "{name}: {e2e:?}");
        if let Some(corrected) = &assessment.corrected {
            // What was learned from some rows helps to predict the others.
            let unseen = corrected.unseen();
            assert_eq!(unseen.pairs.len() + corrected.rows.len(), rows);
            assert!(unseen.ttft().r2 > r2 - 0.02, "{name}: {:?}", unseen.ttft());
        }
    }
}

#[test]
fn preemptions_on_an_rtx4090_are_predicted() {
    let log = measured("gpu/llmservingsim/RTX4090_Llama-3.1-8B_vllm_requests.jsonl.gz");
    let trace = measured("traces/sharegpt_llmservingsim/sharegpt-llama-3.1-8b-300-sps10.jsonl.gz");
    let (Some(log), Some(trace)) = (log, trace) else { return };
    let mut text = Vec::new();
    let file = fs::File::open(log).unwrap();
    std::io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(file), &mut text).unwrap();
    let trace = read_all(&trace, &ReadOptions::default()).unwrap().requests;
    let prompts = trace.into_iter().map(|request| request.prompt).collect();
    let prompts = Prompts { prompts, primers: Vec::new() };
    for prompts in [None, Some(&prompts)] {
        let assessment = assess_log(&text, "rtx4090", prompts);
        let validation = assessment.best();
        assert!(validation.preemptions > 150, "{}", validation.preemptions);
        let (ttft, tpot) = (validation.ttft(), validation.tpot().unwrap());
        assert!(ttft.mean_bias().abs() < 0.02, "{ttft:?}");
        assert!(tpot.mean_bias().abs() < 0.03, "{tpot:?}");
    }
}

//! Logs of real clusters: what is read, what is refused, and how well they are predicted.

use std::fs;
use std::path::{Path, PathBuf};

use lodestar_scenarios::Fleet;
use lodestar_scenarios::decisions::LogReader;
use lodestar_scenarios::validate::{
    Assessment, CachedTokens, ClockAt, Corrected, LogError, LogFleet, MeasuredLog, Overhead,
    Prompts, assess, prompts_of,
};
use lodestar_sim::catalog::{self, MeasuredEngine};
use lodestar_traces::{ReadOptions, Source, Span, read_all};

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
        ("1e30,0,1000,0,10,400,7400", "row 7, column `arrival_ms`: \"1e30\" is more than 73 years"),
        (
            "7000,0,4294967295,0,10,400,7400",
            "row 7, column `prompt_tokens`: \"4294967295\" is more than the 16,777,216 tokens",
        ),
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
    let error = without("end_ms", "ttft_ms");
    assert!(error.starts_with("the log's first line: two columns are called `ttft_ms`"), "{error}");
    let error = log_with(0, "").replace(',', ";");
    assert!(error_of(&error).starts_with("the log's first line: semicolons separate"));
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
            "{{\"arrival_s\": {start}, \"pod\": \"0\", \"input_tokens\": 1000.0, \"cached_tokens\": 0, \
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

/// Routed by a router at that millisecond to that instance; a prompt of 40 tokens with two blocks of 16.
fn route(at_ms: u64, id: usize, instance: u32) -> String {
    format!(
        "{{\"route\":{{\"now\":{at_ms}000000,\"request\":{{\"id\":{id},\"prompt_tokens\":40,\"block_hashes\":\
         \"00000000000000a1{id:016x}\",\"priority\":0}},\"answer\":{{\"Ok\":{{\"instance\":{instance},\"reason\":\
         \"random\",\"explored\":false,\"propensity\":0.5,\"prefix_hit_tokens\":0,\"candidates\":[]}}}}}}}}\n"
    )
}

fn observe(at_ms: u64, event: &str) -> String {
    format!("{{\"observe\":{{\"now\":{at_ms}000000,\"event\":{event}}}}}\n")
}

fn first_token(at_ms: u64, id: usize) -> String {
    observe(at_ms, &format!("{{\"first_token\":{{\"request\":{id}}}}}"))
}

fn finished(at_ms: u64, id: usize, prompt_tokens: u32, cached: &str) -> String {
    let usage = format!(
        "{{\"prompt_tokens\":{prompt_tokens},\"cached_tokens\":{cached},\"output_tokens\":5}}"
    );
    observe(at_ms, &format!("{{\"finished\":{{\"request\":{id},\"usage\":{usage}}}}}"))
}

/// Twenty-four requests, a second between them, and then these entries.
fn router_log(cached: &str, more: &[String]) -> Result<MeasuredLog, LogError> {
    let mut text =
        "{\"start\":{\"log_version\":1,\"router_version\":\"0.1.0\",\"config\":{\"policy\":\
        {\"name\":\"random\"},\"block_tokens\":16},\"seed\":1}}\n"
            .to_owned();
    for id in 0..24 {
        let at_ms = 500 + id as u64 * 1000;
        text += &route(at_ms, id, 7 * (id as u32 % 2));
        text += &first_token(at_ms + 120, id);
        text += &finished(at_ms + 300, id, 40, cached);
    }
    let text = text + &more.concat();
    assert!(LogReader::is_begun_by(text.as_bytes()));
    let log =
        LogReader::of_bytes(Path::new("log"), text.into_bytes()).map_err(LogError::RouterLog)?;
    MeasuredLog::of_router_log(log)
}

#[test]
fn a_routers_log_is_a_measured_one() {
    let log = router_log("16", &[]).expect("a log");
    assert_eq!((log.cached, log.clock_at), (CachedTokens::Recorded, ClockAt::Gateway));
    assert_eq!((&log.instances[..], log.notes.len()), (&["0".to_owned(), "7".to_owned()][..], 0));
    let third = &log.requests[2];
    assert_eq!((third.row, third.arrival_ns, third.instance), (3, 2_000_000_000, 0));
    assert_eq!((third.prompt_tokens, third.cached_tokens, third.output_tokens), (40, 16, 5));
    assert!((third.ttft_ms - 120.0).abs() < 1e-9 && (third.e2e_ms - 300.0).abs() < 1e-9);
    let span = |source, tokens| Span { source, start: 0, tokens };
    let expected =
        [span(Source::Hash(0xa1), 16), span(Source::Hash(2), 16), span(Source::Private(2), 8)];
    assert_eq!(prompts_of(&log).prompts[2], expected);
    let unknown = router_log("null", &[]).expect("a log");
    assert_eq!((unknown.cached, unknown.requests[2].cached_tokens), (CachedTokens::Unknown, 0));
}

#[test]
fn a_request_that_was_routed_twice_counts_where_it_was_answered_and_from_then_on() {
    let failed = observe(30_050, "{\"dispatch_failed\":{\"request\":30}}");
    let more = [route(30_000, 30, 0), failed, route(30_100, 30, 7), first_token(30_180, 30)];
    let unseen = [route(31_000, 31, 0), finished(31_500, 31, 40, "0")];
    let aborted = [route(32_000, 32, 0), first_token(32_100, 32)];
    let log =
        router_log("0", &[&more[..], &[finished(30_400, 30, 39, "0")], &unseen, &aborted].concat());
    let log = log.expect("a log");
    let last = &log.requests[24..];
    assert_eq!((last.len(), last[0].row, last[0].instance), (1, 26, 1));
    assert_eq!((last[0].arrival_ns, last[0].prompt_tokens), (29_600_000_000, 39));
    assert!((last[0].ttft_ms - 80.0).abs() < 1e-9 && (last[0].e2e_ms - 300.0).abs() < 1e-9);
    let note = "3 of 28 decisions led to no answer, or to one whose first token the router did not see, and were \
                left out";
    assert_eq!(log.notes, [note]);
}

#[test]
fn damage_in_a_routers_log_is_named() {
    let error = |more: &[String]| router_log("0", more).expect_err("damage").to_string();
    let answered = |id, prompt, cached| {
        [route(40_000, id, 0), first_token(40_100, id), finished(40_200, id, prompt, cached)]
            .concat()
    };
    let message = error(&[answered(30, 40, "41")]);
    assert!(
        message.starts_with("row 25, column `cached_tokens`: \"41\" is more than"),
        "{message}"
    );
    let message = error(&[answered(30, 99_999_999, "0")]);
    assert!(message.starts_with("row 25, column `prompt_tokens`: \"99999999\""), "{message}");
    let message = error(&["{\"observe\":{\"now".to_owned()]);
    assert!(message.starts_with("log, line 74: EOF while parsing"), "{message}");
    let late = answered(30, 40, "0").replace("\"now\":", "\"now\":99999999");
    let message = error(&[late]);
    assert!(message.starts_with("row 25, column `now`: \"9999999940000"), "{message}");
    let message = error(&[route(40_000, 30, 0).replace("_tokens\":40", "_tokens\":31")]);
    assert!(message.starts_with("log, line 74: `block_hashes` are of 32 tokens"), "{message}");
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

/// Least R2 of TTFT, most median error of TTFT, least correlation of E2E, of all rows; and least R2 of TTFT of
/// the rows that were not corrected.
#[test]
fn l20_logs_are_predicted() {
    for (name, rows, r2, median_error, correlation, r2_unseen) in [
        ("share9_rl", 2492, 0.80, 0.048, 0.97, 0.80),
        ("share71_prefix", 1101, 0.75, 0.060, 0.95, 0.84),
        ("may25_p2048mix_prefixload", 1199, 0.87, 0.055, 0.98, 0.95),
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
            assert!(unseen.ttft().r2 > r2_unseen, "{name}: {:?}", unseen.ttft());
        }
    }
}

/// Prompts of 8,000 tokens and, two seconds behind every other one, one that the gateway took for new.
fn log_with_wrong_guesses(ttft_of_the_first_ms: f64) -> MeasuredLog {
    let mut text =
        "arrival_ms,instance,prompt_tokens,cached_percent,output_tokens,ttft_ms,e2e_ms".to_owned();
    for row in 0..24 {
        let at = row / 2 * 10_000 + row % 2 * 2_000;
        let ttft = match row {
            1 => ttft_of_the_first_ms,
            _ if row % 2 == 1 => 150.0,
            _ => 1200.0,
        };
        text += &format!("\n{at},0,8000,0,1,{ttft},{ttft}");
    }
    MeasuredLog::parse(text.as_bytes()).expect("a log")
}

#[test]
fn a_row_that_cannot_be_true_is_predicted_without_its_own_ttft() {
    let assessed = |ttft_ms| {
        let log = log_with_wrong_guesses(ttft_ms);
        let profile = catalog::profile("l20").expect("in the catalog");
        let settings = MeasuredEngine::default();
        let fleet = LogFleet::of_profile(&log, &profile, MODEL, settings).expect("a fleet");
        let assessment = assess(&log, None, &fleet, Overhead::Given(0.0)).expect("a replay");
        assessment.corrected.expect("answered sooner than an idle instance could")
    };
    let (slow, fast) = (assessed(300.0), assessed(60.0));
    assert_eq!(slow.rows, (1..=12).map(|pair| 2 * pair).collect::<Vec<_>>());
    let simulated =
        |of: &Corrected| of.validation.pairs.iter().map(|pair| pair.ttft_ms.1).collect();
    let (slow, fast): (Vec<f64>, Vec<f64>) = (simulated(&slow), simulated(&fast));
    assert_eq!(slow, fast);
    // As the log claims it: nothing was cached.
    assert!(slow.iter().all(|ttft_ms| (ttft_ms / slow[0] - 1.0).abs() < 0.01), "{slow:?}");
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

//! The statistics of published traces, against a table made by an independent program.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};

use lodestar_traces::stats::LengthStats;
use lodestar_traces::{Format, ReadOptions, Spread, Trace, TraceRequest, TraceStats, read_all};

use crate::support::published;

/// `found` is `expected` to the digits that are written.
#[track_caller]
fn is(found: f64, expected: &str) {
    let decimals = expected.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let unit = 10f64.powi(-i32::try_from(decimals).unwrap());
    let value: f64 = expected.parse().unwrap();
    assert!((found - value).abs() <= 0.5001 * unit, "{found} is not {expected}");
}

/// Mean, median and 99th percentile.
#[track_caller]
fn lengths_are(lengths: &LengthStats, expected: [&str; 3]) {
    let found = [lengths.mean(), lengths.quantile(0.5), lengths.quantile(0.99)];
    for (found, expected) in found.into_iter().zip(expected) {
        is(found, expected);
    }
}

fn as_recorded(name: &str) -> Option<Trace> {
    let options = ReadOptions { spread: Spread::Off, ..ReadOptions::default() };
    Some(read_all(published(name)?, &options).unwrap())
}

#[test]
fn mooncake_conversation() {
    let Some(trace) = as_recorded("mooncake/conversation_trace.jsonl.gz") else { return };
    assert_eq!(trace.format, Format::Mooncake);
    let stats = TraceStats::of(&trace.requests);
    assert_eq!(stats.requests, 12_031);
    let arrivals = &stats.arrivals;
    is(arrivals.span_s, "3537");
    is(arrivals.rate_rps.unwrap(), "3.40");
    is(arrivals.gap_cv.unwrap(), "3.03");
    is(arrivals.idc_1s.unwrap(), "7.9");
    is(arrivals.idc_60s.unwrap(), "2.9");
    is(arrivals.peak_to_mean_minute.unwrap(), "1.21");
    lengths_are(&stats.prompt_tokens, ["12035", "6909", "85400"]);
    lengths_are(&stats.output_tokens, ["343", "350", "1119"]);
    let reuse = &stats.reuse;
    assert_eq!((reuse.block_tokens, reuse.distinct_blocks), (512, 182_790));
    is(reuse.block_hit_ratio, "0.366");
    is(reuse.infinite_token_hit_ratio(), "0.374");
    is(reuse.requests_over_half, "0.29");
    is(reuse.requests_over_nine_tenths, "0.13");
    for (cache_tokens, expected) in [
        (200_000, "0.043"),
        (500_000, "0.045"),
        (1_000_000, "0.054"),
        (3_000_000, "0.138"),
        (10_000_000, "0.291"),
        (u64::MAX, "0.374"),
    ] {
        is(reuse.token_hit_ratio(cache_tokens), expected);
    }
}

#[test]
fn mooncake_conversation_is_spread_inside_its_ticks() {
    let Some(path) = published("mooncake/conversation_trace.jsonl.gz") else { return };
    let arrivals = [0, 1, 2, 3, 4, 5, 6, 7].map(|seed| {
        let trace = read_all(&path, &ReadOptions { seed, ..ReadOptions::default() }).unwrap();
        assert!(trace.notes[0].contains("ticks every 3 s"), "{:?}", trace.notes);
        TraceStats::of(&trace.requests).arrivals
    });
    // The table's jitter is one draw; one draw of ours deviates by about 0.01 and 0.02.
    let mean_cv = arrivals.iter().map(|arrivals| arrivals.gap_cv.unwrap()).sum::<f64>() / 8.0;
    let mean_idc = arrivals.iter().map(|arrivals| arrivals.idc_1s.unwrap()).sum::<f64>() / 8.0;
    assert!((mean_cv - 1.02).abs() < 0.015, "{mean_cv}");
    assert!((mean_idc - 1.08).abs() < 0.06, "{mean_idc}");
}

#[test]
fn millisecond_clocks_are_left_alone() {
    let Some(path) = published("bench/t10k_8r.mooncake.jsonl.gz") else { return };
    let trace = read_all(&path, &ReadOptions::default()).unwrap();
    assert_eq!(trace.requests, as_recorded("bench/t10k_8r.mooncake.jsonl.gz").unwrap().requests);
    assert_eq!(trace.requests.len(), 10_000);
    assert_eq!(trace.notes, [""; 0]);
}

#[test]
fn azure_code() {
    let Some(trace) = as_recorded("azure2023/AzureLLMInferenceTrace_code.csv.gz") else { return };
    let stats = TraceStats::of(&trace.requests);
    assert_eq!(stats.requests, 8_819);
    let arrivals = &stats.arrivals;
    is(arrivals.span_s, "3436");
    is(arrivals.rate_rps.unwrap(), "2.57");
    is(arrivals.gap_cv.unwrap(), "13.2");
    is(arrivals.idc_1s.unwrap(), "13.2");
    is(arrivals.idc_60s.unwrap(), "164");
    is(arrivals.peak_to_mean_minute.unwrap(), "4.18");
    lengths_are(&stats.prompt_tokens, ["2048", "1469", "7436"]);
    lengths_are(&stats.output_tokens, ["28", "13", "251"]);
    is(stats.reuse.infinite_token_hit_ratio(), "0.000");
}

#[test]
fn azure_conversation() {
    let Some(trace) = as_recorded("azure2023/AzureLLMInferenceTrace_conv.csv.gz") else { return };
    let stats = TraceStats::of(&trace.requests);
    assert_eq!(stats.requests, 19_366);
    let arrivals = &stats.arrivals;
    is(arrivals.span_s, "3502");
    is(arrivals.rate_rps.unwrap(), "5.53");
    is(arrivals.gap_cv.unwrap(), "1.09");
    is(arrivals.idc_1s.unwrap(), "1.39");
    is(arrivals.idc_60s.unwrap(), "16.1");
    is(arrivals.peak_to_mean_minute.unwrap(), "1.52");
    lengths_are(&stats.prompt_tokens, ["1155", "1020", "4142"]);
    lengths_are(&stats.output_tokens, ["211", "129", "601"]);
}

#[test]
fn sharegpt() {
    let Some(trace) =
        as_recorded("sharegpt_llmservingsim/sharegpt-llama-3.1-8b-300-sps10.jsonl.gz")
    else {
        return;
    };
    let stats = TraceStats::of(&trace.requests);
    assert_eq!((trace.format, stats.requests), (Format::ShareGpt, 300));
    is(stats.arrivals.span_s, "29");
    is(stats.arrivals.rate_rps.unwrap(), "10.3");
    is(stats.arrivals.gap_cv.unwrap(), "0.94");
    // The median is 731.5, which the table rounds up.
    lengths_are(&stats.prompt_tokens, ["857", "732", "2765"]);
    lengths_are(&stats.output_tokens, ["653", "632", "784"]);
}

/// The table describes all 54 rows; three of them failed, and are not requests to us.
#[test]
fn burstgpt() {
    let Some(path) = published("burstgpt/burstgpt_first54.csv") else { return };
    let mut reader = lodestar_traces::open(path).unwrap();
    let requests: Vec<_> = reader.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!((requests.len(), reader.skipped_rows()), (51, 3));
    let prompts = requests.iter().map(TraceRequest::prompt_tokens).chain([0, 0, 612]).collect();
    let outputs = requests.iter().map(|request| request.output_tokens).chain([0, 0, 0]).collect();
    lengths_are(&prompts, ["540", "480", "1550"]);
    lengths_are(&outputs, ["340", "292", "1532"]);
}

/// Not a trace: lengths without arrivals.
#[test]
fn arxiv_summarization_lengths() {
    let Some(text) = text_of("vidur_processed/arxiv_summarization_stats_llama2.csv.gz") else {
        return;
    };
    let column = |index: usize| -> LengthStats {
        text.lines()
            .skip(1)
            .map(|row| row.split(',').nth(index).unwrap().parse().unwrap())
            .collect()
    };
    assert_eq!(column(0).sorted().len(), 28_257);
    lengths_are(&column(0), ["2588", "2730", "3933"]);
    lengths_are(&column(1), ["291", "167", "3271"]);
}

#[test]
fn burstgpt_replayed_lengths() {
    let Some(text) = text_of("burstgpt/burstgpt_replay_lengths500.csv") else { return };
    let sampled = |row: &str| row.split(',').nth(1).unwrap().parse::<u32>().unwrap();
    lengths_are(&text.lines().skip(1).map(sampled).collect(), ["430", "320", "1023"]);
}

/// Not a trace: the rates of clients in windows of ten minutes.
#[test]
fn servegen_client_rates() {
    let Some(text) = text_of("servegen/client_rates.csv.gz") else { return };
    let fleets = [
        ("m-large", 162, ["195.8", "48.35", "582.99", "3.45", "3.0"], [0.16, 0.43, 0.63]),
        ("m-mid", 108, ["1868", "0.94", "3445", "12.0", "1.8"], [0.52, 0.67, 0.79]),
        ("m-small", 43, ["1196", "391", "3880", "3.58", "3.2"], [0.30, 0.77, 0.93]),
        ("deepseek-r1", 73, ["16", "4.3", "42.5", "2.28", "2.7"], [0.29, 0.52, 0.68]),
    ];
    for (model, clients, rates, top_shares) in fleets {
        let fleet = Fleet::parse(&text, model);
        assert_eq!(fleet.by_client.len(), clients, "{model}");
        let by_window: Vec<f64> = fleet.by_window.into_values().collect();
        let mean = by_window.iter().sum::<f64>() / by_window.len() as f64;
        let (low, high) = by_window
            .iter()
            .fold((f64::MAX, 0f64), |(low, high), &rate| (low.min(rate), high.max(rate)));
        let cv = fleet.rate_times_cv / fleet.by_client.values().sum::<f64>();
        for (found, expected) in [mean, low, high, cv, high / mean].into_iter().zip(rates) {
            is(found, expected);
        }
        let mut loads: Vec<f64> = fleet.by_client.into_values().collect();
        loads.sort_by(|a, b| b.total_cmp(a));
        for (top, expected) in [1, 5, 10].into_iter().zip(top_shares) {
            let share = loads[..top].iter().sum::<f64>() / loads.iter().sum::<f64>();
            assert!((share - expected).abs() < 0.0051, "{model}: top {top} have {share}");
        }
    }
}

/// Request rates of one model, summed over windows and over clients.
#[derive(Default)]
struct Fleet {
    by_window: BTreeMap<u64, f64>,
    by_client: BTreeMap<u64, f64>,
    rate_times_cv: f64,
}

impl Fleet {
    fn parse(text: &str, model: &str) -> Self {
        let mut fleet = Self::default();
        for row in text.lines().filter(|row| row.split(',').next() == Some(model)) {
            let columns: Vec<&str> = row.split(',').collect();
            let number = |column: usize| columns[column].parse::<f64>().unwrap();
            let rate_rps = number(3);
            *fleet.by_client.entry(columns[1].parse().unwrap()).or_default() += rate_rps;
            *fleet.by_window.entry(columns[2].parse().unwrap()).or_default() += rate_rps;
            fleet.rate_times_cv += rate_rps * number(4);
        }
        fleet
    }
}

fn text_of(name: &str) -> Option<String> {
    let file = File::open(published(name)?).unwrap();
    let mut text = String::new();
    let read = if name.ends_with(".gz") {
        flate2::read::GzDecoder::new(file).read_to_string(&mut text)
    } else {
        BufReader::new(file).read_to_string(&mut text)
    };
    read.map(|_| text).ok()
}

//! What reading options do to a trace, and what the notes say about it.

use lodestar_traces::{
    Arrival, Format, OverLong, ReadOptions, SharedPrefix, Source, Span, Spread, Trace,
    TraceRequest, read_all, write,
};

use crate::support::{Folder, hash, private};

/// One request a second, of 100, 200, 300 ... tokens, the answer a tenth of that.
fn azure(requests: u64) -> String {
    let row = |i| {
        format!("2023-11-16 18:{:02}:{:02}.5,{},{}\n", i / 60, i % 60, 100 * (i + 1), 10 * (i + 1))
    };
    "TIMESTAMP,ContextTokens,GeneratedTokens\n".to_owned()
        + &(0..requests).map(row).collect::<String>()
}

fn read(text: &str, options: &ReadOptions) -> Result<Trace, String> {
    let folder = Folder::new();
    read_all(folder.file("trace", text), options).map_err(|error| error.to_string())
}

fn times_ns(trace: &Trace) -> Vec<u64> {
    let ns = |request: &TraceRequest| match request.arrival {
        Arrival::At { ns } => ns,
        Arrival::After { .. } => panic!("every request has a time"),
    };
    trace.requests.iter().map(ns).collect()
}

#[track_caller]
fn notes_say(trace: &Trace, parts: &[&str]) {
    assert_eq!(trace.notes.len(), parts.len(), "{:?}", trace.notes);
    for (note, part) in trace.notes.iter().zip(parts) {
        assert!(note.contains(part), "{note:?} does not contain {part:?}");
    }
}

const S: u64 = 1_000_000_000;

#[test]
fn the_default_changes_nothing() {
    let trace = read(&azure(4), &ReadOptions::default()).unwrap();
    assert_eq!(trace.format, Format::Azure);
    assert_eq!(times_ns(&trace), [0, S, 2 * S, 3 * S]);
    notes_say(&trace, &["nothing about prompt contents"]);
}

#[test]
fn window_limit_and_rate() {
    let options = ReadOptions {
        window: Some("2s..6s".parse().unwrap()),
        limit: Some(3),
        rate_scale: 2.0,
        ..ReadOptions::default()
    };
    let trace = read(&azure(10), &options).unwrap();
    assert_eq!(times_ns(&trace), [0, S / 2, S]);
    assert_eq!(trace.requests[0].prompt_tokens(), 300);
    notes_say(
        &trace,
        &["kept the window 2s..6s", "first 3 requests", "nothing about", "multiplied by 2"],
    );
}

#[test]
fn long_requests_are_clipped_or_dropped() {
    let limits = ReadOptions {
        max_prompt_tokens: Some(250),
        max_output_tokens: Some(15),
        ..ReadOptions::default()
    };
    let clipped = read(&azure(3), &limits).unwrap();
    let lengths = |trace: &Trace| -> Vec<_> {
        trace
            .requests
            .iter()
            .map(|request| (request.prompt_tokens(), request.output_tokens))
            .collect()
    };
    assert_eq!(lengths(&clipped), [(100, 10), (200, 15), (250, 15)]);
    notes_say(&clipped, &["clipped 2 requests", "nothing about"]);
    let dropped = read(&azure(3), &ReadOptions { over_long: OverLong::Drop, ..limits }).unwrap();
    assert_eq!(lengths(&dropped), [(100, 10)]);
    notes_say(&dropped, &["left out 2 requests", "nothing about"]);
}

#[test]
fn sharing_can_be_invented_but_not_over_what_is_recorded() {
    let shared = SharedPrefix { tokens: 150, groups: 2, fraction: 0.5 };
    let options = ReadOptions { shared_prefix: Some(shared), ..ReadOptions::default() };
    let trace = read(&azure(400), &options).unwrap();
    let lengths: Vec<u32> = trace.requests.iter().map(TraceRequest::prompt_tokens).collect();
    assert_eq!(lengths, (1..=400).map(|i| 100 * i).collect::<Vec<_>>());
    let begins_with = |group: u64| {
        let source = Source::Hash(u64::MAX - group);
        let begins = |request: &&TraceRequest| request.prompt[0].source == source;
        trace.requests.iter().filter(begins).count()
    };
    for group in [0, 1] {
        assert!(begins_with(group).abs_diff(100) < 35, "group {group}: {}", begins_with(group));
    }
    let first = trace.requests.iter().find(|request| request.prompt.len() == 2).unwrap();
    assert_eq!(first.prompt[0].tokens + first.prompt[1].tokens, first.prompt_tokens());
    assert!(first.prompt[0].tokens <= 150 && first.prompt[1].tokens > 0);

    let recorded = r#"{"timestamp": 0, "input_length": 9, "output_length": 5, "hash_ids": [0]}"#;
    assert!(read(recorded, &options).unwrap_err().contains("`shared_prefix` changed nothing"));
}

#[test]
fn coarse_clocks_are_spread_in_order_and_the_same_way_each_time() {
    let row = |i: u64| {
        format!(
            "{{\"timestamp\": {}, \"input_length\": {}, \"output_length\": 5}}\n",
            i / 10 * 3000,
            i + 1
        )
    };
    let text: String = (0..600).map(row).collect();
    let trace = read(&text, &ReadOptions::default()).unwrap();
    let times = times_ns(&trace);
    assert!(times.is_sorted());
    for (time_ns, i) in times.iter().zip(0u64..) {
        assert_eq!(time_ns / (3 * S), i / 10, "every request stays in its tick");
    }
    let distinct = times.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert_eq!(distinct, 599);
    notes_say(&trace, &["ticks every 3 s", "nothing about"]);
    assert!(trace.requests.iter().map(TraceRequest::prompt_tokens).is_sorted());

    assert_eq!(read(&text, &ReadOptions::default()).unwrap().requests, trace.requests);
    let other_seed = ReadOptions { seed: 1, ..ReadOptions::default() };
    assert_ne!(times_ns(&read(&text, &other_seed).unwrap()), times);
    let off = ReadOptions { spread: Spread::Off, ..ReadOptions::default() };
    assert_eq!(times_ns(&read(&text, &off).unwrap())[..11], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3 * S]);
    // A limit takes the same requests at the same times.
    let limited = ReadOptions { limit: Some(77), ..ReadOptions::default() };
    assert_eq!(times_ns(&read(&text, &limited).unwrap()), times[..77]);
}

#[test]
fn what_follows_a_request_left_out_is_left_out() {
    let request = |id, arrival, tokens| TraceRequest {
        id,
        arrival,
        prompt: vec![hash(id, tokens), private(id, 1)],
        output_tokens: 1,
        session: Some(id % 2),
        priority: 0,
        cache_salt: None,
    };
    let after = |request| Arrival::After { request, delay_ns: S };
    let requests = [
        request(0, Arrival::At { ns: 0 }, 10),
        request(1, Arrival::At { ns: 5 * S }, 10),
        request(2, after(0), 900),
        request(3, after(1), 10),
        request(4, after(2), 10),
    ];
    let folder = Folder::new();
    let path = folder.path("t.jsonl.zst");
    write(&path, Format::LodestarJsonl, &requests).unwrap();
    let ids = |options: &ReadOptions| -> Vec<u64> {
        read_all(&path, options).unwrap().requests.iter().map(|request| request.id).collect()
    };
    let short = ReadOptions {
        max_prompt_tokens: Some(100),
        over_long: OverLong::Drop,
        ..ReadOptions::default()
    };
    assert_eq!(ids(&short), [0, 1, 3]);
    let late = ReadOptions { window: Some("1s..".parse().unwrap()), ..ReadOptions::default() };
    assert_eq!(ids(&late), [1, 3]);
}

#[test]
fn a_quote_of_a_request_left_out_stays_as_text() {
    let request = |id: u64, prompt| TraceRequest {
        id,
        arrival: Arrival::At { ns: id * S },
        prompt,
        output_tokens: 5,
        session: None,
        priority: 0,
        cache_salt: None,
    };
    let answer = |id| Span { source: Source::Output(id), start: 0, tokens: 5 };
    let requests = [
        request(0, vec![hash(1, 9)]),
        request(1, vec![hash(1, 9), answer(0), private(1, 3)]),
        request(2, vec![hash(1, 9), answer(0), answer(1)]),
    ];
    let folder = Folder::new();
    let path = folder.path("t.jsonl");
    write(&path, Format::LodestarJsonl, &requests).unwrap();
    let late = ReadOptions { window: Some("1s..".parse().unwrap()), ..ReadOptions::default() };
    let kept = read_all(&path, &late).unwrap().requests;
    let text = Span { source: Source::Hash(1 << 63), ..answer(0) };
    assert_eq!(kept[0].prompt, [hash(1, 9), text, private(1, 3)]);
    assert_eq!(kept[1].prompt, [hash(1, 9), text, answer(1)]);
    let cut = folder.path("cut.jsonl");
    write(&cut, Format::LodestarJsonl, &kept).unwrap();
    assert_eq!(read_all(&cut, &ReadOptions::default()).unwrap().requests, kept);
}

#[test]
fn impossible_options_are_refused() {
    let base = ReadOptions::default();
    let late = Some("1h..2h".parse().unwrap());
    for (options, part) in [
        (ReadOptions { rate_scale: 0.0, ..base.clone() }, "`rate_scale` is 0"),
        (ReadOptions { rate_scale: f64::NAN, ..base.clone() }, "`rate_scale` is NaN"),
        (ReadOptions { limit: Some(0), ..base.clone() }, "`limit` is 0"),
        (ReadOptions { max_prompt_tokens: Some(0), ..base.clone() }, "`max_prompt_tokens` is 0"),
        (
            ReadOptions { shared_prefix: Some(SharedPrefix::of_tokens(0)), ..base.clone() },
            "`shared_prefix.tokens` is 0",
        ),
        (ReadOptions { rate_scale: 1e300, ..base.clone() }, "`rate_scale` is 1e300, expected"),
        (ReadOptions { over_long: OverLong::Drop, ..base.clone() }, "`over_long` has no effect"),
        (ReadOptions { window: late, ..base }, "no request is left"),
    ] {
        let error = read(&azure(3), &options).unwrap_err();
        assert!(error.contains(part), "{error:?} does not contain {part:?}");
    }
}

//! What is written is what is read.

use lodestar_traces::{Arrival, Format, Source, Span, TraceRequest, generate, open, write};
use lodestar_traces::{ReadOptions, TraceWriter, WorkloadConfig, read_all};
use proptest::prelude::*;

use crate::support::{Folder, hash, private};

fn source() -> impl Strategy<Value = Source> {
    let id = || prop_oneof![0..20u64, any::<u64>()];
    prop_oneof![
        id().prop_map(Source::Hash),
        any::<u32>().prop_map(Source::Token),
        id().prop_map(Source::Output),
        id().prop_map(Source::Private),
    ]
}

fn span() -> impl Strategy<Value = Span> {
    let start = prop_oneof![Just(0u32), 0..1_000_000u32];
    (source(), start, prop_oneof![Just(1u32), Just(512u32), 1..5000u32])
        .prop_map(|(source, start, tokens)| Span { source, start, tokens })
}

/// The spans, with answers taken from the requests before the one at `index`.
fn quoting_earlier(mut prompt: Vec<Span>, first_id: u64, index: u64) -> Vec<Span> {
    for span in &mut prompt {
        if let Source::Output(number) = span.source {
            span.source = match number.checked_rem(index) {
                Some(earlier) => Source::Output(first_id + 3 * earlier),
                None => Source::Hash(number),
            };
        }
    }
    prompt
}

/// Valid requests: ids unique, arrivals in order, predecessors present.
pub(crate) fn requests() -> impl Strategy<Value = Vec<TraceRequest>> {
    let request = (
        prop::collection::vec(span(), 1..8),
        1..5000u32,
        (0..u64::from(u32::MAX), prop::option::of(any::<prop::sample::Index>())),
        prop::option::of(any::<u64>()),
        prop_oneof![Just(0i32), any::<i32>()],
        prop::option::of(any::<u64>()),
    );
    let first_id = prop_oneof![Just(0u64), 0..u64::MAX - 1000];
    (first_id, prop::collection::vec(request, 1..40)).prop_map(|(first_id, parts)| {
        let mut now_ns = 0;
        let build =
            |(index, (prompt, output_tokens, (gap_ns, after), session, priority, cache_salt))| {
                let arrival = match after as Option<prop::sample::Index> {
                    Some(after) if index > 0 => Arrival::After {
                        request: first_id + 3 * after.index(index) as u64,
                        delay_ns: gap_ns,
                    },
                    _ => {
                        now_ns += gap_ns;
                        Arrival::At { ns: now_ns }
                    }
                };
                let id = first_id + 3 * index as u64;
                let prompt = quoting_earlier(prompt, first_id, index as u64);
                TraceRequest { id, arrival, prompt, output_tokens, session, priority, cache_salt }
            };
        parts.into_iter().enumerate().map(build).collect()
    })
}

fn through(name: &str, format: Format, requests: &[TraceRequest]) -> Vec<TraceRequest> {
    let folder = Folder::new();
    let path = folder.path(name);
    write(&path, format, requests).unwrap();
    assert_eq!(folder.names(), [name]);
    let reader = open(&path).unwrap();
    assert_eq!(reader.format(), format);
    reader.collect::<Result<_, _>>().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn own_formats_are_lossless(requests in requests()) {
        for name in ["trace.jsonl", "trace.jsonl.gz", "trace.jsonl.zst"] {
            prop_assert_eq!(&through(name, Format::LodestarJsonl, &requests), &requests);
        }
        prop_assert_eq!(&through("trace.parquet", Format::LodestarParquet, &requests), &requests);
    }
}

#[test]
fn mooncake_requests_survive_mooncake() {
    let request = |id, prompt| TraceRequest {
        id,
        arrival: Arrival::At { ns: id * 27_000_000 },
        prompt,
        output_tokens: 5,
        session: None,
        priority: 0,
        cache_salt: None,
    };
    let requests = [
        request(0, vec![hash(0, 512), hash(14, 512), hash(15, 10)]),
        request(1, vec![hash(0, 512)]),
        request(2, vec![private(2, 4000)]),
    ];
    assert_eq!(through("t.jsonl.gz", Format::Mooncake, &requests), requests);
}

/// More requests than a row group or a batch of rows takes.
#[test]
fn many_row_groups() {
    let config = WorkloadConfig { requests: 40_000, ..WorkloadConfig::preset("chat").unwrap() };
    let requests = generate(&config, 1).unwrap();
    assert_eq!(through("t.parquet", Format::LodestarParquet, &requests), requests);
}

#[test]
fn an_interrupted_writer_leaves_the_old_file() {
    let folder = Folder::new();
    let path = folder.file("trace.jsonl", "what was there before");
    let requests = generate(&WorkloadConfig::preset("share9").unwrap(), 1).unwrap();
    let mut writer = TraceWriter::create(&path, Format::LodestarJsonl).unwrap();
    requests.iter().for_each(|request| writer.push(request).unwrap());
    drop(writer);
    assert_eq!(std::fs::read(&path).unwrap(), b"what was there before");
    assert_eq!(folder.names(), ["trace.jsonl"]);
    write(&path, Format::LodestarJsonl, &requests).unwrap();
    assert_eq!(read_all(&path, &ReadOptions::default()).unwrap().requests, requests);
}

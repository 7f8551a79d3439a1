//! Each published format, on a few lines of it.

use lodestar_traces::{Arrival, Format, Source, Span, TraceRequest, open};

use crate::support::{Folder, gzip, hash, private, zstd};

const MOONCAKE: &str = r#"{"timestamp": 0, "input_length": 1034, "output_length": 500, "hash_ids": [0, 14, 15]}
{"timestamp": 27, "input_length": 512, "output_length": 3, "hash_ids": [0]}
"#;

fn read(name: &str, bytes: impl AsRef<[u8]>, format: Format) -> Vec<TraceRequest> {
    let folder = Folder::new();
    let reader = open(folder.file(name, bytes)).unwrap();
    assert_eq!(reader.format(), format);
    reader.collect::<Result<_, _>>().unwrap()
}

fn at(id: u64, ns: u64, prompt: Vec<Span>, output_tokens: u32) -> TraceRequest {
    let arrival = Arrival::At { ns };
    TraceRequest {
        id,
        arrival,
        prompt,
        output_tokens,
        session: None,
        priority: 0,
        cache_salt: None,
    }
}

#[test]
fn mooncake_blocks_become_hashed_spans() {
    let expected = [
        at(0, 0, vec![hash(0, 512), hash(14, 512), hash(15, 10)], 500),
        at(1, 27_000_000, vec![hash(0, 512)], 3),
    ];
    assert_eq!(read("trace", MOONCAKE, Format::Mooncake), expected);
}

#[test]
fn content_decides_not_the_name() {
    let plain = read("a.jsonl", MOONCAKE, Format::Mooncake);
    let members = [gzip(&MOONCAKE[..40]), gzip(&MOONCAKE[40..])].concat();
    let with_mark_and_crlf = format!("\u{feff}\n{}", MOONCAKE.replace('\n', "\r\n\r\n"));
    for (name, bytes) in [
        ("zipped.csv", gzip(MOONCAKE)),
        ("two-members.zst", members),
        ("packed.parquet", zstd(MOONCAKE)),
        ("windows.txt.gz", with_mark_and_crlf.into_bytes()),
        ("no-final-newline", MOONCAKE.trim_end().as_bytes().to_vec()),
    ] {
        assert_eq!(read(name, bytes, Format::Mooncake), plain, "{name}");
    }
}

#[test]
fn mooncake_without_ids_shares_nothing() {
    let line = r#"{"timestamp": 5, "input_length": 7, "output_length": 2}"#;
    assert_eq!(read("t", line, Format::Mooncake), [at(0, 5_000_000, vec![private(0, 7)], 2)]);
}

#[test]
fn unix_times_start_at_the_first_request() {
    let line =
        |ms: u64| format!("{{\"timestamp\": {ms}, \"input_length\": 7, \"output_length\": 2}}\n");
    let text = line(1_700_000_000_000) + &line(1_700_000_000_250);
    let times: Vec<_> = read("t", text, Format::Mooncake).iter().map(|r| r.arrival).collect();
    assert_eq!(times, [Arrival::At { ns: 0 }, Arrival::At { ns: 250_000_000 }]);
}

#[test]
fn azure_2023_keeps_a_hundred_nanoseconds() {
    let text = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
                2023-11-16 18:17:03.9799600,4808,10\r\n\
                2023-11-16 18:17:04.0319601,3180,8\r\n";
    let expected =
        [at(0, 0, vec![private(0, 4808)], 10), at(1, 52_000_100, vec![private(1, 3180)], 8)];
    assert_eq!(read("t", text, Format::Azure), expected);
}

#[test]
fn azure_2024_has_a_zone() {
    let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
                2024-05-10 23:59:59.500000+00:00,2162,5\n\
                2024-05-11 00:00:01+00:00,2399,6\n";
    let requests = read("t", text, Format::Azure);
    assert_eq!(requests[1].arrival, Arrival::At { ns: 1_500_000_000 });
}

#[test]
fn burstgpt_failures_are_counted_not_replayed() {
    let folder = Folder::new();
    let text = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                5,ChatGPT,472,18,490,Conversation log\n\
                45.5,GPT-4,1087,0,1087,API log\n\
                45.5,GPT-4,0,0,0,API log\n\
                118,GPT-4,417,276,693,Conversation log\n";
    let mut reader = open(folder.file("t", text)).unwrap();
    let requests: Vec<_> = reader.by_ref().collect::<Result<_, _>>().unwrap();
    assert_eq!(reader.skipped_rows(), 2);
    let expected = [
        at(0, 5_000_000_000, vec![private(0, 472)], 18),
        at(1, 118_000_000_000, vec![private(1, 417)], 276),
    ];
    assert_eq!(requests, expected);
}

#[test]
fn burstgpt_sessions() {
    let text = "\"Timestamp\",\"Session ID\",\"Elapsed time\",\"Model\",\"Request tokens\",\
                \"Response tokens\",\"Total tokens\",\"Log Type\"\n\
                5,31,1.5,ChatGPT,472,18,490,Conversation log\n\
                6,,0.5,GPT-4,47,8,55,API log\n";
    let requests = read("t", text, Format::BurstGpt);
    assert_eq!([requests[0].session, requests[1].session], [Some(31), None]);
}

#[test]
fn bailian_sessions_follow_their_parents() {
    let line = |chat, parent: i64, seconds, length, ids| {
        format!(
            "{{\"chat_id\": {chat}, \"parent_chat_id\": {parent}, \"timestamp\": {seconds}, \
             \"input_length\": {length}, \"output_length\": 9, \"type\": \"text\", \"turn\": 1, \
             \"hash_ids\": {ids}}}\n"
        )
    };
    let text = line(159, -1, "0.0", 16, "[1089]")
        + &line(160, 159, "61.114", 21, "[1089, 1090]")
        + &line(161, 160, "61.2", 33, "[1089, 1090, 7]")
        + &line(170, 55, "70", 1, "[3]");
    let requests = read("t", text, Format::Bailian);
    assert_eq!(requests[1].arrival, Arrival::At { ns: 61_114_000_000 });
    assert_eq!(requests[1].prompt, [hash(1089, 16), hash(1090, 5)]);
    let sessions: Vec<_> = requests.iter().map(|request| request.session.unwrap()).collect();
    assert_eq!(sessions, [159, 159, 159, 55]);
}

#[test]
fn sharegpt_prompts_are_their_tokens() {
    let line = r#"{"input_toks": 3, "output_toks": 2, "arrival_time_ns": 46926808, "input_tok_ids": [5971, 220, 5971], "output_tok_ids": [1, 2]}"#;
    let token = |id| Span { source: Source::Token(id), start: 0, tokens: 1 };
    let expected = [at(0, 46_926_808, vec![token(5971), token(220), token(5971)], 2)];
    assert_eq!(read("t", line, Format::ShareGpt), expected);
}

#[test]
fn lodestar_lines_can_be_typed_by_hand() {
    let text = r#"{"lodestar_trace":1}
{"id":7,"at_ns":5,"prompt":"h46-48:512 h3@8:40 t9","output_tokens":80}
{"id":8,"after":7,"delay_ns":1000,"prompt":"o7:80 p8:3","output_tokens":1,"session":2,"priority":-1,"cache_salt":4}
"#;
    let requests = read("t", text, Format::LodestarJsonl);
    let offset = Span { source: Source::Hash(3), start: 8, tokens: 40 };
    let token = Span { source: Source::Token(9), start: 0, tokens: 1 };
    let prompt = vec![hash(46, 512), hash(47, 512), hash(48, 512), offset, token];
    assert_eq!(requests[0], at(7, 5, prompt, 80));
    let answer = Span { source: Source::Output(7), start: 0, tokens: 80 };
    assert_eq!(requests[1].prompt, [answer, private(8, 3)]);
    assert_eq!(requests[1].arrival, Arrival::After { request: 7, delay_ns: 1000 });
    let TraceRequest { session, priority, cache_salt, .. } = requests[1];
    assert_eq!((session, priority, cache_salt), (Some(2), -1, Some(4)));
}

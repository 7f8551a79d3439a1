//! A router's log as a trace: which of its requests are one, what they consist of, and what is refused.

use lodestar_traces::{
    Arrival, Format, Place, ReadOptions, TraceError, TraceRequest, TraceStats, open, read_all,
};

use crate::support::{Folder, gzip, hash, private, zstd};

const START: &str = "{\"start\":{\"log_version\":1,\"router_version\":\"0.1.0\",\"config\":\
    {\"policy\":{\"name\":\"random\"},\"block_tokens\":16},\"seed\":1}}\n";
const JOINED: &str = "{\"observe\":{\"now\":0,\"event\":{\"instance_joined\":{\"instance\":0,\"spec\":\
    {\"kv_capacity_tokens\":400000,\"max_model_len_tokens\":32768}}}}}\n";
const A: &str = "00000000000000a1";
const B: &str = "ffffffff000000b2";

/// A request with blocks of these hashes is routed.
fn route(now: u64, id: u64, tokens: u32, blocks: &[&str], more: &str) -> String {
    let blocks = blocks.concat();
    format!(
        "{{\"route\":{{\"now\":{now},\"request\":{{\"id\":{id},\"prompt_tokens\":{tokens},\"block_hashes\":\
         \"{blocks}\"{more}}},\"answer\":{{\"Ok\":{{\"instance\":0,\"reason\":\"random\",\"candidates\":[]}}}}}}}}\n"
    )
}

fn observe(now: u64, event: &str) -> String {
    format!("{{\"observe\":{{\"now\":{now},\"event\":{event}}}}}\n")
}

fn finished(now: u64, id: u64, prompt_tokens: u32, output_tokens: u32) -> String {
    let usage = format!(
        "{{\"prompt_tokens\":{prompt_tokens},\"cached_tokens\":0,\"output_tokens\":{output_tokens}}}"
    );
    observe(now, &format!("{{\"finished\":{{\"request\":{id},\"usage\":{usage}}}}}"))
}

fn log(entries: &[String]) -> String {
    [START, JOINED].concat() + &entries.concat()
}

fn read(text: impl AsRef<[u8]>) -> (Vec<TraceRequest>, u64) {
    let folder = Folder::new();
    let mut reader = open(folder.file("decisions.jsonl", text)).unwrap();
    assert_eq!(reader.format(), Format::RouterLog);
    let requests = reader.by_ref().collect::<Result<_, _>>().unwrap();
    (requests, reader.skipped_rows())
}

fn arrivals(requests: &[TraceRequest]) -> Vec<u64> {
    let at = |request: &TraceRequest| match request.arrival {
        Arrival::At { ns } => ns,
        Arrival::After { .. } => panic!("a log says when"),
    };
    requests.iter().map(at).collect()
}

#[test]
fn blocks_become_spans_and_ends_the_answers() {
    let text = log(&[
        route(1000, 5, 40, &[A, B], ",\"session\":7,\"priority\":-1"),
        observe(1000, "{\"dispatched\":{\"request\":5}}"),
        "\"abandon_training\"\n{\"training_job\":{\"now\":1001,\"job\":0}}\n".to_owned(),
        route(1250, 6, 16, &[A], ",\"priority\":0"),
        observe(1300, "\"timer\""),
        observe(1400, "{\"first_token\":{\"request\":6}}"),
        finished(1500, 6, 16, 1),
        finished(2000, 5, 40, 80),
    ]);
    let (requests, skipped) = read(&text);
    let first = TraceRequest {
        id: 0,
        arrival: Arrival::At { ns: 0 },
        prompt: vec![hash(0xa1, 16), hash(0xffff_ffff_0000_00b2, 16), private(0, 8)],
        output_tokens: 80,
        session: Some(7),
        priority: -1,
        cache_salt: None,
    };
    let second = TraceRequest {
        id: 1,
        arrival: Arrival::At { ns: 250 },
        prompt: vec![hash(0xa1, 16)],
        output_tokens: 1,
        session: None,
        priority: 0,
        cache_salt: None,
    };
    assert_eq!((&requests[..], skipped), (&[first, second][..], 0));
    assert_eq!(read(gzip(&text)), (requests.clone(), 0));
    assert_eq!(read(zstd(&text)), (requests.clone(), 0));
    let folder = Folder::new();
    let trace = read_all(folder.file("t", &text), &ReadOptions::default()).unwrap();
    assert_eq!((trace.requests, trace.notes), (requests, Vec::<String>::new()));
}

#[test]
fn only_answered_requests_are_kept_and_the_others_counted() {
    let rejected = "{\"route\":{\"now\":9,\"request\":{\"id\":1,\"prompt_tokens\":5,\"block_hashes\":\"\",\
        \"priority\":0},\"answer\":{\"Err\":\"no-instance\"}}}\n";
    let text = log(&[
        route(8, 0, 5, &[], ""),
        rejected.to_owned(),
        route(10, 2, 5, &[], ""),
        observe(11, "{\"aborted\":{\"request\":2}}"),
        route(12, 3, 5, &[], ""),
        finished(13, 3, 5, 0),
        route(20, 4, 5, &[], ""),
        finished(21, 4, 5, 9),
        finished(22, 4, 5, 10),
    ]);
    let (requests, skipped) = read(&text);
    assert_eq!((arrivals(&requests), requests[0].output_tokens, skipped), (vec![0], 9, 4));
    let folder = Folder::new();
    let trace = read_all(folder.file("t", &text), &ReadOptions::default()).unwrap();
    let note = "left out 4 failed requests (no prompt or no answer)";
    assert!(trace.notes.iter().any(|it| it == note), "{:?}", trace.notes);
}

#[test]
fn a_request_arrives_once_however_often_it_is_routed_and_its_number_may_come_again() {
    let text = log(&[
        route(100, 3, 5, &[], ""),
        route(130, 4, 6, &[], ""),
        observe(140, "{\"dispatch_failed\":{\"request\":3}}"),
        route(150, 3, 5, &[], ""),
        observe(160, "{\"instance_left\":{\"instance\":0}}"),
        route(170, 3, 5, &[], ""),
        finished(180, 3, 5, 1),
        route(190, 3, 7, &[], ""),
        finished(200, 4, 6, 2),
        finished(210, 3, 7, 3),
    ]);
    let (requests, skipped) = read(&text);
    let lengths: Vec<_> =
        requests.iter().map(|it| (it.prompt_tokens(), it.output_tokens)).collect();
    assert_eq!(arrivals(&requests), [0, 30, 90]);
    assert_eq!((lengths, skipped), (vec![(5, 1), (6, 2), (7, 3)], 0));
}

#[test]
fn the_engine_counts_prompts_but_not_below_their_blocks() {
    let prompt = |said| {
        let text = log(&[route(1, 0, 40, &[A, B], ""), finished(2, 0, said, 1)]);
        read(&text).0.remove(0).prompt
    };
    let blocks = [hash(0xa1, 16), hash(0xffff_ffff_0000_00b2, 16)];
    assert_eq!(prompt(35), [&blocks[..], &[private(0, 3)]].concat());
    assert_eq!(prompt(32), blocks);
    assert_eq!(prompt(31), [&blocks[..], &[private(0, 8)]].concat());
}

#[test]
fn equal_hashes_are_found_again() {
    let mut entries = Vec::new();
    for id in 0..10 {
        entries.push(route(id * 100, id, 40, &[A, B], ""));
        entries.push(finished(id * 100 + 50, id, 40, 1));
    }
    let stats = TraceStats::of(&read(log(&entries)).0);
    assert!(stats.to_string().contains("72.0%"), "nine times 32 of ten times 40: {stats}");
}

/// The message for a log, without its name, and where it points.
fn complaint(text: impl AsRef<[u8]>) -> (String, Place) {
    let folder = Folder::new();
    let path = folder.file("log", text);
    let error: TraceError = match open(&path) {
        Err(error) => error,
        Ok(mut reader) => reader.find_map(Result::err).expect("the log is wrong"),
    };
    let message = error.to_string();
    (message.strip_prefix(path.to_str().unwrap()).unwrap().to_owned(), error.place())
}

#[test]
fn what_is_wrong_is_named_by_line_and_field() {
    let good = log(&[route(5, 0, 40, &[A, B], ""), finished(6, 0, 40, 1)]);
    let says = |text: &str, line: u64, part: &str| {
        let (message, place) = complaint(text);
        assert_eq!(place, Place::Line(line), "{message}");
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    };
    says(&good[..good.len() - 9], 4, "not a JSON object (EOF while parsing");
    says(&good[..20], 1, "not a JSON object (EOF while parsing");
    says(&good.replace("on\":1,", "on\":2,"), 1, "`log_version` is format version 2");
    says(&good.replace("\"block_tokens\":16", "\"block_tokens\":0"), 1, "`block_tokens` is 0");
    says(&good.replace("\"block_tokens\":16", "\"b\":16"), 1, "`block_tokens` is missing");
    says(
        &good.replace("tokens\":40,\"block", "tokens\":31,\"block"),
        3,
        "`block_hashes` has 2 ids",
    );
    says(&good.replace(A, "a1"), 3, "`block_hashes` is a1ffff");
    says(&good.replace(A, "+0000000000000a1"), 3, "expected 16 hexadecimal digits a block");
    says(&good.replace("\"now\":5", "\"now\":-5"), 3, "`now` is -5, below zero");
    says(&good.replace("\"now\":5", "\"then\":5"), 3, "`now` is missing");
    says(&good.replace("\"usage\":{", "\"usage\":1,\"x\":{"), 4, "`usage` is 1, expected a JSON");
    says(
        &good.replace("\"output_tokens\":1", "\"output_tokens\":99999999"),
        4,
        "`output_tokens` is",
    );
    says(&format!("{good}{good}"), 5, "`start` is there a second time, expected one log in a file");
    let backwards = [route(4, 1, 3, &[], ""), finished(9, 1, 3, 1)].concat();
    says(
        &format!("{good}{backwards}"),
        5,
        "`now` is 4 ns from the start, the row before is at 5 ns",
    );

    for (text, part) in [
        ("", "holds no request"),
        (START, "holds no request"),
        (&log(&[route(5, 0, 4, &[], "")]), "none of its 1 requests has an answer"),
    ] {
        let (message, place) = complaint(text);
        assert_eq!(place, Place::File, "{message}");
        assert!(message.contains(part), "{message}");
    }
    let packed = gzip(&good);
    let (message, _) = complaint(&packed[..packed.len() - 6]);
    assert!(message.contains("gzip stream ends early"), "{message}");
}

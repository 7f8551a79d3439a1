//! Every way a trace can be wrong, and whether the message says where, what and what to do.

use std::path::Path;

use lodestar_traces::{Format, Place, Problem, TraceError, open, write};

use crate::support::{Folder, gzip, hash, zstd};

const HEADER: &str = "{\"lodestar_trace\":1}\n";
const REQUEST: &str = "{\"id\":0,\"at_ns\":9,\"prompt\":\"h1:4\",\"output_tokens\":1}\n";
const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03,10,3\n";

fn first_error(path: &Path) -> TraceError {
    match open(path) {
        Err(error) => error,
        Ok(mut reader) => {
            let error = reader.find_map(Result::err).expect("the trace is wrong");
            assert!(reader.next().is_none(), "nothing comes after an error");
            error
        }
    }
}

/// The message for a file, without its folder, and where it points.
fn complaint(bytes: impl AsRef<[u8]>) -> (String, Place) {
    let folder = Folder::new();
    let path = folder.file("trace", bytes);
    let error = first_error(&path);
    let message = error.to_string();
    let message = message.strip_prefix(path.to_str().unwrap()).expect("the file comes first");
    (message.to_owned(), error.place())
}

#[track_caller]
fn says(bytes: impl AsRef<[u8]>, line: u64, parts: &[&str]) {
    let (message, place) = complaint(bytes);
    assert_eq!(place, Place::Line(line), "{message}");
    assert!(message.starts_with(&format!(", line {line}: ")), "{message}");
    for part in parts {
        assert!(message.contains(part), "{message:?} does not contain {part:?}");
    }
}

fn mooncake(row: &str) -> String {
    format!("{{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 1}}\n{row}\n")
}

#[test]
fn files_that_are_no_trace() {
    let (message, place) = complaint("");
    assert_eq!(
        (message.as_str(), place),
        (": holds no request; a trace needs at least one", Place::File)
    );
    assert_eq!(complaint("\n  \n").0, message);
    assert_eq!(complaint(HEADER).0, message);
    assert_eq!(complaint("TIMESTAMP,ContextTokens,GeneratedTokens\n").0, message);
    says(
        "name,age\nann,7\n",
        1,
        &["not a known trace format", "\"name,age\"", "Mooncake JSONL", "BurstGPT CSV"],
    );
    says("{\"prompt\": \"hello\"}", 1, &["not a known trace format"]);
    says([0xff, 0xfe, 0x00], 1, &["not UTF-8"]);
    let missing = open("/no/such/trace").unwrap_err();
    assert!(matches!(missing.problem(), Problem::NotFound), "{missing}");
    assert!(missing.to_string().ends_with("there is no such file; check the path"), "{missing}");
    let folder = Folder::new();
    let message = open(folder.path("")).unwrap_err().to_string();
    assert!(message.ends_with("is a folder, not a trace; name a file in it"), "{message}");
}

#[test]
fn cut_and_damaged_streams() {
    let whole = format!("{HEADER}{REQUEST}");
    for (packed, name) in [(gzip(&whole), "gzip"), (zstd(&whole), "zstd")] {
        let (message, _) = complaint(&packed[..packed.len() - 6]);
        assert!(message.contains(&format!("{name} stream ends early")), "{message}");
        assert!(message.contains("download it again"), "{message}");
    }
    for rest in [&b"x"[..], b"<html>504 Gateway Time-out</html>", &[0; 512]] {
        let (message, _) = complaint([&gzip(&whole)[..], rest].concat());
        assert!(message.contains("gzip data (other bytes follow the end"), "{message}");
    }
    let (message, _) = complaint([&zstd(&whole)[..], b"<html>"].concat());
    assert!(message.contains("damaged zstd data"), "{message}");
    let mut damaged = gzip(&whole);
    let in_checksum = damaged.len() - 6;
    damaged[in_checksum] ^= 0x55;
    assert!(complaint(damaged).0.contains("damaged gzip data"));
    assert!(complaint(b"PAR1 is all there is").0.contains("damaged Parquet data"));
}

#[test]
fn lines_that_are_no_row() {
    says(
        mooncake("{\"timestamp\": 1,"),
        2,
        &["not a JSON object (EOF while parsing a value at column 16)"],
    );
    says(mooncake("[1, 2]"), 2, &["not a JSON object"]);
    says(mooncake("{} {}"), 2, &["not a JSON object"]);
    says(format!("{AZURE}2023-11-16 18:17:04,10\n"), 3, &["has 2 columns, the header has 3"]);
    says(format!("{HEADER}{HEADER}"), 2, &["`lodestar_trace` is not a field of Lodestar JSONL"]);
}

#[test]
fn fields_that_are_missing_or_unknown() {
    says(
        mooncake("{\"timestamp\": 1, \"input_length\": 9}"),
        2,
        &["`output_length` is missing", "timestamp"],
    );
    says(
        mooncake("{\"timestamp\": 1, \"input_length\": 9, \"output_length\": 1, \"delay\": 3}"),
        2,
        &["`delay` is not a field of Mooncake JSONL", "hash_ids", "remove it"],
    );
    says(
        mooncake("{\"timestamp\": 1, \"timestamp\": 2, \"input_length\": 9, \"output_length\": 1}"),
        2,
        &["`timestamp` occurs twice"],
    );
    says("TIMESTAMP,ContextTokens\n", 1, &["`GeneratedTokens` is missing"]);
    says(
        "TIMESTAMP,ContextTokens,GeneratedTokens,Model\n",
        1,
        &["`Model` is not a field of Azure"],
    );
    says(format!("{AZURE},10,3\n"), 3, &["`TIMESTAMP` is missing"]);
}

#[test]
fn values_that_cannot_be() {
    let row = |timestamp: &str, input: &str, output: &str| {
        mooncake(&format!(
            "{{\"timestamp\": {timestamp}, \"input_length\": {input}, \"output_length\": {output}}}"
        ))
    };
    says(row("1", "-5", "1"), 2, &["`input_length` is -5, below zero"]);
    says(row("-1", "5", "1"), 2, &["`timestamp` is -1, below zero"]);
    says(row("1", "5.5", "1"), 2, &["`input_length` is 5.5, expected a whole number"]);
    says(row("1", "\"many\"", "1"), 2, &["`input_length` is \"many\", expected a whole number"]);
    says(row("1", "99999999", "1"), 2, &["`input_length` is 99999999, above the limit"]);
    says(row("1e30", "5", "1"), 2, &["`timestamp` is 1e30, above the limit"]);
    says(row("NaN", "5", "1"), 2, &["` is NaN, not a finite number"]);
    says(row("1", "0", "1"), 2, &["`input_length` is 0 tokens"]);
    says(row("1", "5", "0"), 2, &["`output_length` is 0 tokens"]);
    says(format!("{AZURE}yesterday,10,3\n"), 3, &["`TIMESTAMP` is yesterday, expected a UTC time"]);
    says(
        format!("{AZURE}2023-11-16 18:17:04,nan,3\n"),
        3,
        &["`ContextTokens` is nan, not a finite"],
    );
}

#[test]
fn rows_that_contradict_themselves() {
    let with_ids = |ids: &str| {
        mooncake(&format!(
            "{{\"timestamp\": 1, \"input_length\": 600, \"output_length\": 1, \"hash_ids\": {ids}}}"
        ))
    };
    says(with_ids("[4]"), 2, &["`hash_ids` has 1 ids", "600 prompt tokens", "512 need 2"]);
    says(with_ids("[]"), 2, &["`hash_ids` has 0 ids"]);
    says(with_ids("[4, -5]"), 2, &["`hash_ids` is [4, -5], expected a list"]);
    says(
        "{\"input_toks\": 3, \"output_toks\": 2, \"arrival_time_ns\": 4, \"input_tok_ids\": [5]}",
        1,
        &["`input_tok_ids` has 1 token ids, but the length is given as 3"],
    );
}

#[test]
fn rows_that_contradict_each_other() {
    says(
        format!("{AZURE}2023-11-16 18:17:02,10,3\n"),
        3,
        &["`TIMESTAMP` is", "sort the file by time"],
    );
    says(
        mooncake(
            "{\"timestamp\": 7, \"input_length\": 9, \"output_length\": 1}\n{\"timestamp\": 6, \"input_length\": 9, \"output_length\": 1}",
        ),
        3,
        &["`timestamp` is 6000000 ns", "7000000 ns", "sort the file by time"],
    );
    says(format!("{HEADER}{REQUEST}{REQUEST}"), 3, &["`id` is 0", "must be unique"]);
    let after = |request| {
        format!(
            "{{\"id\":1,\"after\":{request},\"delay_ns\":0,\"prompt\":\"h1:4\",\"output_tokens\":1}}\n"
        )
    };
    says(format!("{HEADER}{}", after(0)), 2, &["`after` names request 0, which does not precede"]);
    says(format!("{HEADER}{REQUEST}{}", after(1)), 3, &["`after` names request 1"]);
    says(
        format!("{HEADER}{REQUEST}{}", REQUEST.replace(":0,", ":1,").replace(":9,", ":8,")),
        3,
        &["`at_ns` is 8 ns"],
    );
    let quotes =
        |id| REQUEST.replace("\"id\":0", "\"id\":1").replace("h1:4", &format!("h1:4 o{id}:3"));
    assert!(complaint(format!("{HEADER}{REQUEST}{}", quotes(0)) + "x").0.contains("line 4"));
    for id in [1, 2, 7] {
        let part = format!("`prompt` quotes the answer to request {id} (o{id})");
        says(
            format!("{HEADER}{REQUEST}{}{}", quotes(id), REQUEST.replace(":0,", ":2,")),
            3,
            &[&part, "does not precede this one; order the requests or add it"],
        );
    }
    says(
        format!("{HEADER}{}", REQUEST.replace("\"at_ns\":9,", "")),
        2,
        &["either at_ns, or after together with delay_ns"],
    );
    says("{\"lodestar_trace\":2}\n", 1, &["format version 2", "reads version 1", "newer build"]);
}

#[test]
fn what_a_format_cannot_say_is_not_written() {
    let folder = Folder::new();
    let refused = |name: &str, format, requests: &[_]| {
        let error = write(folder.path(name), format, requests).unwrap_err();
        (error.to_string(), error.place())
    };
    let valid = lodestar_traces::TraceRequest {
        id: 0,
        arrival: lodestar_traces::Arrival::At { ns: 0 },
        prompt: vec![hash(1, 512), hash(2, 3)],
        output_tokens: 4,
        session: None,
        priority: 0,
        cache_salt: None,
    };
    let with = |change: fn(&mut lodestar_traces::TraceRequest)| {
        let mut request = lodestar_traces::TraceRequest { id: 1, ..valid.clone() };
        change(&mut request);
        [valid.clone(), request]
    };
    let unsayable = [
        with(|request| request.session = Some(1)),
        with(|request| request.priority = 1),
        with(|request| request.cache_salt = Some(1)),
        with(|request| request.prompt = vec![hash(1, 3), hash(2, 3)]),
        with(|request| {
            request.arrival = lodestar_traces::Arrival::After { request: 0, delay_ns: 0 }
        }),
    ];
    for requests in unsayable {
        let (message, place) = refused("t", Format::Mooncake, &requests);
        assert!(message.contains("Mooncake JSONL cannot express"), "{message}");
        assert_eq!(place, Place::Row(2));
    }
    let twice = with(|request| request.id = 0);
    assert!(refused("t", Format::LodestarJsonl, &twice).0.contains("unique"));
    assert!(refused("t", Format::Azure, std::slice::from_ref(&valid)).0.contains("only read"));
    assert!(
        refused("t.parquet.gz", Format::LodestarParquet, &[valid]).0.contains("compressed inside")
    );
    assert!(refused("t", Format::LodestarJsonl, &[]).0.contains("holds no request"));
    assert_eq!(folder.names(), [""; 0], "nothing half-written is left behind");
}

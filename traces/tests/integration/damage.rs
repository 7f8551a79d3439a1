//! Readers are given anything at all, and never panic: they return requests or one error.

use lodestar_traces::{Format, ReadOptions, TraceStats, open, read_all, write};
use proptest::prelude::*;

use crate::round_trip::requests;
use crate::support::{Folder, gzip, zstd};

const SAMPLES: [&str; 7] = [
    "{\"lodestar_trace\":1}\n{\"id\":0,\"at_ns\":9,\"prompt\":\"h1-4:512 o3@2:4\",\"output_tokens\":1,\"session\":2}\n",
    "{\"timestamp\": 0, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [0, 14]}\n",
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n",
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,GPT-4,472,18,490,API log\n",
    "{\"chat_id\": 1, \"parent_chat_id\": -1, \"timestamp\": 1.5, \"input_length\": 9, \"output_length\": 9, \
     \"type\": \"text\", \"turn\": 1, \"hash_ids\": [7]}\n",
    "{\"input_toks\": 1, \"output_toks\": 2, \"arrival_time_ns\": 4, \"input_tok_ids\": [5]}\n",
    "{\"start\":{\"log_version\":1,\"config\":{\"block_tokens\":16}}}\n\
     {\"route\":{\"now\":5,\"request\":{\"id\":0,\"prompt_tokens\":20,\"block_hashes\":\"00000000000000a1\"},\
     \"answer\":{\"Ok\":{}}}}\n\
     {\"observe\":{\"now\":6,\"event\":{\"finished\":{\"request\":0,\"usage\":{\"prompt_tokens\":20,\
     \"output_tokens\":3}}}}}\n",
];

/// Reads it; what comes out must be fit for whatever uses traces.
fn read(bytes: &[u8]) {
    let folder = Folder::new();
    if let Ok(trace) = read_all(folder.file("trace", bytes), &ReadOptions::default()) {
        TraceStats::of(&trace.requests);
        write(folder.path("copy"), Format::LodestarJsonl, &trace.requests).unwrap();
    }
}

/// Overwrites, cuts out, repeats.
fn damage(bytes: &mut Vec<u8>, edits: &[(prop::sample::Index, u8, u8)]) {
    for (at, kind, value) in edits {
        if bytes.is_empty() {
            return;
        }
        let at = at.index(bytes.len());
        match kind % 4 {
            0 => bytes[at] = *value,
            1 => bytes[at] ^= 1 << (value % 8),
            2 => drop(bytes.drain(at..(at + usize::from(*value)).min(bytes.len()))),
            _ => {
                let copy = bytes[at..(at + usize::from(*value)).min(bytes.len())].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
}

fn edits() -> impl Strategy<Value = Vec<(prop::sample::Index, u8, u8)>> {
    prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 1..6)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read(&bytes);
        read(&[b"PAR1".as_slice(), &bytes, b"PAR1"].concat());
        read(&[b"\x1f\x8b\x08\x00".as_slice(), &bytes].concat());
        read(&[b"\x28\xb5\x2f\xfd".as_slice(), &bytes].concat());
    }

    #[test]
    fn damaged_text(sample in prop::sample::select(&SAMPLES[..]), edits in edits()) {
        let mut bytes = sample.as_bytes().to_vec();
        read(&bytes);
        damage(&mut bytes, &edits);
        read(&bytes);
    }

    #[test]
    fn damaged_streams(sample in prop::sample::select(&SAMPLES[..]), edits in edits()) {
        for mut bytes in [gzip(sample), zstd(sample)] {
            damage(&mut bytes, &edits);
            read(&bytes);
        }
    }

    #[test]
    fn damaged_parquet(requests in requests(), edits in edits()) {
        let folder = Folder::new();
        let path = folder.path("trace.parquet");
        write(&path, Format::LodestarParquet, &requests).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes, &edits);
        // Noticed, or harmless: never another trace.
        let read = open(folder.file("damaged", bytes)).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        prop_assert!(read.is_err() || read.unwrap() == requests);
    }
}

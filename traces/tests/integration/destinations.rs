//! Where a trace may be written to, and what is there before and afterwards.

use std::fs;
use std::path::Path;

use lodestar_traces::{
    Arrival, Format, ReadOptions, TraceError, TraceRequest, TraceStats, read_all, write,
};

use crate::support::{Folder, hash};

fn write_one(path: &Path) -> Result<(), TraceError> {
    let request = TraceRequest {
        id: 0,
        arrival: Arrival::At { ns: 0 },
        prompt: vec![hash(1, 9)],
        output_tokens: 5,
        session: None,
        priority: 0,
        cache_salt: None,
    };
    write(path, Format::LodestarJsonl, [request])
}

#[test]
fn an_ending_says_the_format_or_none_is_guessed() {
    let format =
        |name: &str| Format::for_output(Path::new(name)).map_err(|error| error.to_string());
    for name in ["t.jsonl", "t.jsonl.gz", "t.jsonl.zst"] {
        assert_eq!(format(name), Ok(Format::LodestarJsonl));
    }
    assert_eq!(format("t.parquet"), Ok(Format::LodestarParquet));
    for name in ["t", "t.parquet.gz", "t.json", "t.csv", "t.gz", "/"] {
        let message = format(name).unwrap_err();
        assert!(message.contains(".jsonl, .jsonl.gz, .jsonl.zst, .parquet"), "{message}");
    }
}

#[cfg(unix)]
#[test]
fn a_link_stays_and_the_file_behind_it_is_replaced() {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    let file = elsewhere.file("file", "earlier");
    let link = folder.path("link");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    write_one(&link).unwrap();
    assert!(link.is_symlink());
    assert!(fs::read_to_string(&file).unwrap().starts_with("{\"lodestar_trace\""));
    assert_eq!((folder.names(), elsewhere.names()), (vec!["link".into()], vec!["file".into()]));
}

#[cfg(unix)]
#[test]
fn what_is_not_a_file_is_not_replaced() {
    let folder = Folder::new();
    let nowhere = folder.path("nowhere");
    std::os::unix::fs::symlink(folder.path("absent"), &nowhere).unwrap();
    for path in [Path::new("/dev/null"), &folder.path(""), &nowhere] {
        let message = write_one(path).unwrap_err().to_string();
        assert!(message.contains("exists and is not a regular file"), "{message}");
    }
    assert_eq!(folder.names(), ["nowhere"]);
    let message = write_one(&folder.path("absent/t.jsonl")).unwrap_err().to_string();
    assert!(message.contains("the folder that it is to lie in does not exist"), "{message}");
    let message = write_one(&folder.file("file", "").join("t.jsonl")).unwrap_err().to_string();
    assert!(message.contains("t.jsonl: Not a directory"), "{message}");
}

#[test]
fn a_trace_of_decades_can_be_described() {
    let folder = Folder::new();
    let text = "{\"lodestar_trace\":1}
        {\"id\":0,\"at_ns\":0,\"prompt\":\"h1:4\",\"output_tokens\":1}
        {\"id\":1,\"at_ns\":2300000000000000000,\"prompt\":\"h1:4\",\"output_tokens\":1}";
    let trace = read_all(folder.file("t", text), &ReadOptions::default()).unwrap();
    let stats = TraceStats::of(&trace.requests).to_string();
    assert!(stats.contains("dispersion, 1 s       -"), "{stats}");
}

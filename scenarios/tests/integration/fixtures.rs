//! A trace small enough to simulate in a blink, and the replay of it.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use lodestar_router::PolicyConfig;
use lodestar_scenarios::{OutputDir, Replay, Replayed, Results, Workload};
use lodestar_traces::{Arrival, ReadOptions, Source, Span, TraceRequest};

pub(crate) const POLICIES: [&str; 3] = ["random", "least-request", "prefix-cache"];

/// Requests 50 ms apart, every fourth of the same conversation.
pub(crate) fn requests(count: u64) -> Vec<TraceRequest> {
    let request = |id| TraceRequest {
        id,
        arrival: Arrival::At { ns: id * 50_000_000 },
        prompt: vec![
            Span { source: Source::Hash(id % 4), start: 0, tokens: 600 },
            Span { source: Source::Private(id), start: 0, tokens: 100 + (id % 7) as u32 * 30 },
        ],
        output_tokens: 1 + (id % 5) as u32 * 20,
        session: Some(id % 4),
        priority: 0,
        cache_salt: None,
    };
    (0..count).map(request).collect()
}

pub(crate) fn policies(names: &[&str]) -> Vec<PolicyConfig> {
    names.iter().map(|name| PolicyConfig::from_name(name).expect("a known policy")).collect()
}

/// The requests on two unequal instances.
pub(crate) fn replay(requests: &[TraceRequest], seed: u64) -> Replay<'_> {
    let fleet = "a100:1,l4:1".parse().expect("a fleet");
    let workload = Workload { name: "small", read_options: Some(ReadOptions::default()), requests };
    Replay::new(workload, fleet, "llama-3.1-8b", policies(&POLICIES), seed)
        .expect("a valid scenario")
}

pub(crate) fn run_on(threads: usize, replay: &Replay<'_>) -> Replayed {
    replay.run(NonZeroUsize::new(threads), &|_| ()).expect("the run ends")
}

pub(crate) fn small_results() -> Results {
    let requests = requests(60);
    run_on(1, &replay(&requests, 1)).results
}

pub(crate) fn write(results: &Results, folder: &Path) {
    let output = OutputDir::create(folder).expect("a folder that can be written");
    output.write_tables(results).expect("written");
    output.finish(results).expect("moved");
}

/// Every file below a folder, by path.
pub(crate) fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    collect(folder, folder, &mut files);
    files
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(root, &path, files);
        } else {
            let name = path.strip_prefix(root).expect("below the root").display().to_string();
            files.insert(name, fs::read(&path).expect("a file"));
        }
    }
}

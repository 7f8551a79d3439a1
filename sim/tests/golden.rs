//! Every committed recording of the real vLLM scheduler, replayed: no tolerance, no skipped case.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a test that reads files"
)]

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use lodestar_sim::golden::{Case, Pace, Recording, replay};

/// Text of a plain or gzipped file.
fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let mut text = String::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    } else {
        text = String::from_utf8(bytes).unwrap();
    }
    text
}

/// Replays every case of a folder, step by step and fast; returns how many there were.
fn replay_all(folder: &Path) -> usize {
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.ends_with(".json") && !name.ends_with(".golden.json")
        })
        .collect();
    cases.sort();
    let mut differences = Vec::new();
    for path in &cases {
        let golden = ["golden.json", "golden.json.gz"]
            .map(|extension| path.with_extension(extension))
            .into_iter()
            .find(|golden| golden.exists())
            .unwrap();
        let case = Case::parse(&read(path)).unwrap();
        let recording: Recording = serde_json::from_str(&read(&golden)).unwrap();
        assert_eq!(case.input_sha256, recording.input_sha256, "{}", case.name);
        for pace in [Pace::StepByStep, Pace::FastForward] {
            if let Err(difference) = replay(&case, &recording, pace) {
                differences.push(format!("{}, {pace:?}: {difference}", case.name));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    cases.len()
}

#[test]
fn committed_recordings_are_reproduced() {
    let cases = replay_all(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden")));
    assert_eq!(cases, 63, "the committed set is complete");
}

#[test]
fn all_recordings_beside_the_checkout_are_reproduced() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/golden"));
    if !folder.is_dir() {
        eprintln!("SKIPPED: no recordings in {}", folder.display());
        return;
    }
    assert!(replay_all(folder) >= 83, "the full set is there");
}

#[test]
fn a_changed_recording_is_noticed() {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
    let case = Case::parse(&read(&folder.join("c31_eviction_lru.json"))).unwrap();
    let text = read(&folder.join("c31_eviction_lru.golden.json"));
    let mut recording: Recording = serde_json::from_str(&text).unwrap();
    recording.steps.as_mut().unwrap()[5].free2 += 1;
    let difference = replay(&case, &recording, Pace::StepByStep).unwrap_err();
    assert_eq!(difference.place, "step 5 (12 recorded)");
    assert_ne!(difference.recorded, difference.ours);

    let mut recording: Recording = serde_json::from_str(&text).unwrap();
    recording.steps = None;
    assert!(
        replay(&case, &recording, Pace::StepByStep).is_ok(),
        "the digest alone decides when no steps are shipped"
    );
    recording.trace_sha256.replace_range(0..1, "x");
    assert!(replay(&case, &recording, Pace::StepByStep).is_err());
}

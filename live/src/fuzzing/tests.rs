//! The targets on a stable compiler: seeds, damaged seeds and random bytes.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;

use super::*;

/// Inputs that a target begins with: good ones, and those that have once shown a defect.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("fuzz/seeds").join(target);
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no seeds");
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Overwrites, flips, cuts out and repeats.
fn damage(bytes: &mut Vec<u8>, edits: &[(prop::sample::Index, u8, u8)]) {
    for (at, kind, value) in edits {
        if bytes.is_empty() {
            return;
        }
        let at = at.index(bytes.len());
        let end = (at + usize::from(*value)).min(bytes.len());
        match kind % 4 {
            0 => bytes[at] = *value,
            1 => bytes[at] ^= 1 << (value % 8),
            2 => drop(bytes.drain(at..end)),
            _ => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
        }
    }
}

#[test]
fn every_seed_of_every_target_holds() {
    for (name, target) in TARGETS {
        seeds(name).iter().for_each(|seed| target(seed));
    }
}

#[test]
fn every_target_has_a_program() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    for (name, _) in TARGETS {
        let program = fs::read_to_string(folder.join(format!("{name}.rs"))).unwrap();
        assert!(program.contains(&format!("fuzzing::{name}(bytes)")), "{name}");
    }
    assert_eq!(fs::read_dir(folder).unwrap().count(), TARGETS.len());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

    #[test]
    fn no_bytes_and_no_damage_break_a_target(
        garbage in prop::collection::vec(any::<u8>(), 0..200),
        which in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), any::<u8>()), 1..6),
    ) {
        for (name, target) in TARGETS {
            target(&garbage);
            let seeds = seeds(name);
            let mut bytes = seeds[which.index(seeds.len())].clone();
            damage(&mut bytes, &edits);
            target(&bytes);
        }
    }
}

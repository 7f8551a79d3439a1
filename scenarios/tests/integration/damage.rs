//! A results folder that is not what was written is never read as if it were.

use std::fs;
use std::path::PathBuf;

use lodestar_scenarios::load;
use tempfile::{TempDir, tempdir};

use crate::fixtures::{small_results, write};

fn results_folder() -> (TempDir, PathBuf) {
    let folder = tempdir().expect("a temporary folder");
    let path = folder.path().join("results");
    write(&small_results(), &path);
    (folder, path)
}

/// The error of reading a folder, with the causes.
fn error_of(path: &std::path::Path) -> String {
    let error = load(path).expect_err("damage");
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

#[test]
fn a_flipped_bit() {
    let (_guard, path) = results_folder();
    let file = path.join("random/requests.parquet");
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let expected =
        "requests.parquet is damaged: its contents are not those that manifest.json lists";
    assert!(error_of(&path).ends_with(expected), "{}", error_of(&path));
}

#[test]
fn a_truncated_table() {
    let (_guard, path) = results_folder();
    let file = path.join("prefix-cache/instances.parquet");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() - 100]).unwrap();
    assert!(error_of(&path).contains("instances.parquet is damaged"));
}

#[test]
fn a_missing_table() {
    let (_guard, path) = results_folder();
    fs::remove_file(path.join("random/instances.parquet")).unwrap();
    assert!(error_of(&path).contains("cannot read"), "{}", error_of(&path));
}

#[test]
fn no_manifest() {
    let (_guard, path) = results_folder();
    fs::remove_file(path.join("manifest.json")).unwrap();
    assert!(error_of(&path).ends_with("is not a results folder: it has no manifest.json"));
}

#[test]
fn a_manifest_of_another_version() {
    let (_guard, path) = results_folder();
    rewrite_manifest(&path, r#""format_version": 1"#, r#""format_version": 2"#);
    assert!(error_of(&path).ends_with("it has format version 2, this Lodestar reads version 1"));
}

#[test]
fn a_manifest_of_something_else() {
    let (_guard, path) = results_folder();
    rewrite_manifest(&path, "lodestar-results", "other-results");
    assert!(error_of(&path).ends_with("it was not written by Lodestar"));
}

#[test]
fn a_manifest_with_a_hole() {
    let (_guard, path) = results_folder();
    rewrite_manifest(&path, r#""seed""#, r#""sead""#);
    assert!(error_of(&path).contains("it is damaged: unknown field `sead`"), "{}", error_of(&path));
}

#[test]
fn a_table_that_the_manifest_does_not_list() {
    let (_guard, path) = results_folder();
    rewrite_manifest(&path, "random/requests.parquet", "summary.csv");
    assert!(load(&path).is_err());
}

fn rewrite_manifest(folder: &std::path::Path, from: &str, to: &str) {
    let file = folder.join("manifest.json");
    let json = fs::read_to_string(&file).expect("the manifest");
    assert!(json.contains(from), "{json}");
    fs::write(&file, json.replace(from, to)).expect("written");
}

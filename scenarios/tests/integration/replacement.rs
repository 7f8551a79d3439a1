//! What happens to what lies where results should go.

use std::fs;

use lodestar_scenarios::{OutputDir, load};
use tempfile::tempdir;

use crate::fixtures::{files_of, replay, requests, run_on, small_results, write};

fn error_of(path: &std::path::Path) -> String {
    OutputDir::create(path).expect_err("refused").to_string()
}

#[test]
fn a_folder_of_somebody_else_is_left_alone() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("thesis");
    fs::create_dir(&path).unwrap();
    fs::write(path.join("chapter1.tex"), "It was").unwrap();
    assert!(error_of(&path).ends_with("exists and is not a results folder; name another one"));

    fs::write(path.join("manifest.json"), r#"{"name": "a web extension"}"#).unwrap();
    assert!(error_of(&path).ends_with("exists and is not a results folder; name another one"));
    assert_eq!(files_of(folder.path()).len(), 2, "nothing was added");
}

#[test]
fn a_file_is_left_alone() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    fs::write(&path, "keep").unwrap();
    assert!(error_of(&path).ends_with("exists and is not a results folder; name another one"));
    assert_eq!(fs::read(&path).unwrap(), b"keep");
}

#[test]
fn a_folder_that_cannot_be_written_is_known_at_once() {
    let folder = tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(error_of(&file.join("results")).starts_with("cannot write"));
    assert!(error_of(std::path::Path::new("/")).ends_with("name another one"));
}

#[test]
fn earlier_results_are_replaced_as_a_whole() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("results");
    fs::create_dir(&path).unwrap();
    write(&small_results(), &path);
    fs::write(path.join("notes.txt"), "of the first run").unwrap();

    let requests = requests(30);
    let second = run_on(1, &replay(&requests, 2)).results;
    write(&second, &path);
    assert_eq!(load(&path).unwrap().runs, second.runs);
    assert!(!path.join("notes.txt").exists(), "two runs are mixed");
    let left: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["results"], "something temporary was left behind");
}

#[test]
fn an_unfinished_run_leaves_nothing() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("results");
    let output = OutputDir::create(&path).unwrap();
    output.write_tables(&small_results()).unwrap();
    assert!(!path.exists(), "results are visible before they are complete");
    drop(output);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn what_an_interrupted_run_left_is_removed_by_the_next() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("results");
    let abandoned = |name: &str| {
        let staging = folder.path().join(name);
        fs::create_dir_all(staging.join("new/random")).unwrap();
        fs::write(staging.join("lock"), "").unwrap();
    };
    for name in [".results-a.partial", ".results-2-a.partial", ".other-a.partial", ".results-a"] {
        abandoned(name);
    }
    abandoned(".results-b.partial");
    fs::create_dir(folder.path().join(".results-b.partial/old")).unwrap();
    let running = OutputDir::create(&path).unwrap();
    write(&small_results(), &path);
    let left = |name: &str| folder.path().join(name).exists();
    assert!(running.path().exists(), "a run that goes on was taken for an abandoned one");
    assert!(!left(".results-a.partial"));
    assert!(left(".results-b.partial"), "it held the only copy of earlier results");
    assert!(left(".results-2-a.partial") && left(".other-a.partial") && left(".results-a"));
    drop(OutputDir::create(&path).unwrap());
    assert!(!left(".results-b.partial"), "the results are there again");
}

#[cfg(unix)]
#[test]
fn the_folder_behind_a_link_is_replaced() {
    let (folder, elsewhere) = (tempdir().unwrap(), tempdir().unwrap());
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(elsewhere.path().join("results"), &link).unwrap();
    assert!(error_of(&link).starts_with("cannot write"), "the link leads nowhere");
    fs::create_dir(elsewhere.path().join("results")).unwrap();
    write(&small_results(), &link);
    assert!(link.is_symlink());
    load(&elsewhere.path().join("results")).unwrap();
}

#[test]
fn other_files_become_part_of_the_results() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("a/b/results");
    let results = small_results();
    let output = OutputDir::create(&path).unwrap();
    output.write_tables(&results).unwrap();
    fs::create_dir(output.path().join("figures")).unwrap();
    fs::write(output.path().join("figures/one.svg"), "<svg/>").unwrap();
    output.finish(&results).unwrap();
    load(&path).unwrap();
    fs::write(path.join("figures/one.svg"), "<svg></svg>").unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("one.svg is damaged"));
}

//! Who may depend on whom. `router` cannot see `traces`: a request in a trace knows its output length, a
//! request at a router does not, and this wall keeps the comparison honest.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Crate, and the crates of this workspace that it may use.
const ALLOWED: [(&str, &[&str]); 7] = [
    ("lodestar-traces", &[]),
    ("lodestar-router", &[]),
    ("lodestar-sim", &["lodestar-router", "lodestar-traces"]),
    ("lodestar-scenarios", &["lodestar-router", "lodestar-sim", "lodestar-traces"]),
    ("lodestar-plots", &["lodestar-scenarios"]),
    ("lodestar-live", &["lodestar-router", "lodestar-traces"]),
    (
        "lodestar",
        &[
            "lodestar-live",
            "lodestar-plots",
            "lodestar-router",
            "lodestar-scenarios",
            "lodestar-sim",
            "lodestar-traces",
        ],
    ),
];

/// Crates that do I/O, keep time or use threads, and may not be linked into the pure core.
const IMPURE: [&str; 6] = ["tokio", "hyper", "rayon", "polars", "indicatif", "tempfile"];

fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = MetadataCommand::new().no_deps().exec().expect("cargo metadata runs");
    metadata
        .packages
        .iter()
        .map(|package| {
            let used =
                package.dependencies.iter().filter(|used| used.kind == DependencyKind::Normal);
            (package.name.to_string(), used.map(|used| used.name.clone()).collect())
        })
        .collect()
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let dependencies = dependencies();
    let known: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    let found: Vec<&str> = dependencies.keys().map(String::as_str).collect();
    assert_eq!(found.len(), known.len(), "every crate stands in the table: {found:?}");
    for (name, allowed) in ALLOWED {
        for used in dependencies[name].iter().filter(|used| used.starts_with("lodestar")) {
            assert!(allowed.contains(&used.as_str()), "{name} must not depend on {used}");
        }
    }
}

#[test]
fn the_core_links_nothing_that_does_io() {
    let dependencies = dependencies();
    for pure in ["lodestar-router", "lodestar-sim"] {
        for used in &dependencies[pure] {
            assert!(
                !IMPURE.contains(&used.as_str()),
                "{pure} is pure and must not depend on {used}"
            );
        }
    }
}

//! Who may depend on whom. `router` cannot see `traces`: a request in a trace knows its output length, a
//! request at a router does not, and this wall keeps the comparison honest.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

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

/// Every crate that is linked into the router or the simulator, at any distance: none is for I/O, clocks,
/// locks or threads. A new one is a decision. What only `traces` links is not looked at: the simulator uses
/// its types, and `clippy.toml` bans what reads files. Nor is what candle links: of candle the router uses tensors in memory,
/// whose results do not depend on the threads it brings along.
const LINKED_INTO_THE_CORE: &[&str] = &[
    "block-buffer",
    "cfg-if",
    "const-oid",
    "cpufeatures",
    "crypto-common",
    "digest",
    "hashbrown",
    "hybrid-array",
    "itoa",
    "libm",
    "lodestar-router",
    "lodestar-sim",
    "memchr",
    "ppv-lite86",
    "rand_chacha",
    "rand_core",
    "rustc-hash",
    "serde",
    "serde_core",
    "serde_json",
    "serde_spanned",
    "sha2",
    "strsim",
    "thiserror",
    "toml",
    "toml_datetime",
    "toml_parser",
    "toml_writer",
    "typenum",
    "winnow",
    "zerocopy",
    "zmij",
];

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

/// The names of all crates that the two link on Linux, with the features that they ask for: `cargo metadata`
/// knows only those that the whole workspace asks for. No macros: they run in the compiler.
fn linked_into_the_core() -> BTreeSet<String> {
    let arguments = "tree --offline --edges normal,no-proc-macro --prune lodestar-traces --prune candle-core --prune candle-nn \
                     --prefix none \
                     --format {p} --target x86_64-unknown-linux-gnu \
                     --package lodestar-router --package lodestar-sim";
    let output = Command::new(env!("CARGO"))
        .args(arguments.split_whitespace())
        .output()
        .expect("cargo tree runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("names of crates");
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn the_core_links_nothing_that_does_io() {
    let found = linked_into_the_core();
    let known: BTreeSet<String> = LINKED_INTO_THE_CORE.iter().map(ToString::to_string).collect();
    let new: Vec<_> = found.difference(&known).collect();
    assert!(new.is_empty(), "linked into the core, and not known to be pure: {new:?}");
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(gone.is_empty(), "not linked any more, remove them from the list: {gone:?}");
}

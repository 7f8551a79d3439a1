//! What the tests share.

use std::io::Write;
use std::path::{Path, PathBuf};

use lodestar_traces::{Source, Span};

/// A folder that goes away with the test.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder can be made"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("a temporary file can be written");
        path
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(crate) fn gzip(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes.as_ref()).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    ::zstd::encode_all(bytes.as_ref(), 1).unwrap()
}

pub(crate) fn hash(id: u64, tokens: u32) -> Span {
    Span { source: Source::Hash(id), start: 0, tokens }
}

pub(crate) fn private(id: u64, tokens: u32) -> Span {
    Span { source: Source::Private(id), start: 0, tokens }
}

/// A published trace on this machine. They are large and under licences of their own, so they are not
/// part of the repository; without them a test says so and passes.
pub(crate) fn published(name: &str) -> Option<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/traces"));
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    #[expect(clippy::print_stderr, reason = "a skipped check must not look like a passed one")]
    {
        eprintln!("SKIPPED: the published trace {name} is not here");
    }
    None
}

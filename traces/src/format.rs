//! The formats, and how a file tells which one it is.
//!
//! Detection looks at the content, never at the name: published traces are renamed, recompressed and
//! called `.txt`.

use std::fmt;
use std::path::Path;

pub(crate) mod azure;
pub(crate) mod bailian;
pub(crate) mod burstgpt;
pub(crate) mod lodestar;
pub(crate) mod mooncake;
pub(crate) mod parquet;
pub(crate) mod sharegpt;
pub(crate) mod spans;

use crate::error::{Problem, RowError, excerpt};
use crate::fields::{Schema, names_of_csv, names_of_json};

/// A trace format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Format {
    /// Lodestar's own JSON lines: lossless, readable, compressible.
    LodestarJsonl,
    /// Lodestar's own Parquet: lossless, small, opens in any data-frame tool.
    LodestarParquet,
    /// Mooncake JSON lines: milliseconds, lengths, ids of 512-token blocks.
    Mooncake,
    /// Azure LLM inference CSV of 2023 and 2024: UTC times and lengths.
    Azure,
    /// BurstGPT CSV: seconds and lengths.
    BurstGpt,
    /// Alibaba Bailian (Qwen) JSON lines: seconds, lengths, chats, ids of 16-token blocks.
    Bailian,
    /// ShareGPT-style request JSON lines: nanoseconds and the token ids themselves.
    ShareGpt,
}

impl Format {
    /// Every format, in the order in which messages list them.
    pub const ALL: [Self; 7] = [
        Self::LodestarJsonl,
        Self::LodestarParquet,
        Self::Mooncake,
        Self::Azure,
        Self::BurstGpt,
        Self::Bailian,
        Self::ShareGpt,
    ];

    /// The name used in messages and docs.
    pub fn name(self) -> &'static str {
        match self {
            Self::LodestarJsonl => "Lodestar JSONL",
            Self::LodestarParquet => "Lodestar Parquet",
            Self::Mooncake => "Mooncake JSONL",
            Self::Azure => "Azure LLM inference CSV",
            Self::BurstGpt => "BurstGPT CSV",
            Self::Bailian => "Bailian JSONL",
            Self::ShareGpt => "ShareGPT request JSONL",
        }
    }

    /// What to write a file of this name as, unless told otherwise: Lodestar Parquet if it ends in
    /// `.parquet`, else Lodestar JSONL.
    pub fn for_output(path: &Path) -> Self {
        match path.extension() {
            Some(extension) if extension == "parquet" => Self::LodestarParquet,
            _ => Self::LodestarJsonl,
        }
    }

    /// Whether the file says exactly what Lodestar means, so that nothing about it is guessed.
    pub fn is_native(self) -> bool {
        matches!(self, Self::LodestarJsonl | Self::LodestarParquet)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The text format whose first line this is.
///
/// Any one telling name is enough: a file that lacks the others is a damaged file of that format, and
/// its reader says which field is missing.
pub(crate) fn detect(first_line: &str) -> Result<Format, RowError> {
    let line = first_line.trim();
    let (names, candidates): (_, &[Schema]) = if line.starts_with('{') {
        let schemas = &[lodestar::HEADER, bailian::SCHEMA, sharegpt::SCHEMA, mooncake::SCHEMA];
        (names_of_json(line)?, schemas)
    } else {
        (names_of_csv(line), &[azure::SCHEMA, burstgpt::SCHEMA])
    };
    candidates
        .iter()
        .find(|schema| schema.telling.iter().any(|&name| names.contains(&name)))
        .map(|schema| schema.format)
        .ok_or_else(|| unknown(line).into())
}

/// The complaint about a file that begins like `begins`.
pub(crate) fn unknown(begins: &str) -> Problem {
    let known = Format::ALL.map(Format::name).join(", ");
    Problem::UnknownFormat { begins: excerpt(begins), known }
}

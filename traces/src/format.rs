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
pub(crate) mod router_log;
pub(crate) mod sharegpt;
pub(crate) mod spans;

use crate::error::{Problem, RowError, TraceError, excerpt};
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
    /// Lodestar's router logs: nanoseconds, lengths, hashes of the router's blocks.
    RouterLog,
}

impl Format {
    /// Every format, in the order in which messages list them.
    pub const ALL: [Self; 8] = [
        Self::LodestarJsonl,
        Self::LodestarParquet,
        Self::Mooncake,
        Self::Azure,
        Self::BurstGpt,
        Self::Bailian,
        Self::ShareGpt,
        Self::RouterLog,
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
            Self::RouterLog => "Lodestar router log",
        }
    }

    /// What to write a file of this name as, unless told otherwise: one of our own formats.
    ///
    /// # Errors
    ///
    /// If the name ends in neither `.parquet` nor `.jsonl`, `.jsonl.gz` or `.jsonl.zst`.
    pub fn for_output(path: &Path) -> Result<Self, TraceError> {
        const ENDINGS: [(&str, Format); 4] = [
            (".jsonl", Format::LodestarJsonl),
            (".jsonl.gz", Format::LodestarJsonl),
            (".jsonl.zst", Format::LodestarJsonl),
            (".parquet", Format::LodestarParquet),
        ];
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match ENDINGS.iter().find(|(ending, _)| name.ends_with(ending)) {
            Some((_, format)) => Ok(*format),
            None => {
                let known = ENDINGS.map(|(ending, _)| ending).join(", ");
                Err(TraceError::file(path, Problem::UnknownEnding { known }))
            }
        }
    }

    /// What the format calls the fields that every request has.
    pub(crate) fn fields(self) -> CoreFields {
        let (arrival, prompt, output) = match self {
            Self::LodestarJsonl | Self::LodestarParquet => ("at_ns", "prompt", "output_tokens"),
            Self::Mooncake | Self::Bailian => ("timestamp", "input_length", "output_length"),
            Self::Azure => ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
            Self::BurstGpt => ("Timestamp", "Request tokens", "Response tokens"),
            Self::ShareGpt => ("arrival_time_ns", "input_toks", "output_toks"),
            Self::RouterLog => ("now", "prompt_tokens", "output_tokens"),
        };
        CoreFields { arrival, prompt, output }
    }

    /// Whether the file says exactly what Lodestar means, so that nothing about it is guessed.
    pub fn is_native(self) -> bool {
        matches!(self, Self::LodestarJsonl | Self::LodestarParquet | Self::RouterLog)
    }
}

/// Names of fields, for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CoreFields {
    pub(crate) arrival: &'static str,
    pub(crate) prompt: &'static str,
    pub(crate) output: &'static str,
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
        let schemas = &[
            lodestar::HEADER,
            router_log::HEADER,
            bailian::SCHEMA,
            sharegpt::SCHEMA,
            mooncake::SCHEMA,
        ];
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

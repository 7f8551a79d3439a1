//! Lodestar Parquet: one row per request, the columns of Lodestar JSONL, zstd.
//!
//! Written with the column API rather than through Arrow or a data frame: nine plain columns do not
//! earn a dependency that takes minutes to compile. Rows come in groups small enough that reading
//! streams; the prompt is the text of [`spans`](super::spans), so any Parquet tool shows it.

mod batch;
mod checksum;
mod read;
mod write;

use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::errors::ParquetError;
use parquet::schema::types::Type;

pub(crate) use self::read::ParquetRows;
pub(crate) use self::write::ParquetWriter;
use crate::error::Problem;

const CONTAINER: &str = "Parquet";

/// Metadata key of the [`Checksum`](checksum::Checksum).
const CHECKSUM_KEY: &str = "lodestar_crc32";

/// The columns, in file order.
#[derive(Clone, Copy)]
enum Column {
    Id,
    AtNs,
    After,
    DelayNs,
    Prompt,
    OutputTokens,
    Session,
    Priority,
    CacheSalt,
}

impl Column {
    const ALL: [Self; 9] = [
        Self::Id,
        Self::AtNs,
        Self::After,
        Self::DelayNs,
        Self::Prompt,
        Self::OutputTokens,
        Self::Session,
        Self::Priority,
        Self::CacheSalt,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::AtNs => "at_ns",
            Self::After => "after",
            Self::DelayNs => "delay_ns",
            Self::Prompt => "prompt",
            Self::OutputTokens => "output_tokens",
            Self::Session => "session",
            Self::Priority => "priority",
            Self::CacheSalt => "cache_salt",
        }
    }

    fn physical(self) -> Physical {
        match self {
            Self::Prompt => Physical::BYTE_ARRAY,
            Self::OutputTokens | Self::Priority => Physical::INT32,
            Self::Id
            | Self::AtNs
            | Self::After
            | Self::DelayNs
            | Self::Session
            | Self::CacheSalt => Physical::INT64,
        }
    }

    fn logical(self) -> LogicalType {
        match self {
            Self::Prompt => LogicalType::String,
            Self::OutputTokens => LogicalType::integer(32, false),
            Self::Priority => LogicalType::integer(32, true),
            Self::Id
            | Self::AtNs
            | Self::After
            | Self::DelayNs
            | Self::Session
            | Self::CacheSalt => LogicalType::integer(64, false),
        }
    }

    fn repetition(self) -> Repetition {
        match self {
            Self::Id | Self::Prompt | Self::OutputTokens | Self::Priority => Repetition::REQUIRED,
            Self::AtNs | Self::After | Self::DelayNs | Self::Session | Self::CacheSalt => {
                Repetition::OPTIONAL
            }
        }
    }
}

fn schema() -> Result<Type, ParquetError> {
    let column = |column: Column| {
        let builder = Type::primitive_type_builder(column.name(), column.physical())
            .with_repetition(column.repetition())
            .with_logical_type(Some(column.logical()));
        builder.build().map(Arc::new)
    };
    let columns = Column::ALL.map(column).into_iter().collect::<Result<Vec<_>, _>>()?;
    Type::group_type_builder("lodestar_trace").with_fields(columns).build()
}

impl From<ParquetError> for Problem {
    fn from(error: ParquetError) -> Self {
        damaged(&error.to_string())
    }
}

fn damaged(detail: &str) -> Problem {
    Problem::Corrupt { container: CONTAINER, detail: detail.to_owned() }
}

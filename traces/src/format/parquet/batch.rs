//! Some rows as columns, on their way in or out.

use std::io::Write;

use parquet::column::reader::ColumnReader;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::writer::SerializedRowGroupWriter;

use super::super::{lodestar, spans};
use super::{Column, damaged};
use crate::error::{Problem, RowError};
use crate::request::{Arrival, TraceRequest};

/// Rows decoded at a time. Fixed, because the row count of a group is whatever a damaged file says.
const BATCH_ROWS: usize = 1024;

/// Rows as columns, on their way in or out.
#[derive(Default)]
pub(super) struct Batch {
    id: Vec<u64>,
    at_ns: Vec<Option<u64>>,
    after: Vec<Option<u64>>,
    delay_ns: Vec<Option<u64>>,
    prompt: Vec<ByteArray>,
    output_tokens: Vec<u32>,
    session: Vec<Option<u64>>,
    priority: Vec<i32>,
    cache_salt: Vec<Option<u64>>,
}

impl Batch {
    pub(super) fn read(
        &mut self,
        column: Column,
        reader: &mut ColumnReader,
    ) -> Result<(), Problem> {
        match column {
            Column::Id => self.id = read_int64(reader)?.into_iter().flatten().collect(),
            Column::AtNs => self.at_ns = read_int64(reader)?,
            Column::After => self.after = read_int64(reader)?,
            Column::DelayNs => self.delay_ns = read_int64(reader)?,
            Column::Prompt => {
                let ColumnReader::ByteArrayColumnReader(reader) = reader else { return mistyped() };
                reader
                    .read_records(BATCH_ROWS, None, None, &mut self.prompt)
                    .map_err(Problem::from)?;
            }
            Column::OutputTokens => {
                self.output_tokens =
                    read_int32(reader)?.into_iter().map(i32::cast_unsigned).collect();
            }
            Column::Session => self.session = read_int64(reader)?,
            Column::Priority => self.priority = read_int32(reader)?,
            Column::CacheSalt => self.cache_salt = read_int64(reader)?,
        }
        Ok(())
    }

    pub(super) fn rows(&self) -> usize {
        self.id.len()
    }

    pub(super) fn is_rectangular(&self) -> bool {
        [
            self.at_ns.len(),
            self.after.len(),
            self.delay_ns.len(),
            self.prompt.len(),
            self.output_tokens.len(),
            self.session.len(),
            self.priority.len(),
            self.cache_salt.len(),
        ]
        .iter()
        .all(|&len| len == self.id.len())
    }

    pub(super) fn request(&self, row: usize) -> Result<TraceRequest, RowError> {
        let arrival = match (self.at_ns[row], self.after[row], self.delay_ns[row]) {
            (Some(ns), None, None) => Arrival::At { ns },
            (None, Some(request), Some(delay_ns)) => Arrival::After { request, delay_ns },
            _ => return Err(lodestar::arrival_is_ambiguous()),
        };
        let prompt = std::str::from_utf8(self.prompt[row].data()).map_err(|_| Problem::NotUtf8)?;
        Ok(TraceRequest {
            id: self.id[row],
            arrival,
            prompt: spans::parse(prompt)?,
            output_tokens: self.output_tokens[row],
            session: self.session[row],
            priority: self.priority[row],
            cache_salt: self.cache_salt[row],
        })
    }

    /// Appends a row; returns the length of its prompt's text.
    pub(super) fn push(&mut self, request: &TraceRequest) -> usize {
        let prompt = spans::format(&request.prompt).into_bytes();
        let prompt_bytes = prompt.len();
        let (at_ns, after, delay_ns) = match request.arrival {
            Arrival::At { ns } => (Some(ns), None, None),
            Arrival::After { request, delay_ns } => (None, Some(request), Some(delay_ns)),
        };
        self.id.push(request.id);
        self.at_ns.push(at_ns);
        self.after.push(after);
        self.delay_ns.push(delay_ns);
        self.prompt.push(ByteArray::from(prompt));
        self.output_tokens.push(request.output_tokens);
        self.session.push(request.session);
        self.priority.push(request.priority);
        self.cache_salt.push(request.cache_salt);
        prompt_bytes
    }

    pub(super) fn write<W: Write + Send>(
        &self,
        column: Column,
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<(), ParquetError> {
        match column {
            Column::Id => {
                let ids: Vec<_> = self.id.iter().copied().map(u64::cast_signed).collect();
                write_column::<Int64Type, W>(group, &ids, None)
            }
            Column::AtNs => write_optional(group, &self.at_ns),
            Column::After => write_optional(group, &self.after),
            Column::DelayNs => write_optional(group, &self.delay_ns),
            Column::Prompt => write_column::<ByteArrayType, W>(group, &self.prompt, None),
            Column::OutputTokens => {
                let tokens: Vec<_> =
                    self.output_tokens.iter().copied().map(u32::cast_signed).collect();
                write_column::<Int32Type, W>(group, &tokens, None)
            }
            Column::Session => write_optional(group, &self.session),
            Column::Priority => write_column::<Int32Type, W>(group, &self.priority, None),
            Column::CacheSalt => write_optional(group, &self.cache_salt),
        }
    }
}

/// Up to a batch of a 64-bit column, optional or not. Unsigned values keep their bits.
fn read_int64(reader: &mut ColumnReader) -> Result<Vec<Option<u64>>, Problem> {
    let ColumnReader::Int64ColumnReader(reader) = reader else { return mistyped() };
    let (mut levels, mut values) = (Vec::new(), Vec::new());
    reader.read_records(BATCH_ROWS, Some(&mut levels), None, &mut values).map_err(Problem::from)?;
    let mut values = values.into_iter().map(i64::cast_unsigned);
    if levels.is_empty() {
        return Ok(values.map(Some).collect());
    }
    Ok(levels.into_iter().map(|level| if level == 1 { values.next() } else { None }).collect())
}

fn read_int32(reader: &mut ColumnReader) -> Result<Vec<i32>, Problem> {
    let ColumnReader::Int32ColumnReader(reader) = reader else { return mistyped() };
    let mut values = Vec::new();
    reader.read_records(BATCH_ROWS, None, None, &mut values).map_err(Problem::from)?;
    Ok(values)
}

fn mistyped<T>() -> Result<T, Problem> {
    Err(damaged("a column has the wrong type"))
}

fn write_optional<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[Option<u64>],
) -> Result<(), ParquetError> {
    let levels: Vec<i16> = values.iter().map(|value| value.is_some().into()).collect();
    let present: Vec<i64> = values.iter().flatten().copied().map(u64::cast_signed).collect();
    write_column::<Int64Type, W>(group, &present, Some(&levels))
}

fn write_column<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    levels: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let mut column = group.next_column()?.expect("one call per column of the schema");
    column.typed::<T>().write_batch(values, levels, None)?;
    column.close()
}

//! Lodestar Parquet: one row per request, the columns of Lodestar JSONL, zstd.
//!
//! Written with the column API rather than through Arrow or a data frame: eight plain columns do not
//! earn a dependency that takes minutes to compile. Rows come in groups small enough that reading
//! streams; the prompt is the text of [`spans`], so any Parquet tool shows it.

use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, LogicalType, Repetition, Type as Physical, ZstdLevel};
use parquet::column::reader::ColumnReader;
use parquet::data_type::{ByteArray, ByteArrayType, DataType, Int32Type, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{ColumnPath, Type};

use super::lodestar::{self, VERSION, VERSION_KEY};
use super::spans;
use crate::error::{Problem, RowError};
use crate::request::{Arrival, TraceRequest};

/// A row group ends at either limit: the first keeps groups useful to other tools, the second bounds
/// the memory of reading one when prompts are lists of tokens.
const GROUP_ROWS: usize = 16_384;
const GROUP_PROMPT_BYTES: usize = 8 << 20;

/// Rows decoded at a time. Fixed, because the row count of a group is whatever a damaged file says.
const BATCH_ROWS: usize = 1024;

const CONTAINER: &str = "Parquet";

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

/// The requests of a Parquet file.
pub(crate) struct ParquetRows {
    file: SerializedFileReader<File>,
    next_group: usize,
    /// Readers of the current group, one per column.
    columns: Vec<ColumnReader>,
    batch: std::vec::IntoIter<Result<TraceRequest, RowError>>,
    row: u64,
}

impl ParquetRows {
    pub(crate) fn new(file: File) -> Result<Self, RowError> {
        let file = SerializedFileReader::new(file).map_err(Problem::from)?;
        let metadata = file.metadata().file_metadata();
        let version = metadata.key_value_metadata().and_then(|pairs| {
            let pair = pairs.iter().find(|pair| pair.key == VERSION_KEY)?;
            pair.value.as_ref()?.parse().ok()
        });
        match version {
            Some(version) => lodestar::version(version)?,
            None => return Err(super::unknown("a Parquet file of another program").into()),
        }
        if metadata.schema() != &schema().map_err(Problem::from)? {
            return Err(damaged("the columns are not those of a trace").into());
        }
        let batch = Vec::new().into_iter();
        Ok(Self { file, next_group: 0, columns: Vec::new(), batch, row: 0 })
    }

    /// Number of the row that [`ParquetRows::next`] returned last, from 1.
    pub(crate) fn row(&self) -> u64 {
        self.row
    }

    pub(crate) fn next(&mut self) -> Option<Result<TraceRequest, RowError>> {
        self.row += 1;
        loop {
            if let Some(request) = self.batch.next() {
                return Some(request);
            }
            match self.read_batch() {
                Ok(0) if self.next_group == self.file.num_row_groups() => return None,
                Ok(0) => {
                    if let Err(problem) = self.open_group() {
                        return Some(Err(problem.into()));
                    }
                }
                Ok(_) => {}
                Err(problem) => return Some(Err(problem.into())),
            }
        }
    }

    fn open_group(&mut self) -> Result<(), Problem> {
        let group = self.file.get_row_group(self.next_group).map_err(Problem::from)?;
        self.next_group += 1;
        let columns = (0..Column::ALL.len()).map(|index| group.get_column_reader(index));
        self.columns = columns.collect::<Result<_, _>>().map_err(Problem::from)?;
        Ok(())
    }

    /// Decodes the next rows of the current group; 0 at its end.
    fn read_batch(&mut self) -> Result<usize, Problem> {
        let mut batch = Batch::default();
        for (column, reader) in Column::ALL.into_iter().zip(&mut self.columns) {
            batch.read(column, reader)?;
        }
        let rows = batch.id.len();
        if !batch.is_rectangular() {
            return Err(damaged("the columns differ in length"));
        }
        self.batch = (0..rows).map(|row| batch.request(row)).collect::<Vec<_>>().into_iter();
        Ok(rows)
    }
}

impl std::fmt::Debug for ParquetRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetRows").field("row", &self.row).finish_non_exhaustive()
    }
}

/// Rows as columns, on their way in or out.
#[derive(Default)]
struct Batch {
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
    fn read(&mut self, column: Column, reader: &mut ColumnReader) -> Result<(), Problem> {
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

    fn is_rectangular(&self) -> bool {
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

    fn request(&self, row: usize) -> Result<TraceRequest, RowError> {
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

    fn push(&mut self, request: &TraceRequest) {
        let (at_ns, after, delay_ns) = match request.arrival {
            Arrival::At { ns } => (Some(ns), None, None),
            Arrival::After { request, delay_ns } => (None, Some(request), Some(delay_ns)),
        };
        self.id.push(request.id);
        self.at_ns.push(at_ns);
        self.after.push(after);
        self.delay_ns.push(delay_ns);
        self.prompt.push(ByteArray::from(spans::format(&request.prompt).into_bytes()));
        self.output_tokens.push(request.output_tokens);
        self.session.push(request.session);
        self.priority.push(request.priority);
        self.cache_salt.push(request.cache_salt);
    }

    fn write<W: Write + Send>(
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

impl From<ParquetError> for Problem {
    fn from(error: ParquetError) -> Self {
        damaged(&error.to_string())
    }
}

fn damaged(detail: &str) -> Problem {
    Problem::Corrupt { container: CONTAINER, detail: detail.to_owned() }
}

/// Writes requests to `out`; nothing is a valid file before [`ParquetWriter::finish`].
pub(crate) struct ParquetWriter<W: Write + Send> {
    file: SerializedFileWriter<W>,
    batch: Batch,
    prompt_bytes: usize,
}

impl<W: Write + Send> ParquetWriter<W> {
    pub(crate) fn new(out: W) -> Result<Self, ParquetError> {
        let file = SerializedFileWriter::new(out, Arc::new(schema()?), Arc::new(properties()))?;
        Ok(Self { file, batch: Batch::default(), prompt_bytes: 0 })
    }

    pub(crate) fn push(&mut self, request: &TraceRequest) -> Result<(), ParquetError> {
        self.batch.push(request);
        self.prompt_bytes += self.batch.prompt.last().map_or(0, ByteArray::len);
        if self.batch.id.len() == GROUP_ROWS || self.prompt_bytes >= GROUP_PROMPT_BYTES {
            self.write_group()?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<W, ParquetError> {
        if !self.batch.id.is_empty() {
            self.write_group()?;
        }
        self.file.into_inner()
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let batch = std::mem::take(&mut self.batch);
        self.prompt_bytes = 0;
        let mut group = self.file.next_row_group()?;
        for column in Column::ALL {
            batch.write(column, &mut group)?;
        }
        group.close().map(drop)
    }
}

fn properties() -> WriterProperties {
    let zstd = Compression::ZSTD(ZstdLevel::default());
    let version = KeyValue::new(VERSION_KEY.to_owned(), VERSION.to_string());
    let builder = WriterProperties::builder()
        .set_compression(zstd)
        .set_created_by("lodestar".to_owned())
        .set_key_value_metadata(Some(vec![version]));
    // Ids and times count up: their differences are small, and a dictionary of them is useless.
    [Column::Id, Column::AtNs, Column::After]
        .into_iter()
        .fold(builder, |builder, column| {
            let path = ColumnPath::from(column.name());
            builder
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path, Encoding::DELTA_BINARY_PACKED)
        })
        .build()
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

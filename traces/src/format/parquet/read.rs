//! Reading our Parquet files, a batch of rows at a time.

use std::fmt;
use std::fs::File;
use std::panic::{self, AssertUnwindSafe};

use parquet::column::reader::ColumnReader;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::super::{lodestar, unknown};
use super::batch::Batch;
use super::checksum::Checksum;
use super::{CHECKSUM_KEY, Column, damaged, schema};
use crate::error::{Problem, RowError};
use crate::request::TraceRequest;

/// The requests of a Parquet file.
pub(crate) struct ParquetRows {
    file: SerializedFileReader<File>,
    next_group: usize,
    /// Readers of the current group, one per column.
    columns: Vec<ColumnReader>,
    /// Decoded rows; each becomes a request when it is asked for, as prompts expand.
    batch: Batch,
    next_in_batch: usize,
    row: u64,
}

impl ParquetRows {
    pub(crate) fn new(file: File) -> Result<Self, RowError> {
        let data = file.try_clone().map_err(Problem::Io)?;
        let file = guarded(|| Ok(SerializedFileReader::new(file)?))?;
        let metadata = file.metadata().file_metadata();
        let value = |key| {
            let pair = metadata.key_value_metadata()?.iter().find(|pair| pair.key == key)?;
            pair.value.as_deref()
        };
        match value(lodestar::VERSION_KEY).and_then(|version| version.parse().ok()) {
            Some(version) => lodestar::version(version)?,
            None => return Err(unknown("a Parquet file of another program").into()),
        }
        if metadata.schema() != &schema().map_err(Problem::from)? {
            return Err(damaged("the columns are not those of a trace").into());
        }
        match value(CHECKSUM_KEY).and_then(Checksum::parse) {
            Some(expected) if Checksum::of(data, expected.bytes)? == expected => {}
            _ => return Err(damaged("the checksum does not match").into()),
        }
        let (columns, batch) = (Vec::new(), Batch::default());
        Ok(Self { file, next_group: 0, columns, batch, next_in_batch: 0, row: 0 })
    }

    /// Number of the row that [`ParquetRows::next`] returned last, from 1.
    pub(crate) fn row(&self) -> u64 {
        self.row
    }

    pub(crate) fn next(&mut self) -> Option<Result<TraceRequest, RowError>> {
        self.row += 1;
        loop {
            if self.next_in_batch < self.batch.rows() {
                self.next_in_batch += 1;
                return Some(self.batch.request(self.next_in_batch - 1));
            }
            match guarded(|| self.read_batch()) {
                Ok(0) if self.next_group == self.file.num_row_groups() => return None,
                Ok(0) => {
                    if let Err(problem) = guarded(|| self.open_group()) {
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
        (self.batch, self.next_in_batch) = (Batch::default(), 0);
        for (column, reader) in Column::ALL.into_iter().zip(&mut self.columns) {
            self.batch.read(column, reader)?;
        }
        if !self.batch.is_rectangular() {
            return Err(damaged("the columns differ in length"));
        }
        Ok(self.batch.rows())
    }
}

impl fmt::Debug for ParquetRows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ParquetRows").field("row", &self.row).finish_non_exhaustive()
    }
}

/// Turns a panic of the library into an error: it asserts some things that a file can get wrong. What it
/// leaves half-done is not looked at again, because readers end at their first error.
fn guarded<T>(read: impl FnOnce() -> Result<T, Problem>) -> Result<T, Problem> {
    let outcome = panic::catch_unwind(AssertUnwindSafe(read));
    outcome.unwrap_or_else(|_| Err(damaged("it contradicts itself")))
}

//! A table with a fixed schema: Polars inside, plain vectors outside.
//!
//! Polars stores the columns and speaks Parquet. Its types stop here, because each of its releases
//! changes them, and because a reader of `ttft_ms` wants numbers, not a chunked array of a dynamic type.
//! Asking for a column that is not in the schema is a bug, so it panics.

use std::io::{Cursor, Write};

use polars::prelude::{
    Column, DataFrame, NamedFrom, ParquetReader, ParquetWriter, PolarsError, SerReader, Series,
};

/// Columns of equal length.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    frame: DataFrame,
}

impl Table {
    pub(crate) fn new(height: usize, columns: Vec<Column>) -> Self {
        let frame = DataFrame::new(height, columns)
            .expect("every column has a cell for every record, and its own name");
        Self { frame }
    }

    /// How many rows.
    pub fn height(&self) -> usize {
        self.frame.height()
    }

    /// A column of counts or times in nanoseconds, which is never null.
    pub fn integers(&self, name: &str) -> Vec<u64> {
        let column = self.column(name);
        if let Ok(cells) = column.u32() {
            return cells.iter().map(|cell| u64::from(cell.unwrap_or(0))).collect();
        }
        let cells = column.u64().unwrap_or_else(|error| panic!("the column {name}: {error}"));
        cells.iter().map(|cell| cell.unwrap_or(0)).collect()
    }

    /// A column of measurements; `None` where there is none.
    pub fn numbers(&self, name: &str) -> Vec<Option<f64>> {
        let column = self.column(name);
        column.f64().unwrap_or_else(|error| panic!("the column {name}: {error}")).iter().collect()
    }

    /// A column of names; `None` where there is none.
    pub fn texts(&self, name: &str) -> Vec<Option<&str>> {
        let column = self.column(name);
        column.str().unwrap_or_else(|error| panic!("the column {name}: {error}")).iter().collect()
    }

    fn column(&self, name: &str) -> &Column {
        self.frame.column(name).unwrap_or_else(|error| panic!("the column {name}: {error}"))
    }

    /// Whether the columns of both have the same names and types in the same order.
    pub(crate) fn has_schema_of(&self, other: &Self) -> bool {
        self.frame.schema() == other.frame.schema()
    }

    /// As Parquet, with the same bytes on every machine: one thread, fixed row groups, no clock.
    pub(crate) fn write_parquet(&self, out: impl Write) -> Result<(), PolarsError> {
        ParquetWriter::new(out).set_parallel(false).finish(&mut self.frame.clone())?;
        Ok(())
    }

    pub(crate) fn read_parquet(bytes: &[u8]) -> Result<Self, PolarsError> {
        Ok(Self { frame: ParquetReader::new(Cursor::new(bytes)).finish()? })
    }
}

/// A column with one cell a record, of whatever type Polars makes of a list of such cells.
pub(crate) fn column<'a, R, T>(name: &str, records: &'a [R], cell: impl Fn(&'a R) -> T) -> Column
where
    Series: NamedFrom<Vec<T>, [T]>,
{
    let cells: Vec<T> = records.iter().map(cell).collect();
    Series::new(name.into(), cells).into()
}

//! CSV files of measurements, and what can be wrong with them: the file, the line and the column are
//! named, and what to do.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use csv::StringRecord;
use flate2::read::MultiGzDecoder;

use crate::csv_header;

/// Why measurements cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// A file that cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// Not CSV.
    #[error("{path} is not CSV with a header line: {problem}")]
    NotCsv {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        problem: String,
    },
    /// A column that is needed.
    #[error("{path} has no column `{column}`, only {present}; {what_to_do}")]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The columns that are there.
        present: String,
        /// How to get it.
        what_to_do: String,
    },
    /// A time without a unit, or with one that nobody knows.
    #[error("{path}: the unit of column `{column}` is unknown; {what_to_do}")]
    UnknownUnit {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Which units are known.
        what_to_do: String,
    },
    /// A cell that is no measurement.
    #[error("{path}, line {line}, column `{column}`: {problem}; {what_to_do}")]
    BadCell {
        /// The file.
        path: PathBuf,
        /// Counted from 1, the header included.
        line: u64,
        /// The column.
        column: String,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        what_to_do: &'static str,
    },
    /// Nothing in the file is of the shape that is needed.
    #[error("{path} has no measurement of {what}; {what_to_do}")]
    NoMeasurement {
        /// The file.
        path: PathBuf,
        /// Of what.
        what: String,
        /// What to do about it.
        what_to_do: String,
    },
}

/// A CSV file, plain or gzipped by content, in memory.
pub(crate) struct Table {
    path: PathBuf,
    headers: Vec<String>,
    rows: Vec<StringRecord>,
}

impl Table {
    pub(crate) fn read(path: &Path) -> Result<Self, InputError> {
        let io = |source| InputError::Io { path: path.to_owned(), source };
        let mut bytes = fs::read(path).map_err(io)?;
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let mut plain = Vec::new();
            MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).map_err(io)?;
            bytes = plain;
        }
        let not_csv = |problem: csv::Error| InputError::NotCsv {
            path: path.to_owned(),
            problem: problem.to_string(),
        };
        // The reader counts a line that ends in two characters when the next one begins.
        bytes.retain(|byte| *byte != b'\r');
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(&bytes[..]);
        let headers: Vec<String> =
            reader.headers().map_err(not_csv)?.iter().map(str::to_owned).collect();
        if let Some(problem) = csv_header::problem(&headers) {
            return Err(InputError::NotCsv { path: path.to_owned(), problem });
        }
        let rows = reader.records().collect::<Result<_, _>>().map_err(not_csv)?;
        Ok(Self { path: path.to_owned(), headers, rows })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn rows(&self) -> &[StringRecord] {
        &self.rows
    }

    pub(crate) fn headers(&self) -> &[String] {
        &self.headers
    }

    pub(crate) fn find(&self, column: &str) -> Option<usize> {
        self.headers.iter().position(|header| header == column)
    }

    pub(crate) fn column(&self, column: &str, what_to_do: &str) -> Result<usize, InputError> {
        self.find(column).ok_or_else(|| InputError::MissingColumn {
            path: self.path.clone(),
            column: column.to_owned(),
            present: self.headers.join(", "),
            what_to_do: what_to_do.to_owned(),
        })
    }

    /// A column of times: `<name>_ms` or with another unit behind its name. Its place, and what makes
    /// milliseconds of it.
    pub(crate) fn time_column(&self, name: &str) -> Result<(usize, f64), InputError> {
        const UNITS: [(&str, f64); 4] = [("ns", 1e-6), ("us", 1e-3), ("ms", 1.0), ("s", 1e3)];
        let in_unit = |(unit, factor): (&str, f64)| {
            self.find(&format!("{name}_{unit}")).map(|column| (column, factor))
        };
        let found: Vec<(usize, f64)> = UNITS.into_iter().filter_map(in_unit).collect();
        match found[..] {
            [] => {}
            [column] => return Ok(column),
            [(first, _), (second, _), ..] => {
                let (first, second) = (&self.headers[first], &self.headers[second]);
                let problem = format!("`{first}` and `{second}` are the same time: leave one out");
                return Err(InputError::NotCsv { path: self.path.clone(), problem });
            }
        }
        let known = format!("name it {name}_ns, {name}_us, {name}_ms or {name}_s");
        match self.headers.iter().find(|header| header.starts_with(name)) {
            Some(column) => Err(InputError::UnknownUnit {
                path: self.path.clone(),
                column: column.clone(),
                what_to_do: known,
            }),
            None => self.column(&format!("{name}_ms"), &known).map(|column| (column, 1.0)),
        }
    }

    /// A finite number that is not negative.
    pub(crate) fn number(&self, row: &StringRecord, column: usize) -> Result<f64, InputError> {
        let text = row.get(column).unwrap_or("");
        let remove = "correct the row, or remove it if the measurement failed";
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
            Ok(value) if value < 0.0 => {
                Err(self.bad_cell(row, column, format!("{value} is negative"), remove))
            }
            Ok(_) => Err(self.bad_cell(row, column, format!("`{text}` is not finite"), remove)),
            Err(_) if text.is_empty() => {
                Err(self.bad_cell(row, column, "the cell is empty".to_owned(), remove))
            }
            Err(_) => Err(self.bad_cell(row, column, format!("`{text}` is not a number"), remove)),
        }
    }

    /// A time, which nothing does in none.
    pub(crate) fn time_ms(
        &self,
        row: &StringRecord,
        (column, to_ms): (usize, f64),
    ) -> Result<f64, InputError> {
        let ms = self.number(row, column)? * to_ms;
        if ms > 0.0 {
            return Ok(ms);
        }
        let fix = "remove rows of steps that computed nothing, or log with a finer clock";
        Err(self.bad_cell(row, column, "0 is no duration".to_owned(), fix))
    }

    pub(crate) fn bad_cell(
        &self,
        row: &StringRecord,
        column: usize,
        problem: String,
        what_to_do: &'static str,
    ) -> InputError {
        InputError::BadCell {
            path: self.path.clone(),
            line: row.position().map_or(0, csv::Position::line),
            column: self.headers[column].clone(),
            problem,
            what_to_do,
        }
    }
}

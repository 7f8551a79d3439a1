//! The cells of a log by name: CSV with a header, or a JSON object a line.

use csv::{ReaderBuilder, StringRecord};
use lodestar_traces::{MAX_TIME_NS, MAX_TOKENS};
use serde_json::{Map, Value};

use super::error::LogError;
use crate::csv_header;

/// A text table. Rows have as many cells as there are columns.
#[derive(Debug)]
pub(super) struct Columns {
    names: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// A column that holds a time, and how many nanoseconds its unit has.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeColumn {
    pub(super) index: usize,
    nanos: f64,
}

const UNITS: [(&str, f64); 5] =
    [("_ns", 1.0), ("_us", 1e3), ("_ms", 1e6), ("_s", 1e9), ("_ts", 1e9)];

impl Columns {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, LogError> {
        let text = std::str::from_utf8(bytes).map_err(|_| LogError::NotText)?;
        let text = text.trim_start_matches('\u{feff}').trim();
        match text.as_bytes().first() {
            None => Err(LogError::Empty),
            Some(b'{') => Self::parse_json(text),
            Some(_) => Self::parse_csv(text),
        }
    }

    fn parse_csv(text: &str) -> Result<Self, LogError> {
        let mut reader = ReaderBuilder::new().trim(csv::Trim::All).from_reader(text.as_bytes());
        let malformed =
            |row: usize, error: csv::Error| LogError::Malformed { row, problem: error.to_string() };
        let header = reader.headers().map_err(|error| malformed(0, error))?;
        let names: Vec<String> = header.iter().map(str::to_owned).collect();
        if let Some(problem) = csv_header::problem(&names) {
            return Err(LogError::Header { problem });
        }
        let cells = |record: StringRecord| record.iter().map(str::to_owned).collect();
        let rows = reader
            .records()
            .zip(1..)
            .map(|(record, row)| record.map(cells).map_err(|error| malformed(row, error)))
            .collect::<Result<_, _>>()?;
        Ok(Self { names, rows })
    }

    fn parse_json(text: &str) -> Result<Self, LogError> {
        let mut names: Vec<String> = Vec::new();
        let mut rows = Vec::new();
        for (line, row) in text.lines().filter(|line| !line.trim().is_empty()).zip(1..) {
            let object: Map<String, Value> = serde_json::from_str(line)
                .map_err(|error| LogError::Malformed { row, problem: error.to_string() })?;
            if rows.is_empty() {
                names = object.keys().cloned().collect();
            }
            let cell = |name: &String| match object.get(name) {
                None | Some(Value::Null) => String::new(),
                Some(Value::String(text)) => text.clone(),
                Some(value) => value.to_string(),
            };
            rows.push(names.iter().map(cell).collect());
        }
        Ok(Self { names, rows })
    }

    pub(super) fn height(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn find(&self, names: &[&str]) -> Option<usize> {
        names.iter().find_map(|name| self.names.iter().position(|known| known == name))
    }

    pub(super) fn require(
        &self,
        quantity: &'static str,
        names: &[&str],
    ) -> Result<usize, LogError> {
        self.find(names).ok_or_else(|| self.missing(quantity, names.join(" or ")))
    }

    /// The first of these columns that there is, with a unit at the end of its name. One whose unit is
    /// not known is an error only if no other will do.
    pub(super) fn find_time(&self, names: &[&str]) -> Result<Option<TimeColumn>, LogError> {
        for name in names {
            for (unit, nanos) in UNITS {
                let full = format!("{name}{unit}");
                if let Some(index) = self.names.iter().position(|known| *known == full) {
                    return Ok(Some(TimeColumn { index, nanos }));
                }
            }
        }
        let is_unitless = |known: &&String| {
            names.iter().any(|name| {
                known
                    .strip_prefix(name)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
            })
        };
        match self.names.iter().find(is_unitless) {
            Some(column) => Err(LogError::UnknownUnit { column: column.clone() }),
            None => Ok(None),
        }
    }

    pub(super) fn missing(&self, quantity: &'static str, expected: String) -> LogError {
        LogError::MissingColumn { quantity, expected, found: self.names.clone() }
    }

    pub(super) fn text(&self, row: usize, column: usize) -> &str {
        &self.rows[row][column]
    }

    /// An error about a cell. Rows are counted from 1 for people.
    pub(super) fn cell_error(
        &self,
        row: usize,
        column: usize,
        problem: &'static str,
        advice: &'static str,
    ) -> LogError {
        LogError::Cell {
            row: row + 1,
            column: self.names[column].clone(),
            value: self.text(row, column).to_owned(),
            problem,
            advice,
        }
    }

    pub(super) fn name(&self, column: usize) -> &str {
        &self.names[column]
    }

    pub(super) fn tokens(&self, row: usize, column: usize) -> Result<u32, LogError> {
        let text = self.text(row, column);
        // Tables with an empty cell somewhere are often written with all numbers as 12.0.
        let digits = text.strip_suffix(".0").unwrap_or(text);
        let tokens: u64 = digits.parse().map_err(|_| {
            self.cell_error(row, column, "is not a number of tokens", "write a whole number")
        })?;
        u32::try_from(tokens).ok().filter(|tokens| *tokens <= MAX_TOKENS).ok_or_else(|| {
            let problem = "is more than the 16,777,216 tokens that a prompt or an answer can have";
            self.cell_error(row, column, problem, "check that it counts tokens")
        })
    }

    pub(super) fn number(&self, row: usize, column: usize) -> Result<f64, LogError> {
        let value: Option<f64> = self.text(row, column).parse().ok();
        value.filter(|value| value.is_finite()).ok_or_else(|| {
            self.cell_error(
                row,
                column,
                "is not a finite number",
                "correct the value, or leave the row out if the request failed",
            )
        })
    }

    /// A point in time or a length of time, ns. Only a point may be negative: clocks start anywhere.
    pub(super) fn time_ns(&self, row: usize, column: TimeColumn) -> Result<f64, LogError> {
        let nanos = self.number(row, column.index)? * column.nanos;
        if nanos.abs() <= MAX_TIME_NS as f64 {
            return Ok(nanos);
        }
        let problem = "is more than 73 years";
        Err(self.cell_error(row, column.index, problem, "check the unit that the column names"))
    }
}

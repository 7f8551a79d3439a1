//! Reading a trace, one request at a time, exactly as recorded.
//!
//! Nothing is changed here, not even a clock that is too coarse; that is `prepare`, which says what it
//! did. Memory does not grow with the file, unless it is a router log, whose requests are whole only at its end.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::check::Checker;
use crate::error::{Place, Problem, RowError, TraceError};
use crate::fields::{Fields, check_names, names_of_csv};
use crate::format::bailian::Chats;
use crate::format::parquet::ParquetRows;
use crate::format::router_log::RouterLogRows;
use crate::format::{self, Format, azure, bailian, burstgpt, lodestar, mooncake, sharegpt};
use crate::input::{self, Lines};
use crate::request::TraceRequest;
use crate::row::Row;

/// A relative clock never starts later than this, about ten years: what does is a Unix time.
const LATEST_RELATIVE_START_NS: u64 = 10 * 365 * 86_400 * 1_000_000_000;

/// Opens a trace of any known format, plain, gzip or zstd. The content decides, not the name.
///
/// # Errors
///
/// If the file cannot be read, is empty, or is not of a known format.
pub fn open(path: impl AsRef<Path>) -> Result<TraceReader, TraceError> {
    let path = path.as_ref();
    let mut file = open_file(path).map_err(|problem| TraceError::file(path, problem))?;
    let magic = input::magic(&mut file).map_err(|error| TraceError::file(path, error))?;
    let rows = if magic == input::PARQUET_MAGIC {
        Rows::Parquet(
            ParquetRows::new(file).map_err(|error| TraceError::new(path, Place::File, error))?,
        )
    } else {
        let lines = Lines::new(magic, file).map_err(|error| TraceError::file(path, error))?;
        Rows::of_text(path, lines)?
    };
    let checker = Checker::new(rows.format());
    Ok(TraceReader { path: path.to_owned(), rows, checker, requests: 0, ended: false })
}

fn open_file(path: &Path) -> Result<File, Problem> {
    let explain = |error: io::Error| {
        let is_missing = error.kind() == io::ErrorKind::NotFound;
        if is_missing { Problem::NotFound } else { Problem::Io(error) }
    };
    let file = File::open(path).map_err(explain)?;
    if file.metadata()?.is_dir() { Err(Problem::Folder) } else { Ok(file) }
}

/// The requests of an open trace, in trace order. Ends after the first error.
#[derive(Debug)]
pub struct TraceReader {
    path: PathBuf,
    rows: Rows,
    checker: Checker,
    requests: u64,
    ended: bool,
}

impl TraceReader {
    /// The format that the content was found to be.
    pub fn format(&self) -> Format {
        self.rows.format()
    }

    /// Rows left out so far because they are not requests that a model answered.
    pub fn skipped_rows(&self) -> u64 {
        match &self.rows {
            Rows::Text(rows) => rows.skipped,
            Rows::RouterLog(rows) => rows.skipped,
            Rows::Parquet(_) => 0,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn read(&mut self) -> Option<Result<TraceRequest, (Place, RowError)>> {
        let (place, request) = match &mut self.rows {
            Rows::Text(rows) => {
                let request = rows.next();
                (Place::Line(rows.lines.number()), request)
            }
            Rows::RouterLog(rows) => {
                let request = rows.next();
                (Place::Line(rows.line()), request)
            }
            Rows::Parquet(rows) => {
                let request = rows.next();
                (Place::Row(rows.row()), request)
            }
        };
        let request = match request {
            None if self.requests == 0 => return Some(Err((Place::File, Problem::Empty.into()))),
            None => return None,
            Some(request) => request,
        };
        let checked = request.and_then(|request| self.checker.check(&request).map(|()| request));
        Some(checked.map_err(|error| (place, error)))
    }
}

impl Iterator for TraceReader {
    type Item = Result<TraceRequest, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let item = self.read();
        match item {
            Some(Ok(_)) => self.requests += 1,
            Some(Err(_)) | None => self.ended = true,
        }
        item.map(|item| item.map_err(|(place, error)| TraceError::new(&self.path, place, error)))
    }
}

#[derive(Debug)]
enum Rows {
    Text(TextRows),
    RouterLog(RouterLogRows),
    Parquet(ParquetRows),
}

impl Rows {
    /// Those of a text file, whose first line says its format.
    fn of_text(path: &Path, mut lines: Lines) -> Result<Self, TraceError> {
        let first = match lines.next() {
            None => return Err(TraceError::file(path, Problem::Empty)),
            Some(first) => first.map(str::to_owned),
        };
        let place = Place::Line(lines.number());
        let fail = |error: RowError| TraceError::new(path, place, error);
        let first = first.map_err(|problem| fail(problem.into()))?;
        let format = format::detect(&first).map_err(fail)?;
        if format == Format::RouterLog {
            let rows = RouterLogRows::new(&first, lines);
            let rows = rows.map_err(|(place, error)| TraceError::new(path, place, error));
            return Ok(Self::RouterLog(rows?));
        }
        Ok(Self::Text(TextRows::new(format, first, lines).map_err(fail)?))
    }

    fn format(&self) -> Format {
        match self {
            Self::Text(rows) => rows.format,
            Self::RouterLog(_) => Format::RouterLog,
            Self::Parquet(_) => Format::LodestarParquet,
        }
    }
}

/// The rows of any text format with a row a line.
#[derive(Debug)]
struct TextRows {
    lines: Lines,
    format: Format,
    /// The first line, if it is a row; it had to be read to know the format.
    first: Option<String>,
    /// Column names, of a CSV format.
    header: Vec<String>,
    chats: Chats,
    /// Zero of the file's clock, once the first row is read.
    origin_ns: Option<u64>,
    requests: u64,
    skipped: u64,
}

impl TextRows {
    fn new(format: Format, first: String, lines: Lines) -> Result<Self, RowError> {
        let mut rows = Self {
            lines,
            format,
            first: None,
            header: Vec::new(),
            chats: Chats::default(),
            origin_ns: None,
            requests: 0,
            skipped: 0,
        };
        rows.begin(first)?;
        Ok(rows)
    }

    fn begin(&mut self, first: String) -> Result<(), RowError> {
        let csv = match self.format {
            Format::LodestarJsonl => return lodestar::header(&first),
            Format::Azure => &azure::SCHEMA,
            Format::BurstGpt => &burstgpt::SCHEMA,
            // The last two are listed for the compiler: they have rows of their own.
            Format::Mooncake
            | Format::Bailian
            | Format::ShareGpt
            | Format::RouterLog
            | Format::LodestarParquet => {
                self.first = Some(first);
                return Ok(());
            }
        };
        let names = names_of_csv(&first);
        check_names(&names, csv)?;
        self.header = names.into_iter().map(str::to_owned).collect();
        Ok(())
    }

    fn next(&mut self) -> Option<Result<TraceRequest, RowError>> {
        loop {
            let first = self.first.take();
            let line = match &first {
                Some(line) => line,
                None => match self.lines.next()? {
                    Ok(line) => line,
                    Err(problem) => return Some(Err(problem.into())),
                },
            };
            let id = self.requests;
            let row = match self.format {
                Format::LodestarJsonl | Format::RouterLog | Format::LodestarParquet => {
                    let fields = Fields::from_json(line, &lodestar::SCHEMA);
                    return Some(fields.and_then(|fields| lodestar::row(&fields)));
                }
                Format::Mooncake => Fields::from_json(line, &mooncake::SCHEMA)
                    .and_then(|fields| mooncake::row(&fields, id).map(Some)),
                Format::Bailian => Fields::from_json(line, &bailian::SCHEMA)
                    .and_then(|fields| self.chats.row(&fields).map(Some)),
                Format::ShareGpt => Fields::from_json(line, &sharegpt::SCHEMA)
                    .and_then(|fields| sharegpt::row(&fields).map(Some)),
                Format::Azure => Fields::from_csv(&self.header, line, &azure::SCHEMA)
                    .and_then(|fields| azure::row(&fields, id).map(Some)),
                Format::BurstGpt => Fields::from_csv(&self.header, line, &burstgpt::SCHEMA)
                    .and_then(|fields| burstgpt::row(&fields, id)),
            };
            match row {
                Ok(Some(row)) => return Some(self.request(row)),
                Ok(None) => self.skipped += 1,
                Err(error) => return Some(Err(error)),
            }
        }
    }

    fn request(&mut self, row: Row) -> Result<TraceRequest, RowError> {
        let first_ns = row.at_ns;
        let origin_ns = *self.origin_ns.get_or_insert(if first_ns > LATEST_RELATIVE_START_NS {
            first_ns
        } else {
            0
        });
        let request = row.into_request(self.requests, self.format, origin_ns)?;
        self.requests += 1;
        Ok(request)
    }
}

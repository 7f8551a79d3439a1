//! Writing a trace: into a file beside the one asked for, renamed when it is complete.
//!
//! An interrupted run then leaves nothing that a later one could mistake for a trace.

use std::borrow::Borrow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::check::Checker;
use crate::error::{Place, Problem, RowError, TraceError};
use crate::format::parquet::ParquetWriter;
use crate::format::{Format, lodestar, mooncake};
use crate::request::TraceRequest;

/// Compression of text formats: what zstd itself would choose.
const ZSTD_LEVEL: i32 = 3;

/// Writes a trace. Text formats are compressed if the name ends in `.gz` or `.zst`.
///
/// # Errors
///
/// If the format cannot express a request, a request is not valid, or the file cannot be written. The
/// file that was there before is then untouched.
pub fn write<R: Borrow<TraceRequest>>(
    path: impl AsRef<Path>,
    format: Format,
    requests: impl IntoIterator<Item = R>,
) -> Result<(), TraceError> {
    let mut writer = TraceWriter::create(path, format)?;
    for request in requests {
        writer.push(request.borrow())?;
    }
    writer.finish().map(drop)
}

/// A trace file in the making. Dropped before [`TraceWriter::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct TraceWriter {
    path: PathBuf,
    partial: Partial,
    sink: Sink,
    checker: Checker,
    requests: u64,
}

impl TraceWriter {
    /// Starts a file; nothing is at `path` until it is finished.
    ///
    /// # Errors
    ///
    /// If the format is only read, or the file cannot be created.
    pub fn create(path: impl AsRef<Path>, format: Format) -> Result<Self, TraceError> {
        let path = path.as_ref().to_owned();
        let fail = |problem| TraceError::file(&path, problem);
        let partial = Partial::beside(&path);
        let file = BufWriter::new(File::create(&partial.0).map_err(|error| fail(error.into()))?);
        let sink = Sink::new(&path, format, file).map_err(fail)?;
        Ok(Self { partial, sink, checker: Checker::default(), requests: 0, path })
    }

    /// Appends a request.
    ///
    /// # Errors
    ///
    /// If the request is not valid after those before it, the format cannot express it, or writing fails.
    pub fn push(&mut self, request: &TraceRequest) -> Result<(), TraceError> {
        self.requests += 1;
        self.checker
            .check(request)
            .and_then(|()| self.sink.push(request))
            .map_err(|error| TraceError::new(&self.path, Place::Row(self.requests), error))
    }

    /// Completes the file, gives it its name, and returns how many requests it holds.
    ///
    /// # Errors
    ///
    /// If it holds no request, or writing fails.
    pub fn finish(self) -> Result<u64, TraceError> {
        let Self { path, partial, sink, requests, .. } = self;
        let finish = || {
            if requests == 0 {
                return Err(Problem::Empty);
            }
            let file = sink.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            // On disk before it has its name: a crash must not leave a short file under it.
            file.sync_all()?;
            std::fs::rename(&partial.0, &path)?;
            Ok(requests)
        };
        finish().map_err(|problem| TraceError::file(&path, problem))
    }
}

/// The file that is written to; removed unless it was renamed.
#[derive(Debug)]
struct Partial(PathBuf);

impl Partial {
    fn beside(path: &Path) -> Self {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        // The process in the name: two runs that write the same file must not share a draft.
        name.push(format!(".{}.partial", std::process::id()));
        Self(path.with_file_name(name))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone if it was renamed; if it cannot be removed, nobody is left to tell.
        let _ = std::fs::remove_file(&self.0);
    }
}

type Output = BufWriter<File>;

enum Sink {
    Parquet(Box<ParquetWriter<Output>>),
    Text { out: Compressor, row: fn(&mut dyn Write, &TraceRequest) -> Result<(), RowError> },
}

impl Sink {
    fn new(path: &Path, format: Format, file: Output) -> Result<Self, Problem> {
        let read_only =
            |what: &str| Problem::NotRepresentable { format: format.name(), what: what.to_owned() };
        let compression = path.extension().and_then(|extension| extension.to_str());
        match format {
            Format::LodestarParquet => match compression {
                Some("gz" | "zst") => Err(read_only("a compressed file (it is compressed inside)")),
                _ => ParquetWriter::new(file)
                    .map(|writer| Self::Parquet(Box::new(writer)))
                    .map_err(parquet_problem),
            },
            Format::LodestarJsonl => {
                let mut out = Compressor::new(compression, file)?;
                lodestar::write_header(&mut out)?;
                let row = |out: &mut dyn Write, request: &TraceRequest| {
                    lodestar::write_row(out, request).map_err(|error| Problem::Io(error).into())
                };
                Ok(Self::Text { out, row })
            }
            Format::Mooncake => Ok(Self::Text {
                out: Compressor::new(compression, file)?,
                row: mooncake::write_row,
            }),
            Format::Azure | Format::BurstGpt | Format::Bailian | Format::ShareGpt => {
                Err(read_only("a trace of ours: it is only read"))
            }
        }
    }

    fn push(&mut self, request: &TraceRequest) -> Result<(), RowError> {
        match self {
            Self::Parquet(writer) => {
                writer.push(request).map_err(|error| parquet_problem(error).into())
            }
            Self::Text { out, row } => row(out, request),
        }
    }

    fn finish(self) -> Result<Output, Problem> {
        match self {
            Self::Parquet(writer) => writer.finish().map_err(parquet_problem),
            Self::Text { out, .. } => Ok(out.finish()?),
        }
    }
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Parquet(_) => "Parquet",
            Self::Text { .. } => "Text",
        })
    }
}

/// The encoders cannot share a trait object: each must be closed in its own way.
enum Compressor {
    Plain(Output),
    Gzip(flate2::write::GzEncoder<Output>),
    Zstd(zstd::Encoder<'static, Output>),
}

impl Compressor {
    fn new(extension: Option<&str>, file: Output) -> io::Result<Self> {
        Ok(match extension {
            Some("gz") => {
                Self::Gzip(flate2::write::GzEncoder::new(file, flate2::Compression::default()))
            }
            Some("zst") => {
                let mut encoder = zstd::Encoder::new(file, ZSTD_LEVEL)?;
                // As gzip has: a flipped bit is then an error, not another number.
                encoder.include_checksum(true)?;
                Self::Zstd(encoder)
            }
            _ => Self::Plain(file),
        })
    }

    fn finish(self) -> io::Result<Output> {
        match self {
            Self::Plain(file) => Ok(file),
            Self::Gzip(encoder) => encoder.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl Write for Compressor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.write(bytes),
            Self::Gzip(encoder) => encoder.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.flush(),
            Self::Gzip(encoder) => encoder.flush(),
            Self::Zstd(encoder) => encoder.flush(),
        }
    }
}

fn parquet_problem(error: parquet::errors::ParquetError) -> Problem {
    Problem::Io(io::Error::other(error))
}

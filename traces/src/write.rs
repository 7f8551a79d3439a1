//! Writing a trace: into a file beside the one asked for, renamed when it is complete.
//!
//! An interrupted run then leaves nothing that a later one could mistake for a trace.

use std::borrow::Borrow;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

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

/// Where the file really lies. A rename would replace a link by a file, and a device too.
fn resolve(path: &Path) -> Result<PathBuf, Problem> {
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(path.canonicalize()?),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
            Ok(path.to_owned())
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        Ok(_) | Err(_) => Err(Problem::Occupied),
    }
}

fn cannot_create(error: io::Error) -> Problem {
    if error.kind() == io::ErrorKind::NotFound { Problem::NoFolder } else { Problem::Io(error) }
}

/// A trace file in the making. Dropped before [`TraceWriter::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct TraceWriter {
    path: PathBuf,
    /// The file behind the path, if that is a link.
    destination: PathBuf,
    // Before the draft, which cannot be removed everywhere while it is open.
    sink: Sink,
    partial: Partial,
    checker: Checker,
    requests: u64,
}

impl TraceWriter {
    /// Starts a file; nothing is at `path` until it is finished.
    ///
    /// # Errors
    ///
    /// If the format is only read, `path` is something else than a file, or the file cannot be created.
    pub fn create(path: impl AsRef<Path>, format: Format) -> Result<Self, TraceError> {
        let path = path.as_ref().to_owned();
        let fail = |problem| TraceError::file(&path, problem);
        let destination = resolve(&path).map_err(fail)?;
        let partial = Partial::beside(&destination);
        let file = File::create(&partial.0).map_err(|error| fail(cannot_create(error)))?;
        let file = BufWriter::new(file);
        let sink = Sink::new(&path, format, file).map_err(fail)?;
        let checker = Checker::new(Format::LodestarJsonl);
        Ok(Self { partial, sink, checker, requests: 0, destination, path })
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
        let Self { path, destination, partial, sink, requests, .. } = self;
        let finish = || {
            if requests == 0 {
                return Err(Problem::Empty);
            }
            let file = sink.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            // On disk before it has its name: a crash must not leave a short file under it.
            file.sync_all()?;
            std::fs::rename(&partial.0, &destination)?;
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

type WriteRow = fn(&mut dyn Write, &TraceRequest) -> Result<(), RowError>;

enum Sink {
    Parquet(Box<ParquetWriter<Output>>),
    Text { out: Box<dyn TextFile>, row: WriteRow },
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
                let mut out = text_file(compression, file)?;
                lodestar::write_header(&mut out)?;
                let row = |out: &mut dyn Write, request: &TraceRequest| {
                    lodestar::write_row(out, request).map_err(|error| Problem::Io(error).into())
                };
                Ok(Self::Text { out, row })
            }
            Format::Mooncake => {
                Ok(Self::Text { out: text_file(compression, file)?, row: mooncake::write_row })
            }
            Format::Azure
            | Format::BurstGpt
            | Format::Bailian
            | Format::ShareGpt
            | Format::RouterLog => Err(read_only("a trace of ours: it is only read")),
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

/// A text file in the making, compressed or not. Closing is part of it: what a dropped encoder leaves
/// behind is cut off.
trait TextFile: Write + Send {
    fn finish(self: Box<Self>) -> io::Result<Output>;
}

impl TextFile for Output {
    fn finish(self: Box<Self>) -> io::Result<Output> {
        Ok(*self)
    }
}

impl TextFile for GzEncoder<Output> {
    fn finish(self: Box<Self>) -> io::Result<Output> {
        (*self).finish()
    }
}

impl TextFile for zstd::Encoder<'static, Output> {
    fn finish(self: Box<Self>) -> io::Result<Output> {
        (*self).finish()
    }
}

/// Compressed as the extension says.
fn text_file(extension: Option<&str>, file: Output) -> io::Result<Box<dyn TextFile>> {
    Ok(match extension {
        Some("gz") => Box::new(GzEncoder::new(file, Compression::default())),
        Some("zst") => {
            let mut encoder = zstd::Encoder::new(file, ZSTD_LEVEL)?;
            // As gzip has: a flipped bit is then an error, not another number.
            encoder.include_checksum(true)?;
            Box::new(encoder)
        }
        _ => Box::new(file),
    })
}

fn parquet_problem(error: parquet::errors::ParquetError) -> Problem {
    Problem::Io(io::Error::other(error))
}

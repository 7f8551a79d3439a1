//! A file as lines of text, whatever it is compressed with.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};

use flate2::bufread::GzDecoder;

use crate::error::Problem;

/// Longest line that is read. A prompt of a million literal tokens is about 8 MB; what is longer is not
/// a trace, and must not fill memory before we say so.
const MAX_LINE_BYTES: u64 = 64 << 20;

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const BYTE_ORDER_MARK: &[u8] = &[0xef, 0xbb, 0xbf];
const MAGIC_BYTES: usize = 4;

/// First bytes of a Parquet file.
pub(crate) const PARQUET_MAGIC: &[u8] = b"PAR1";

/// The lines of a text file, numbered from 1.
pub(crate) struct Lines {
    bytes: Box<dyn BufRead + Send>,
    /// Of the stream, for messages.
    compression: Option<&'static str>,
    line: Vec<u8>,
    number: u64,
}

/// The first bytes of `file`, at most four.
pub(crate) fn magic(file: &mut File) -> io::Result<Vec<u8>> {
    let mut magic = Vec::with_capacity(MAGIC_BYTES);
    file.take(MAGIC_BYTES as u64).read_to_end(&mut magic)?;
    Ok(magic)
}

impl Lines {
    /// Reads on in `file`, of which `magic` is already read. Nothing seeks, so a pipe will do.
    pub(crate) fn new(magic: Vec<u8>, file: File) -> io::Result<Self> {
        let is_gzip = magic.starts_with(GZIP_MAGIC);
        let is_zstd = magic.starts_with(ZSTD_MAGIC);
        let raw = BufReader::new(Cursor::new(magic).chain(file));
        let (bytes, compression): (Box<dyn BufRead + Send>, _) = if is_gzip {
            // Several members in a row are one file: that is how logs are rotated and joined.
            (Box::new(BufReader::new(GzipMembers(Some(GzDecoder::new(raw))))), Some("gzip"))
        } else if is_zstd {
            let decoder = zstd::Decoder::with_buffer(raw)?;
            (Box::new(BufReader::new(decoder)), Some("zstd"))
        } else {
            (Box::new(raw), None)
        };
        Ok(Self { bytes, compression, line: Vec::new(), number: 0 })
    }

    /// Number of the line that [`Lines::next`] returned last.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The next line that is not blank, without its end.
    pub(crate) fn next(&mut self) -> Option<Result<&str, Problem>> {
        // Blank lines are skipped in a loop of their own: the borrow of the line outlives this call.
        loop {
            self.line.clear();
            self.number += 1;
            let mut limited = (&mut self.bytes).take(MAX_LINE_BYTES + 1);
            match limited.read_until(b'\n', &mut self.line) {
                Err(error) => return Some(Err(self.explain(error))),
                Ok(0) => return None,
                Ok(read) if read as u64 > MAX_LINE_BYTES => {
                    return Some(Err(Problem::LineTooLong { limit_bytes: MAX_LINE_BYTES }));
                }
                Ok(_) => {}
            }
            if self.number == 1 && self.line.starts_with(BYTE_ORDER_MARK) {
                self.line.drain(..BYTE_ORDER_MARK.len());
            }
            if !self.line.trim_ascii().is_empty() {
                break;
            }
        }
        Some(std::str::from_utf8(self.line.trim_ascii()).map_err(|_| Problem::NotUtf8))
    }

    /// An error of the stream, in terms of the file.
    fn explain(&self, error: io::Error) -> Problem {
        let Some(compression) = self.compression else { return Problem::Io(error) };
        // The decoders have no error type of their own; but only the system's errors have a code.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            Problem::Truncated { compression }
        } else if error.raw_os_error().is_none() {
            Problem::Corrupt { container: compression, detail: error.to_string() }
        } else {
            Problem::Io(error)
        }
    }
}

/// A gzip stream of one member or several, and nothing behind it: what flate2 has for this mistakes other
/// bytes at the end for a member that is cut off.
struct GzipMembers<R>(Option<GzDecoder<R>>);

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.0 {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let mut rest = self.0.take().expect("it was there to read from").into_inner();
            self.0 = match rest.fill_buf()?.first() {
                None => None,
                Some(byte) if *byte == GZIP_MAGIC[0] => Some(GzDecoder::new(rest)),
                Some(_) => {
                    return Err(io::Error::other("other bytes follow the end of the stream"));
                }
            };
        }
        Ok(0)
    }
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines")
            .field("compression", &self.compression)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

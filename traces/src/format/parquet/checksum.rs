//! The checksum of our Parquet files.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};

use flate2::Crc;

use crate::error::Problem;

/// CRC-32 of the first bytes of a file: all rows, but not the footer that holds it. Parquet's own page
/// checksums are optional and this library does not write them; without any, a flipped bit can pass as
/// another length.
#[derive(PartialEq, Eq)]
pub(super) struct Checksum {
    pub(super) bytes: u64,
    crc: u32,
}

impl Checksum {
    pub(super) fn of(mut file: File, bytes: u64) -> Result<Self, Problem> {
        file.rewind()?;
        let mut summed = Summed::new(io::sink());
        io::copy(&mut file.take(bytes), &mut summed)?;
        Ok(summed.checksum())
    }

    /// What [`Checksum::to_string`] wrote.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (bytes, crc) = text.split_once(':')?;
        Some(Self { bytes: bytes.parse().ok()?, crc: u32::from_str_radix(crc, 16).ok()? })
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:08x}", self.bytes, self.crc)
    }
}

/// Sums what is written through it.
pub(super) struct Summed<W> {
    pub(super) out: W,
    crc: Crc,
    bytes: u64,
}

impl<W> Summed<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, crc: Crc::new(), bytes: 0 }
    }

    pub(super) fn checksum(&self) -> Checksum {
        Checksum { bytes: self.bytes, crc: self.crc.sum() }
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

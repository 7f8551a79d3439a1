//! Writing our Parquet files, a row group at a time.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::ColumnPath;

use super::super::lodestar::{VERSION, VERSION_KEY};
use super::batch::Batch;
use super::checksum::Summed;
use super::{CHECKSUM_KEY, Column, schema};
use crate::request::TraceRequest;

/// A row group ends at either limit: the first keeps groups useful to other tools, the second bounds
/// the memory of reading one when prompts are lists of tokens.
const GROUP_ROWS: usize = 16_384;
const GROUP_PROMPT_BYTES: usize = 8 << 20;

/// Writes requests to `out`; nothing is a valid file before [`ParquetWriter::finish`].
pub(crate) struct ParquetWriter<W: Write + Send> {
    file: SerializedFileWriter<Summed<W>>,
    batch: Batch,
    prompt_bytes: usize,
}

impl<W: Write + Send> ParquetWriter<W> {
    pub(crate) fn new(out: W) -> Result<Self, ParquetError> {
        let file = SerializedFileWriter::new(
            Summed::new(out),
            Arc::new(schema()?),
            Arc::new(properties()),
        )?;
        Ok(Self { file, batch: Batch::default(), prompt_bytes: 0 })
    }

    pub(crate) fn push(&mut self, request: &TraceRequest) -> Result<(), ParquetError> {
        self.prompt_bytes += self.batch.push(request);
        if self.batch.rows() == GROUP_ROWS || self.prompt_bytes >= GROUP_PROMPT_BYTES {
            self.write_group()?;
        }
        Ok(())
    }

    pub(crate) fn finish(mut self) -> Result<W, ParquetError> {
        if self.batch.rows() > 0 {
            self.write_group()?;
        }
        self.file.flush()?;
        let checksum = self.file.inner().checksum();
        self.file.append_key_value_metadata(KeyValue::new(
            CHECKSUM_KEY.to_owned(),
            checksum.to_string(),
        ));
        Ok(self.file.into_inner()?.out)
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

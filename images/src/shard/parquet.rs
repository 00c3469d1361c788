//! Parquet files with one encoded image a row, as dataset hubs lay them out: `image: struct<bytes, path>` or a plain
//! binary column, and an integer `label` where there is one.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use diptych_common::spec::DataSpec;
use object_store::ObjectMeta;
use parquet::basic::Type as Physical;
use parquet::column::reader::{ColumnReader, get_column_reader};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};
use parquet::file::serialized_reader::SerializedPageReader;

use super::DataError;
use super::index::{Entry, Place};
use super::source::Source;

/// The footer is nearly always within this many bytes from the end.
const FOOTER: u64 = 64 << 10;

/// Which leaf columns of a file hold what.
#[derive(Debug, Clone)]
struct Columns {
    image: usize,
    path: Option<usize>,
    label: Option<usize>,
}

/// One opened Parquet file.
#[derive(Debug, Clone)]
pub(super) struct File {
    meta: ObjectMeta,
    footer: Arc<ParquetMetaData>,
    columns: Columns,
}

/// Values of one column of one row group: `None` where a row has none.
#[derive(Debug)]
enum Values {
    Bytes(Vec<Option<Bytes>>),
    Integers(Vec<Option<i64>>),
}

impl File {
    /// Reads the footer and finds the columns.
    pub(super) async fn open(
        source: &Source,
        meta: &ObjectMeta,
        spec: &DataSpec,
    ) -> Result<Self, DataError> {
        let mut tail = FOOTER.min(meta.size);
        let mut reader = ParquetMetaDataReader::new();
        loop {
            let bytes = source
                .range(&meta.location, meta.size - tail..meta.size)
                .await?;
            match reader.try_parse_sized(&bytes, meta.size) {
                Ok(()) => break,
                Err(ParquetError::NeedMoreData(needed))
                    if needed as u64 > tail && needed as u64 <= meta.size =>
                {
                    tail = needed as u64
                }
                Err(error) => return Err(DataError::shard(&meta.location, error)),
            }
        }
        let footer = Arc::new(
            reader
                .finish()
                .map_err(|error| DataError::shard(&meta.location, error))?,
        );
        let columns = Columns::find(&footer, spec)
            .map_err(|reason| DataError::shard(&meta.location, reason))?;
        plausible(&footer, columns.image, meta.size)
            .map_err(|reason| DataError::shard(&meta.location, reason))?;
        Ok(Self {
            meta: meta.clone(),
            footer,
            columns,
        })
    }

    /// Names and labels of all rows. `object` is the file's number in the index.
    pub(super) async fn entries(
        &self,
        source: &Source,
        object: u32,
    ) -> Result<Vec<Entry>, DataError> {
        let mut entries = Vec::new();
        for group in 0..self.footer.num_row_groups() {
            let rows = self.rows(group)?;
            let paths = match self.columns.path {
                Some(column) => self.values(source, group, column).await?.bytes(),
                None => Vec::new(),
            };
            let labels = match self.columns.label {
                Some(column) => self.values(source, group, column).await?.integers(),
                None => Vec::new(),
            };
            for (column, found) in [
                (self.columns.path, paths.len()),
                (self.columns.label, labels.len()),
            ] {
                if column.is_some() && found != rows {
                    return Err(self.fault(format!(
                        "row group {group} states {rows} rows, but a column of it holds {found}"
                    )));
                }
            }
            for row in 0..rows {
                let path = paths
                    .get(row)
                    .and_then(Option::as_ref)
                    .map(|path| String::from_utf8_lossy(path).into_owned());
                entries.push(Entry {
                    name: path.filter(|path| !path.is_empty()).unwrap_or_else(|| {
                        format!("{}#{}", source.name(&self.meta), entries.len())
                    }),
                    label: labels.get(row).copied().flatten(),
                    place: Place::Row {
                        object,
                        group: group as u32,
                        row: row as u32,
                    },
                });
            }
        }
        Ok(entries)
    }

    /// The images of one row group, in row order.
    pub(super) async fn images(
        &self,
        source: &Source,
        group: u32,
    ) -> Result<Vec<Option<Bytes>>, DataError> {
        Ok(self
            .values(source, group as usize, self.columns.image)
            .await?
            .bytes())
    }

    /// Class names, where the hub's metadata states them.
    pub(super) fn classes(&self) -> Option<Vec<String>> {
        let pairs = self.footer.file_metadata().key_value_metadata()?;
        let text = pairs
            .iter()
            .find(|pair| pair.key == "huggingface")?
            .value
            .as_deref()?;
        let stated: serde_json::Value = serde_json::from_str(text).ok()?;
        let label = self
            .footer
            .file_metadata()
            .schema_descr()
            .column(self.columns.label?)
            .path()
            .string();
        let names = stated["info"]["features"][label]["names"].as_array()?;
        names
            .iter()
            .map(|name| Some(name.as_str()?.to_owned()))
            .collect()
    }

    /// A fault of this file.
    pub(super) fn fault(&self, reason: String) -> DataError {
        DataError::shard(&self.meta.location, reason)
    }

    fn rows(&self, group: usize) -> Result<usize, DataError> {
        usize::try_from(self.footer.row_group(group).num_rows()).map_err(|_| {
            DataError::shard(
                &self.meta.location,
                format!("row group {group} states a negative number of rows"),
            )
        })
    }

    async fn values(
        &self,
        source: &Source,
        group: usize,
        column: usize,
    ) -> Result<Values, DataError> {
        let chunk = self.footer.row_group(group);
        let range = byte_range(chunk, column, self.meta.size).ok_or_else(|| {
            DataError::shard(
                &self.meta.location,
                format!("column {column} of row group {group} lies outside the file"),
            )
        })?;
        let bytes = source.range(&self.meta.location, range.clone()).await?;
        let piece = Piece {
            start: range.start,
            size: self.meta.size,
            bytes,
        };
        let rows = self.rows(group)?;
        // Broken pages must not take the reader's thread with them, whatever the decoder makes of them.
        catch_unwind(AssertUnwindSafe(|| decode(chunk, column, rows, piece)))
            .unwrap_or_else(|_| Err(ParquetError::General("a page is broken".to_owned())))
            .map_err(|error| self.fault(format!("row group {group}: {error}")))
    }
}

impl Columns {
    fn find(footer: &ParquetMetaData, spec: &DataSpec) -> Result<Self, String> {
        let schema = footer.file_metadata().schema_descr();
        let all: Vec<String> = schema
            .columns()
            .iter()
            .map(|column| column.path().string())
            .collect();
        let position = |name: &str| all.iter().position(|path| path == name);
        let has_type = |column: usize, types: &[Physical]| {
            types.contains(&schema.column(column).physical_type())
        };
        let candidates: Vec<&str> = spec
            .image_column
            .as_deref()
            .map_or_else(|| vec!["image", "img"], |name| vec![name]);
        let image = candidates
            .iter()
            .find_map(|name| position(&format!("{name}.bytes")).or_else(|| position(name)))
            .filter(|&column| has_type(column, &[Physical::BYTE_ARRAY]))
            .ok_or_else(|| {
                format!(
                    "no column of encoded images named {}; it has {}; set data.….image_column",
                    candidates.join(" or "),
                    all.join(", ")
                )
            })?;
        let path = candidates
            .iter()
            .find_map(|name| position(&format!("{name}.path")));
        let label = position(spec.label_column.as_deref().unwrap_or("label"));
        match (label, &spec.label_column) {
            (None, Some(name)) => {
                return Err(format!("no column {name}; it has {}", all.join(", ")));
            }
            (Some(column), _) if !has_type(column, &[Physical::INT32, Physical::INT64]) => {
                return Err(format!(
                    "the label column {} holds no integers",
                    all[column]
                ));
            }
            _ => {}
        }
        if schema.columns().iter().any(|column| {
            column.max_rep_level() > 0
                && [Some(image), label, path].contains(&position(&column.path().string()))
        }) {
            return Err("a row holds a list of images or labels; one of each is needed".to_owned());
        }
        Ok(Self {
            image,
            path: path.filter(|&column| has_type(column, &[Physical::BYTE_ARRAY])),
            label,
        })
    }
}

impl Values {
    fn bytes(self) -> Vec<Option<Bytes>> {
        match self {
            Self::Bytes(values) => values,
            Self::Integers(values) => values.iter().map(|_| None).collect(),
        }
    }

    fn integers(self) -> Vec<Option<i64>> {
        match self {
            Self::Integers(values) => values,
            Self::Bytes(values) => values.iter().map(|_| None).collect(),
        }
    }
}

/// Refuses a footer whose counts contradict each other or the file's size, before any of them takes memory: a row takes
/// at least a byte.
fn plausible(footer: &ParquetMetaData, image: usize, size: u64) -> Result<(), String> {
    let mut total = 0u64;
    for (number, group) in footer.row_groups().iter().enumerate() {
        let (rows, images) = (group.num_rows(), group.column(image).num_values());
        if rows != images {
            return Err(format!(
                "row group {number} states {rows} rows, but its image column states {images}"
            ));
        }
        total = total.saturating_add(u64::try_from(rows).unwrap_or(u64::MAX));
    }
    if total > size {
        return Err(format!(
            "its footer states {total} rows, more than its {size} bytes can hold"
        ));
    }
    Ok(())
}

fn byte_range(group: &RowGroupMetaData, column: usize, size: u64) -> Option<Range<u64>> {
    let (start, length) = {
        let chunk = group.column(column);
        let start = chunk
            .dictionary_page_offset()
            .unwrap_or(chunk.data_page_offset())
            .min(chunk.data_page_offset());
        (
            u64::try_from(start).ok()?,
            u64::try_from(chunk.compressed_size()).ok()?,
        )
    };
    let end = start.checked_add(length)?;
    (end <= size).then_some(start..end)
}

fn decode(
    group: &RowGroupMetaData,
    column: usize,
    rows: usize,
    piece: Piece,
) -> Result<Values, ParquetError> {
    let chunk = group.column(column);
    let descriptor = chunk.column_descr_ptr();
    let present = descriptor.max_def_level();
    let pages = Box::new(SerializedPageReader::new(
        Arc::new(piece),
        chunk,
        rows,
        None,
    )?);
    let mut levels = Vec::new();
    macro_rules! read {
        ($reader:expr, $convert:expr) => {{
            let mut reader = $reader;
            let mut values = Vec::new();
            while levels.len() < rows || (present == 0 && values.len() < rows) {
                let before = (levels.len(), values.len());
                reader.read_records(
                    rows,
                    (present > 0).then_some(&mut levels),
                    None,
                    &mut values,
                )?;
                if (levels.len(), values.len()) == before {
                    break;
                }
            }
            let mut values = values.into_iter().map($convert);
            if present == 0 {
                values.map(Some).collect::<Vec<_>>()
            } else {
                levels
                    .iter()
                    .map(|&level| {
                        if level == present {
                            values.next()
                        } else {
                            None
                        }
                    })
                    .collect()
            }
        }};
    }
    match get_column_reader(descriptor, pages) {
        ColumnReader::ByteArrayColumnReader(reader) => Ok(Values::Bytes(read!(
            reader,
            |value: parquet::data_type::ByteArray| Bytes::copy_from_slice(value.data())
        ))),
        ColumnReader::Int64ColumnReader(reader) => {
            Ok(Values::Integers(read!(reader, |value: i64| value)))
        }
        ColumnReader::Int32ColumnReader(reader) => Ok(Values::Integers(read!(reader, i64::from))),
        _ => Err(ParquetError::General("unexpected column type".to_owned())),
    }
}

/// One fetched column chunk, seen as the whole file.
#[derive(Debug)]
struct Piece {
    start: u64,
    size: u64,
    bytes: Bytes,
}

impl Length for Piece {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Piece {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        let length = (self.start + self.bytes.len() as u64).saturating_sub(start) as usize;
        Ok(bytes::Buf::reader(self.get_bytes(start, length)?))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let from = start
            .checked_sub(self.start)
            .and_then(|from| usize::try_from(from).ok());
        match from.and_then(|from| Some(from..from.checked_add(length)?)) {
            Some(range) if range.end <= self.bytes.len() => Ok(self.bytes.slice(range)),
            _ => Err(ParquetError::EOF(format!(
                "bytes {start} to {} are outside the column",
                start.saturating_add(length as u64)
            ))),
        }
    }
}

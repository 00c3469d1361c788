//! Where images are, and which of their labels a phase may use.

use crate::ids::DataName;

/// A data set.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSpec {
    /// Its key in the spec's `data` map.
    pub name: DataName,
    /// `file://`, `s3://`, `gs://` or `az://`; the last part may hold one `*`.
    pub url: String,
    /// How samples are stored.
    pub format: DataFormat,
    /// Parquet: column of encoded images, where it is not the usual one.
    pub image_column: Option<String>,
    /// Parquet: label column, where it is not the usual one.
    pub label_column: Option<String>,
    /// Class names in label order, where the data does not name them.
    pub classes: Option<Vec<String>>,
    /// Use only the first this many samples.
    pub limit: Option<u64>,
}

/// How samples are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataFormat {
    /// By what the URL holds.
    Auto,
    /// Parquet files with one encoded image a row, as dataset hubs lay them out.
    Parquet,
    /// WebDataset tar shards: `key.jpg` beside `key.cls`.
    Tar,
    /// Image files, in one folder per class or unlabelled.
    Folder,
}

/// Which labels of the training data may be used.
#[derive(Debug, Clone, PartialEq)]
pub enum Labels {
    /// Every one.
    All,
    /// A share of each class, in (0, 1], drawn with this seed.
    Share {
        /// The share.
        share: f64,
        /// Seed of the draw.
        seed: u64,
    },
    /// A number of each class, drawn with this seed.
    PerClass {
        /// The number, at least 1.
        count: u32,
        /// Seed of the draw.
        seed: u64,
    },
    /// The samples that a text file names, one a line.
    List {
        /// Where the file is.
        url: String,
    },
}

impl Labels {
    /// How many of a class of this size a share takes: rounded, but at least one.
    pub fn share_of(size: u64, share: f64) -> u64 {
        ((size as f64 * share).round() as u64).max(1)
    }
}

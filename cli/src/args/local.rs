//! Verbs that work on this machine.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use diptych_common::ids::PhaseName;
use diptych_common::spec::DataFormat;

use super::job::SpecFile;

/// Run a spec on this machine: a coordinator and workers on loopback ports, followed to the end.
///
/// `${DIPTYCH_STORAGE}` in the spec stands for a folder of the state directory unless it is set. Everything that was
/// started ends with this command; Ctrl-C stops it cleanly. Exits as `diptych wait`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych local -f job.yaml --workers 2
  diptych local -f job.yaml --workers 4 --dir run1 --set seed=3 -o json > results.json")]
pub(crate) struct Local {
    #[command(flatten)]
    pub(crate) spec: SpecFile,
    /// Number of worker processes.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) workers: NonZeroU32,
    /// CPU slots that each worker offers. For a job on GPUs the first one offers all of this machine's, too.
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) devices_per_worker: NonZeroU32,
    /// State: coordinator data, checkpoints, logs. Default: a temporary directory, removed after success.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Keep the temporary directory.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// Classes of one's own images, from an exported model.
///
/// Runs `diptych-worker predict` (beside this program, in PATH, or DIPTYCH_WORKER) with these arguments.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych predict --model student.safetensors photo.jpg
  diptych predict -o json --model student.safetensors *.png")]
pub(crate) struct Predict {
    /// `--model FILE IMAGES…`, and whatever else `diptych-worker predict --help` lists.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "ARGS"
    )]
    pub(crate) args: Vec<OsString>,
}

/// Features of one's own images, from an exported model.
///
/// Runs `diptych-worker embed` (beside this program, in PATH, or DIPTYCH_WORKER) with these arguments.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Example:
  diptych embed --model encoder.safetensors --out features.safetensors *.png")]
pub(crate) struct Embed {
    /// `--model FILE --out FILE IMAGES…`, and whatever else `diptych-worker embed --help` lists.
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "ARGS"
    )]
    pub(crate) args: Vec<OsString>,
}

/// Look at a data set before training on it.
#[derive(Debug, Clone, Args)]
pub(crate) struct Dataset {
    #[command(subcommand)]
    pub(crate) verb: DatasetVerb,
}

/// What to do with it.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum DatasetVerb {
    Inspect(Inspect),
}

/// Count samples, classes and sizes, name the first problems, draw contact sheets.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych dataset inspect file:///data/cifar10/train.parquet
  diptych dataset inspect file:///data/photos --contact-sheet sheet.png --augment-size 64
  diptych dataset inspect -f job.yaml --phase pretrain --contact-sheet sheet.png
  diptych dataset inspect -f job.yaml --phase pretrain --operations-sheet operations.png")]
#[command(group = clap::ArgGroup::new("sheets").multiple(true))]
pub(crate) struct Inspect {
    /// A Parquet file, a tar shard, or a folder of them or of images. A `*` in the last part selects files.
    #[arg(required_unless_present = "file")]
    pub(crate) url: Option<String>,
    /// Instead of a URL: the training data and the augmentation of a phase of this spec; `-` reads standard input.
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with_all = [
        "url", "format", "image_column", "label_column", "classes", "augment_size",
    ])]
    pub(crate) file: Option<PathBuf>,
    /// Change one field of the spec, as for `submit`. May be repeated.
    #[arg(
        long = "set",
        value_name = "PATH=VALUE",
        requires = "file",
        conflicts_with = "url"
    )]
    pub(crate) set: Vec<String>,
    /// Which phase of the spec; the first unless given.
    #[arg(long, value_name = "NAME", requires = "file", conflicts_with = "url")]
    pub(crate) phase: Option<PhaseName>,
    /// How samples are stored.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) format: Stored,
    /// Parquet: column of encoded images, where it is not `image` or `img`.
    #[arg(long, value_name = "NAME")]
    pub(crate) image_column: Option<String>,
    /// Parquet: label column, where it is not `label`.
    #[arg(long, value_name = "NAME")]
    pub(crate) label_column: Option<String>,
    /// Class names in label order, where the data does not name them.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) classes: Option<Vec<String>>,
    /// Decode at most N images, evenly chosen; counts and classes are of all.
    #[arg(long, value_name = "N", default_value = "10000")]
    pub(crate) limit: u64,
    /// Write a picture of whole originals beside their two views.
    #[arg(long, value_name = "FILE.png", group = "sheets")]
    pub(crate) contact_sheet: Option<PathBuf>,
    /// Write a picture of what each operation of the augmentation does on its own, a row each: crop, flip, brightness,
    /// contrast, saturation, hue, grayscale, blur, and all of them.
    #[arg(long, value_name = "FILE.png", group = "sheets")]
    pub(crate) operations_sheet: Option<PathBuf>,
    /// Side of the views on the sheets, in pixels.
    #[arg(long, value_name = "PIXELS", default_value = "96", requires = "sheets")]
    pub(crate) augment_size: NonZeroU32,
}

/// How samples are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stored {
    /// By what is there.
    Auto,
    /// Encoded images in a column.
    Parquet,
    /// WebDataset shards.
    Tar,
    /// Image files, one folder a class or unlabelled.
    Folder,
}

impl From<Stored> for DataFormat {
    fn from(stored: Stored) -> Self {
        match stored {
            Stored::Auto => DataFormat::Auto,
            Stored::Parquet => DataFormat::Parquet,
            Stored::Tar => DataFormat::Tar,
            Stored::Folder => DataFormat::Folder,
        }
    }
}

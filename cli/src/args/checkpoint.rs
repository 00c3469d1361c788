//! Verbs about checkpoints.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use diptych_common::ids::{JobId, PhaseName};

/// Look at, verify, export and keep checkpoints.
#[derive(Debug, Clone, Args)]
pub(crate) struct Checkpoint {
    #[command(subcommand)]
    pub(crate) verb: CheckpointVerb,
}

/// What to do with them.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum CheckpointVerb {
    List(List),
    Describe(Describe),
    Verify(Verify),
    Export(Export),
    Inspect(Inspect),
    Pin(Pin),
    Unpin(Unpin),
}

/// One checkpoint of a job.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// Job id.
    pub(crate) job: JobId,
    /// Phase that wrote it. Default: the last one that has a checkpoint.
    #[arg(long, value_name = "NAME")]
    pub(crate) phase: Option<PhaseName>,
    /// Its step. Default: the result of a phase that is done, before that the newest verified.
    #[arg(long, value_name = "N")]
    pub(crate) step: Option<u64>,
}

/// List a job's checkpoints, newest first.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  diptych checkpoint list digits-3f9a01")]
pub(crate) struct List {
    /// Job id.
    pub(crate) job: JobId,
}

/// Show one checkpoint: keys, digest, size, state.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  diptych checkpoint describe digits-3f9a01 --phase pretrain")]
pub(crate) struct Describe {
    #[command(flatten)]
    pub(crate) which: Which,
}

/// Have a worker re-read sizes and hashes; exit 1 if the checkpoint is broken.
#[derive(Debug, Clone, Args)]
#[command(
    after_help = "Example:\n  diptych checkpoint verify digits-3f9a01 --phase pretrain --step 1200"
)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) which: Which,
}

/// Write one file that other programs open: safetensors for torchvision and timm, or ONNX for serving.
///
/// Reads the objects directly from the job's storage, with the credentials in this environment, and checks every one
/// against its digest. Tensor names are torchvision's where the network is; class names and preprocessing are in the
/// file's metadata. ONNX (opset 17) takes `images` [batch, 3, side, side] and gives `features` and, where the phase has a
/// classifier, `logits`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych checkpoint export digits-3f9a01 --out student.safetensors
  diptych checkpoint export digits-3f9a01 --phase pretrain --out encoder.safetensors
  diptych checkpoint export digits-3f9a01 --phase pretrain --with-head --out pretrained.safetensors
  diptych checkpoint export digits-3f9a01 --format onnx --out student.onnx
  diptych predict --model student.safetensors photo.jpg")]
pub(crate) struct Export {
    #[command(flatten)]
    pub(crate) which: Which,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// What the file is.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: FileFormat,
    /// Keep the whole projection head (`head.*`), so that another job can go on from it with `from: URL`. torchvision
    /// does not know these tensors. In ONNX it gives the output `projection`.
    #[arg(long)]
    pub(crate) with_head: bool,
}

/// What an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum FileFormat {
    /// Tensors, to load into a network or to go on training from.
    #[default]
    Safetensors,
    /// A network that a runtime computes.
    Onnx,
}

/// Say what a file of weights holds: an export, or a ResNet of torchvision, timm or a PyTorch conversion of SimCLR.
///
/// Reads safetensors and .pth files; nothing in them is executed. What it prints as `encoder` is what a spec must say to
/// start from the file with `from: URL`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Examples:
  diptych checkpoint inspect r50_1x_sk0.pth
  diptych checkpoint inspect s3://models/resnet50.safetensors -o json")]
pub(crate) struct Inspect {
    /// The file, or its URL.
    #[arg(value_name = "FILE|URL")]
    pub(crate) file: String,
}

/// Never collect this checkpoint.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  diptych checkpoint pin digits-3f9a01 --phase pretrain")]
pub(crate) struct Pin {
    #[command(flatten)]
    pub(crate) which: Which,
}

/// Let retention collect this checkpoint again.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  diptych checkpoint unpin digits-3f9a01 --phase pretrain")]
pub(crate) struct Unpin {
    #[command(flatten)]
    pub(crate) which: Which,
}

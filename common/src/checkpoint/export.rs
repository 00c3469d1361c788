//! One safetensors file that torchvision opens without a converter, and the way back in.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{JobId, PhaseName, Step};

use super::shard::Part;
use super::{
    Dtype, Manifest, NetworkDescription, Preprocessing, Role, TensorBytes, TensorEntry, Tensors,
};

/// The key of [`ExportInfo`] in the file's metadata.
const METADATA: &str = "diptych";

/// What a file says about itself, as JSON in its metadata.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ExportInfo {
    /// The network: encoder, kept head, classes.
    pub network: NetworkDescription,
    /// What it expects of an image.
    pub preprocessing: Preprocessing,
    /// The job that trained it.
    pub job: JobId,
    /// The phase that trained it.
    pub phase: PhaseName,
    /// Its steps.
    pub step: Step,
    /// Digest of the checkpoint's manifest.
    pub checkpoint: Digest,
    /// Measurements.
    pub results: std::collections::BTreeMap<String, f64>,
}

/// A file that was read.
#[derive(Debug, Clone)]
pub struct Imported {
    /// What it says about itself; `None` for files of other programs.
    pub info: Option<ExportInfo>,
    /// Its tensors, without `num_batches_tracked`.
    pub tensors: Tensors,
}

/// Why a file cannot be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Not safetensors.
    #[error("not a safetensors file: {reason}")]
    Form {
        /// What the parser said.
        reason: String,
    },
    /// An element type that no network here has.
    #[error("tensor {name} has elements of type {dtype}, which is not supported")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// The description in it is damaged.
    #[error("its metadata `{METADATA}` is malformed: {reason}")]
    Metadata {
        /// What the parser said.
        reason: String,
    },
}

/// What an export keeps of a projection head that no classifier reads through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: torchvision's names alone.
    Network,
    /// All that the checkpoint has of it, to go on training here.
    NetworkAndHead,
}

/// Whether a tensor belongs into the export: the encoder, the classifier if any, the head's layers that the
/// classifier reads through, and the rest of the head as `keep` says.
pub fn wanted(manifest: &Manifest, tensor: &TensorEntry, keep: Keep) -> bool {
    let part = tensor.name.split('.').next().unwrap_or_default();
    let classifier = manifest.network.classifier.as_ref();
    let network = matches!(tensor.role, Role::Weight | Role::Statistic);
    network
        && match part {
            "fc" => classifier.is_some(),
            "head" => {
                keep == Keep::NetworkAndHead
                    || classifier
                        .zip(head_layer(&tensor.name))
                        .is_some_and(|(classifier, layer)| layer < classifier.head_layer)
            }
            // Trained beside the network, for figures alone.
            "probe" | "fc_at" => false,
            _ => true,
        }
}

/// Layers of the projection head that are whole among these tensors, counted from the first.
pub fn head_layers<'a>(names: impl IntoIterator<Item = &'a String>) -> u32 {
    let names: BTreeSet<&str> = names.into_iter().map(String::as_str).collect();
    let whole = |layer: &u32| names.contains(format!("head.{layer}.weight").as_str());
    (0..).take_while(whole).count() as u32
}

/// `i` of `head.{i}.…`.
fn head_layer(name: &str) -> Option<u32> {
    name.split('.').nth(1)?.parse().ok()
}

/// Writes the file: the tensors that [`wanted`] picked, and `num_batches_tracked` beside every running mean, so that
/// `load_state_dict(strict=True)` takes it.
///
/// # Errors
/// When the tensors contradict their own shapes.
pub fn write(
    manifest: &Manifest,
    checkpoint: Digest,
    tensors: &Tensors,
) -> Result<Vec<u8>, super::shard::ShardError> {
    let layout = |reason: String| super::shard::ShardError::Layout { reason };
    let steps = i64::try_from(manifest.step.get())
        .unwrap_or(i64::MAX)
        .to_le_bytes();
    let mut parts = Vec::new();
    for (name, tensor) in tensors {
        let shape = tensor.shape.iter().map(|dim| *dim as usize).collect();
        parts.push((
            name.clone(),
            Part {
                dtype: tensor.dtype,
                shape,
                bytes: &tensor.bytes,
            },
        ));
        if let Some(norm) = name.strip_suffix("running_mean") {
            parts.push((
                format!("{norm}num_batches_tracked"),
                Part {
                    dtype: Dtype::I64,
                    shape: vec![],
                    bytes: &steps,
                },
            ));
        }
    }
    let mut network = manifest.network.clone();
    network.head = network.head.filter(|_| head_layers(tensors.keys()) > 0);
    let info = ExportInfo {
        network,
        preprocessing: manifest.preprocessing,
        job: manifest.job.clone(),
        phase: manifest.name.clone(),
        step: manifest.step,
        checkpoint,
        results: manifest.results.clone(),
    };
    let info = serde_json::to_string(&info).map_err(|error| layout(error.to_string()))?;
    // `format: pt` is what other readers of safetensors look for.
    let metadata = HashMap::from([
        ("format".to_owned(), "pt".to_owned()),
        (METADATA.to_owned(), info),
    ]);
    safetensors::serialize(parts, Some(metadata)).map_err(|error| layout(error.to_string()))
}

/// Reads an export, or another program's file with torchvision's names.
///
/// # Errors
/// A file that is no safetensors, or holds types or metadata that cannot be read.
pub fn read(file: &Bytes) -> Result<Imported, ImportError> {
    let form = |error: safetensors::SafeTensorError| ImportError::Form {
        reason: error.to_string(),
    };
    let (_, header) = SafeTensors::read_metadata(file).map_err(form)?;
    let info = header
        .metadata()
        .as_ref()
        .and_then(|metadata| metadata.get(METADATA));
    let info = info.map(|text| serde_json::from_str(text)).transpose();
    let info = info.map_err(|error| ImportError::Metadata {
        reason: error.to_string(),
    })?;
    let mut tensors = Tensors::new();
    for (name, view) in SafeTensors::deserialize(file).map_err(form)?.iter() {
        if name.ends_with("num_batches_tracked") {
            continue;
        }
        let dtype = Dtype::try_from(view.dtype()).map_err(|dtype| ImportError::Dtype {
            name: name.to_owned(),
            dtype: format!("{dtype:?}"),
        })?;
        let shape = view.shape().iter().map(|dim| *dim as u64).collect();
        tensors.insert(
            name.to_owned(),
            TensorBytes {
                dtype,
                shape,
                bytes: file.slice_ref(view.data()),
            },
        );
    }
    Ok(Imported { info, tensors })
}

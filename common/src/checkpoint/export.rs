//! One safetensors file that torchvision opens without a converter. The way back in is [`crate::import`].

use std::collections::{BTreeSet, HashMap};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{JobId, PhaseName, Step};

use super::shard::Part;
use super::{Dtype, Manifest, NetworkDescription, Preprocessing, Role, TensorEntry, Tensors};

/// The key of [`ExportInfo`] in the file's metadata.
pub(crate) const METADATA: &str = "diptych";

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

impl ExportInfo {
    /// What an export of these tensors of a checkpoint says. `checkpoint` is the digest of the manifest.
    pub fn of(manifest: &Manifest, checkpoint: Digest, tensors: &Tensors) -> Self {
        let mut network = manifest.network.clone();
        network.head = network.head.filter(|_| head_layers(tensors.keys()) > 0);
        Self {
            network,
            preprocessing: manifest.preprocessing,
            job: manifest.job.clone(),
            phase: manifest.name.clone(),
            step: manifest.step,
            checkpoint,
            results: manifest.results.clone(),
        }
    }
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
pub(crate) fn head_layer(name: &str) -> Option<u32> {
    name.strip_prefix("head.")?.split('.').next()?.parse().ok()
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
    let info = ExportInfo::of(manifest, checkpoint, tensors);
    let info = serde_json::to_string(&info).map_err(|error| layout(error.to_string()))?;
    // `format: pt` is what other readers of safetensors look for.
    let metadata = HashMap::from([
        ("format".to_owned(), "pt".to_owned()),
        (METADATA.to_owned(), info),
    ]);
    safetensors::serialize(parts, Some(metadata)).map_err(|error| layout(error.to_string()))
}

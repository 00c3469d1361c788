//! The manifest: all that is needed to load a checkpoint, to trust it and to know where it comes from.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{Attempt, JobId, PhaseIndex, PhaseName, Step};
use crate::spec::{EncoderSpec, HeadSpec, Resampling};

use super::{CheckpointKey, CheckpointRef, Dtype, Role, TensorMeta};

/// The version that this build writes.
const VERSION: u32 = 1;

/// A checkpoint's description; JSON in the store. Made whole: [`parse`](Self::parse) and [`encode`](Self::encode)
/// refuse one that contradicts itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Version of the format: 1.
    pub version: u32,
    /// The job.
    pub job: JobId,
    /// The phase's position in the spec.
    pub phase: PhaseIndex,
    /// The phase's name.
    pub name: PhaseName,
    /// What the phase trains.
    pub kind: PhaseWord,
    /// The attempt that wrote it.
    pub attempt: Attempt,
    /// Steps committed in the state.
    pub step: Step,
    /// Ranks that wrote it; any number may read it.
    pub world: u32,
    /// Digest of the job's spec.
    pub spec: Digest,
    /// Digest of the phase's data (training and evaluation index, chosen labels; early releases: the training index
    /// alone): changed data is refused at resume.
    pub data: Digest,
    /// Digest of the manifest that this training went on or started from, if any.
    pub parent: Option<Digest>,
    /// What the tensors form.
    pub network: NetworkDescription,
    /// What the network expects of an image.
    pub preprocessing: Preprocessing,
    /// Measurements at this step, all finite; final ones where it is the phase's last.
    pub results: BTreeMap<String, f64>,
    /// Every tensor.
    pub tensors: Vec<TensorEntry>,
    /// The shards, in rank order.
    pub objects: Vec<StoredObject>,
}

/// A phase kind in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the words of the spec")]
pub enum PhaseWord {
    Pretrain,
    LinearEval,
    Finetune,
    Distill,
}

/// The network whose state a checkpoint holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkDescription {
    /// The encoder.
    pub encoder: EncoderSpec,
    /// The projection head, where any of its layers is kept.
    pub head: Option<HeadSpec>,
    /// The classifier, where there is one.
    pub classifier: Option<Classifier>,
}

/// A linear classifier (`fc.weight`, `fc.bias`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classifier {
    /// Class names in label order.
    pub classes: Vec<String>,
    /// What it reads: 0 for the encoder's output, j for the projection head's j-th layer.
    pub head_layer: u32,
}

/// How an image becomes an input: resize and centre-crop, RGB in [0, 1], no mean or standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Side of the input in pixels.
    pub image_size: u32,
    /// Share of the shorter side that the centre crop keeps: 0.875, or 1 for small images.
    pub crop_proportion: f64,
    /// How the crop is resized; absent for TensorFlow's bicubic kernel.
    #[serde(default, skip_serializing_if = "Resampling::is_default")]
    pub resampling: Resampling,
}

/// One tensor and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TensorEntry {
    /// torchvision's name where the network is.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// What it is for.
    pub role: Role,
    /// Index into [`Manifest::objects`].
    pub shard: u32,
    /// First byte and the byte behind the last, behind the shard's header.
    pub range: [u64; 2],
}

/// One object in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredObject {
    /// Key under the storage URL.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// BLAKE3 of the whole object.
    pub digest: Digest,
}

/// Why a manifest is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON of this form.
    #[error("not a manifest: {reason}")]
    Form {
        /// What the parser said.
        reason: String,
    },
    /// Written by another release.
    #[error("manifest version {found} is not supported: this release reads version {VERSION}")]
    Version {
        /// The version in the file.
        found: u64,
    },
    /// It contradicts itself.
    #[error("manifest contradicts itself: {reason}")]
    Contradiction {
        /// Where and how.
        reason: String,
    },
}

impl Manifest {
    /// The version for new manifests.
    pub const VERSION: u32 = VERSION;

    /// Reads a manifest, strictly.
    ///
    /// # Errors
    /// Unknown versions and fields, and contradictions between tensors and objects.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct Header {
            version: u64,
        }
        let form = |error: serde_json::Error| ManifestError::Form {
            reason: error.to_string(),
        };
        let Header { version } = serde_json::from_slice(bytes).map_err(form)?;
        if version != u64::from(VERSION) {
            return Err(ManifestError::Version { found: version });
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(form)?;
        manifest.check()?;
        Ok(manifest)
    }

    /// The bytes to store, and their digest.
    ///
    /// # Errors
    /// When it contradicts itself: a reader would refuse it.
    pub fn encode(&self) -> Result<(Vec<u8>, Digest), ManifestError> {
        self.check()?;
        let bytes = serde_json::to_vec_pretty(self).map_err(|error| ManifestError::Form {
            reason: error.to_string(),
        })?;
        let digest = Digest::of(&bytes);
        Ok((bytes, digest))
    }

    /// Its folder.
    pub fn key(&self) -> CheckpointKey {
        CheckpointKey {
            job: self.job.clone(),
            phase: self.phase,
            name: self.name.clone(),
            step: self.step,
            attempt: self.attempt,
        }
    }

    /// A reference to it, given the digest of its bytes.
    pub fn reference(&self, digest: Digest) -> CheckpointRef {
        CheckpointRef {
            phase: self.name.clone(),
            manifest: self.key().manifest(),
            digest,
            step: self.step,
        }
    }

    /// Bytes of all shards.
    pub fn bytes(&self) -> u64 {
        self.objects
            .iter()
            .fold(0, |sum, object| sum.saturating_add(object.size))
    }

    fn check(&self) -> Result<(), ManifestError> {
        let refuse = |reason: String| Err(ManifestError::Contradiction { reason });
        if let Some((name, _)) = self.results.iter().find(|(_, value)| !value.is_finite()) {
            return refuse(format!("result {name} is not finite"));
        }
        let folder = format!("{}/", self.key());
        let mut keys = BTreeSet::new();
        for object in &self.objects {
            let inside = object
                .key
                .strip_prefix(&folder)
                .is_some_and(|name| !name.is_empty() && !name.contains('/'));
            if !inside || !keys.insert(&object.key) {
                return refuse(format!(
                    "object {} is listed twice or outside {folder}",
                    object.key
                ));
            }
        }
        let mut names = BTreeSet::new();
        let mut ranges: BTreeMap<u32, Vec<[u64; 2]>> = BTreeMap::new();
        for tensor in &self.tensors {
            let Some(object) = self.objects.get(tensor.shard as usize) else {
                return refuse(format!(
                    "tensor {} is in shard {}, which is not listed",
                    tensor.name, tensor.shard
                ));
            };
            let [start, end] = tensor.range;
            let size = end.checked_sub(start);
            if size.is_none() || size != tensor.dtype.bytes(&tensor.shape) || end > object.size {
                return refuse(format!(
                    "tensor {} does not fit its place in {}",
                    tensor.name, object.key
                ));
            }
            if !names.insert(&tensor.name) {
                return refuse(format!("tensor {} is listed twice", tensor.name));
            }
            ranges.entry(tensor.shard).or_default().push(tensor.range);
        }
        for (shard, mut ranges) in ranges {
            ranges.sort_unstable();
            if ranges.windows(2).any(|pair| pair[1][0] < pair[0][1]) {
                return refuse(format!("tensors overlap in shard {shard}"));
            }
        }
        Ok(())
    }
}

impl TensorEntry {
    /// The tensor without its place.
    pub fn meta(&self) -> TensorMeta {
        TensorMeta {
            name: self.name.clone(),
            dtype: self.dtype,
            shape: self.shape.clone(),
            role: self.role,
        }
    }
}

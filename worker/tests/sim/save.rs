//! Checkpoints of simulated trainers: real shards and manifests around a state of eight bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use diptych_common::checkpoint::{
    CheckpointKey, CheckpointReader, CheckpointRef, Dtype, LoadError, Manifest, NetworkDescription,
    PhaseWord, Preprocessing, Role, StoredObject, TensorMeta, partition, shard,
};
use diptych_common::digest::Digest;
use diptych_common::ids::{JobId, PhaseIndex, Rank};
use diptych_common::spec::{Depth, EncoderSpec, Resampling};
use diptych_common::store::{self, StoreError};
use object_store::ObjectStore;
use object_store::path::Path;

use crate::bucket::Bucket;

/// Tensors of a state, so that every rank has a part of it.
const TENSORS: u64 = 8;

/// What a trainer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct State {
    /// Steps committed.
    pub(crate) step: u64,
    /// What they have come to: each step makes the next value from the one before.
    pub(crate) value: u64,
}

impl State {
    /// After so many steps, none left out and none twice.
    pub(crate) fn after(job: &JobId, phase: PhaseIndex, steps: u64) -> Self {
        let start = Digest::of(format!("{job}/{phase}").as_bytes()).to_string();
        let value = u64::from_str_radix(&start[..15], 16).unwrap_or_default();
        let mut state = Self { step: 0, value };
        for _ in 0..steps {
            state = state.next();
        }
        state
    }

    pub(crate) fn next(self) -> Self {
        let value = self.value.wrapping_mul(6_364_136_223_846_793_005);
        Self {
            step: self.step + 1,
            value: value.wrapping_add(self.step | 1),
        }
    }

    pub(crate) fn digest(self) -> String {
        Digest::of(&self.value.to_le_bytes()).to_string()
    }

    fn bytes(self, tensor: u64) -> [u8; 8] {
        self.value.wrapping_add(tensor).to_le_bytes()
    }
}

/// Where a rank saves.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) key: CheckpointKey,
    pub(crate) rank: u32,
    pub(crate) world: u32,
}

fn tensors() -> Vec<TensorMeta> {
    let tensor = |number: u64| TensorMeta {
        name: format!("t{number}"),
        dtype: Dtype::U8,
        shape: vec![8],
        role: Role::Weight,
    };
    (0..TENSORS).map(tensor).collect()
}

fn root() -> Path {
    Path::from("jobs")
}

/// Writes one rank's part.
pub(crate) async fn part(
    bucket: Bucket,
    place: Place,
    state: State,
) -> Result<StoredObject, StoreError> {
    let tensors = tensors();
    let shards = partition::assign(&tensors, place.world);
    let bytes: Vec<[u8; 8]> = (0..TENSORS).map(|number| state.bytes(number)).collect();
    let own: Vec<(&TensorMeta, &[u8])> = tensors
        .iter()
        .zip(&bytes)
        .zip(shards)
        .filter(|(_, shard)| *shard == place.rank)
        .map(|((tensor, bytes), _)| (tensor, bytes.as_slice()))
        .collect();
    let key = place.key.shard(Rank::new(place.rank));
    let file = shard::encode(&own).map_err(|error| StoreError::Failed {
        key: key.clone(),
        reason: error.to_string(),
    })?;
    let (size, digest) = (file.len() as u64, Digest::of(&file));
    store::put_create(&bucket, &store::join(&root(), &key), Bytes::from(file)).await?;
    Ok(StoredObject { key, size, digest })
}

/// Writes the manifest over all parts.
pub(crate) async fn manifest(
    bucket: Bucket,
    place: Place,
    objects: Vec<StoredObject>,
) -> Result<CheckpointRef, StoreError> {
    let key = &place.key;
    let manifest = Manifest {
        version: Manifest::VERSION,
        job: key.job.clone(),
        phase: key.phase,
        name: key.name.clone(),
        kind: PhaseWord::Pretrain,
        attempt: key.attempt,
        step: key.step,
        world: place.world,
        spec: Digest::of(b"spec"),
        data: Digest::of(b"data"),
        parent: None,
        network: NetworkDescription {
            encoder: EncoderSpec::torchvision(Depth::D18),
            head: None,
            classifier: None,
        },
        preprocessing: Preprocessing {
            image_size: 32,
            crop_proportion: 1.0,
            resampling: Resampling::AntialiasedBilinear,
        },
        results: BTreeMap::new(),
        tensors: partition::table(&tensors(), place.world),
        objects,
    };
    let failed = |reason: String| StoreError::Failed {
        key: key.manifest().to_string(),
        reason,
    };
    let (bytes, digest) = manifest
        .encode()
        .map_err(|error| failed(error.to_string()))?;
    let reference = manifest.reference(digest);
    let path = store::join(&root(), &reference.manifest.to_string());
    store::put_create(&bucket, &path, Bytes::from(bytes)).await?;
    Ok(reference)
}

/// Reads a state back.
pub(crate) async fn load(
    objects: Arc<dyn ObjectStore>,
    reference: &CheckpointRef,
) -> Result<State, LoadError> {
    let reader = CheckpointReader::open(objects, root(), reference).await?;
    let loaded = reader.load(|_| true).await?;
    let first = loaded.get("t0").map(|tensor| tensor.bytes.to_vec());
    let bytes = first
        .and_then(|bytes| bytes.try_into().ok())
        .unwrap_or_default();
    Ok(State {
        step: reference.step.get(),
        value: u64::from_le_bytes(bytes),
    })
}

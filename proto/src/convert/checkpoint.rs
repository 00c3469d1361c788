//! References to checkpoints and their objects.

use diptych_common::checkpoint::{CheckpointRef, ManifestKey, StoredObject};
use diptych_common::ids::Step;

use super::wire::{WireError, name};
use crate::v1;

impl From<CheckpointRef> for v1::CheckpointRef {
    fn from(checkpoint: CheckpointRef) -> Self {
        Self {
            phase: checkpoint.phase.to_string(),
            manifest: checkpoint.manifest.to_string(),
            digest: checkpoint.digest.to_string(),
            step: checkpoint.step.get(),
        }
    }
}

impl TryFrom<v1::CheckpointRef> for CheckpointRef {
    type Error = WireError;

    fn try_from(wire: v1::CheckpointRef) -> Result<Self, WireError> {
        Ok(Self {
            phase: name("checkpoint.phase", &wire.phase)?,
            manifest: name::<ManifestKey>("checkpoint.manifest", &wire.manifest)?,
            digest: name("checkpoint.digest", &wire.digest)?,
            step: Step::new(wire.step),
        })
    }
}

impl From<StoredObject> for v1::StoredObject {
    fn from(object: StoredObject) -> Self {
        Self {
            key: object.key,
            size: object.size,
            digest: object.digest.to_string(),
        }
    }
}

impl TryFrom<v1::StoredObject> for StoredObject {
    type Error = WireError;

    fn try_from(wire: v1::StoredObject) -> Result<Self, WireError> {
        if wire.key.is_empty() {
            return Err(WireError::Missing {
                field: "object.key",
            });
        }
        Ok(Self {
            digest: name("object.digest", &wire.digest)?,
            key: wire.key,
            size: wire.size,
        })
    }
}

//! The checkpoint format, without tensors: where objects are, what is in them, and how they are read and checked.
//!
//! A checkpoint is some immutable safetensors shards and one manifest, created last and only if absent. Readers take
//! the manifest's digest from the coordinator and believe nothing that it does not vouch for.

pub mod key; // where: {job}/{phase}-{name}/step-…-a…/…
pub mod dtype; // element types
pub mod partition; // tensors over ranks
pub mod shard; // tensors in one object
pub mod manifest; // what: sizes, hashes, tensor table, lineage
mod cut; // tensors out of passing pieces
pub mod reader; // fetch and check
pub mod export; // one file for torchvision, and back

pub use crate::network::Role;
pub use dtype::Dtype;
pub use export::{ExportInfo, ImportError, Imported, Keep};
pub use key::{CheckpointKey, EventsKey, KeyError, ManifestKey};
pub use manifest::{
    Classifier, Manifest, ManifestError, NetworkDescription, PhaseWord, Preprocessing,
    StoredObject, TensorEntry,
};
pub use partition::TensorMeta;
pub use reader::{CheckpointReader, LoadError, TensorBytes, Tensors};

use crate::digest::Digest;
use crate::ids::{PhaseName, Step};

/// A checkpoint by its manifest. The digest comes from the coordinator, never from a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRef {
    /// Phase that wrote it.
    pub phase: PhaseName,
    /// Its manifest, under the job's storage URL.
    pub manifest: ManifestKey,
    /// BLAKE3 of the manifest.
    pub digest: Digest,
    /// Steps that it holds.
    pub step: Step,
}

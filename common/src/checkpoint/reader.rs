//! Fetches checkpoints and believes nothing: every byte that comes out was hashed against the manifest, and the
//! manifest against the digest that the caller got from the coordinator.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use crate::digest::{Digest, Hasher};
use crate::store::{self, StoreError};

use super::cut::Cut;
use super::{CheckpointRef, Dtype, Manifest, ManifestError, StoredObject, TensorEntry};

/// So many bytes are hashed sooner than another thread is asked to.
const SMALL: usize = 16 << 10;

/// Objects fetched at once: enough to fill a network link, few enough to bound memory, since each holds some ranges.
const PARALLEL: usize = 4;

/// Boxed and named: the compiler cannot prove a stream over a borrowing closure to be Send.
type Fetch<'a, T> = BoxFuture<'a, Result<T, LoadError>>;

/// One tensor's bytes, little-endian and contiguous.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorBytes {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// The elements.
    pub bytes: Bytes,
}

/// Tensors by name.
pub type Tensors = BTreeMap<String, TensorBytes>;

/// A checkpoint whose manifest was read and checked.
#[derive(Debug, Clone)]
pub struct CheckpointReader {
    store: Arc<dyn ObjectStore>,
    root: Path,
    manifest: Manifest,
}

/// Why a checkpoint cannot be loaded. Each names the object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// The object is not there.
    #[error("{key} is missing")]
    Missing {
        /// The object.
        key: String,
    },
    /// It is shorter or longer than it was.
    #[error("{key} has {found} bytes; the manifest says {expected}")]
    Size {
        /// The object.
        key: String,
        /// Bytes by the manifest.
        expected: u64,
        /// Bytes found.
        found: u64,
    },
    /// Its bytes changed.
    #[error("{key} has other bytes than when it was written: BLAKE3 {found}, expected {expected}")]
    Digest {
        /// The object.
        key: String,
        /// As written.
        expected: Digest,
        /// As found.
        found: Digest,
    },
    /// The manifest is of no known form, or not of the checkpoint that was asked for.
    #[error("{key}: {reason}")]
    Manifest {
        /// The manifest.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A shard's contents are not what the manifest says.
    #[error("{key} does not hold tensor {tensor} as the manifest says")]
    Tensor {
        /// The shard.
        key: String,
        /// The tensor.
        tensor: String,
    },
    /// The store failed; the checkpoint may be whole.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl LoadError {
    /// Whether the checkpoint itself is damaged: trying again will not help, an older one may.
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Store(_))
    }

    fn from_store(error: StoreError) -> Self {
        match error {
            StoreError::NotFound { key } => Self::Missing { key },
            other => Self::Store(other),
        }
    }
}

impl CheckpointReader {
    /// Fetches and checks a manifest. `root` is the path of the job's storage URL.
    ///
    /// # Errors
    /// A manifest that is missing, has another digest, or is of another checkpoint.
    pub async fn open(
        store: Arc<dyn ObjectStore>,
        root: Path,
        checkpoint: &CheckpointRef,
    ) -> Result<Self, LoadError> {
        let key = checkpoint.manifest.to_string();
        let bytes = store::get(&*store, &store::join(&root, &key))
            .await
            .map_err(LoadError::from_store)?;
        let found = Digest::of(&bytes);
        if found != checkpoint.digest {
            return Err(LoadError::Digest {
                key,
                expected: checkpoint.digest,
                found,
            });
        }
        let refuse = |reason: String| LoadError::Manifest {
            key: key.clone(),
            reason,
        };
        let manifest =
            Manifest::parse(&bytes).map_err(|error: ManifestError| refuse(error.to_string()))?;
        if manifest.key().manifest() != checkpoint.manifest || manifest.step != checkpoint.step {
            return Err(refuse(format!("describes {} instead", manifest.key())));
        }
        Ok(Self {
            store,
            root,
            manifest,
        })
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Fetches every tensor that `wanted` picks, and only the objects that hold one.
    ///
    /// # Errors
    /// The first object that is missing, truncated or changed.
    pub async fn load(&self, wanted: impl Fn(&TensorEntry) -> bool) -> Result<Tensors, LoadError> {
        let mut by_shard: BTreeMap<u32, Vec<&TensorEntry>> = BTreeMap::new();
        for tensor in self.manifest.tensors.iter().filter(|tensor| wanted(tensor)) {
            by_shard.entry(tensor.shard).or_default().push(tensor);
        }
        let mut fetches: Vec<Fetch<'_, Vec<(String, TensorBytes)>>> = Vec::new();
        for (shard, tensors) in by_shard {
            if let Some(object) = self.manifest.objects.get(shard as usize) {
                let part = async move { self.fetch(object, &tensors).await };
                fetches.push(part.boxed());
            }
        }
        let parts: Vec<Vec<(String, TensorBytes)>> = futures::stream::iter(fetches)
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Reads every object and checks size and digest.
    ///
    /// # Errors
    /// The first object that is missing, truncated or changed.
    pub async fn verify(&self) -> Result<(), LoadError> {
        let mut fetches: Vec<Fetch<'_, ()>> = Vec::new();
        for object in &self.manifest.objects {
            fetches.push(self.fetch(object, &[]).map_ok(drop).boxed());
        }
        futures::stream::iter(fetches)
            .buffered(PARALLEL)
            .try_collect()
            .await
    }

    /// Reads an object once, checks it, and gives the tensors that are wanted of it.
    async fn fetch(
        &self,
        object: &StoredObject,
        wanted: &[&TensorEntry],
    ) -> Result<Vec<(String, TensorBytes)>, LoadError> {
        let key = || object.key.clone();
        let path = store::join(&self.root, &object.key);
        let words = |error: StoreError| match error {
            StoreError::NotFound { .. } => LoadError::Missing { key: key() },
            other => LoadError::Store(other),
        };
        let head = self.store.head(&path).await;
        let head = head.map_err(|error| words(StoreError::from_store(&path, &error)))?;
        if head.size != object.size {
            return Err(LoadError::Size {
                key: key(),
                expected: object.size,
                found: head.size,
            });
        }
        let (mut cut, mut hasher) = (Cut::new(&object.key, wanted), Hasher::default());
        let mut pieces = store::ranges(&*self.store, &path, object.size);
        while let Some(piece) = pieces.try_next().await.map_err(words)? {
            cut.take(&piece);
            if piece.len() <= SMALL {
                hasher = hasher.then(&piece);
                continue;
            }
            let hashed = tokio::task::spawn_blocking(move || hasher.then(&piece)).await;
            hasher = hashed.map_err(|error| StoreError::Failed {
                key: key(),
                reason: error.to_string(),
            })?;
        }
        let found = hasher.finish();
        if found != object.digest {
            return Err(LoadError::Digest {
                key: key(),
                expected: object.digest,
                found,
            });
        }
        cut.finish()
    }
}

//! What can be wrong with a data set.

use diptych_common::store::StoreError;

/// Why a data set, or one of its samples, cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The store failed or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nothing is there.
    #[error("{url} is missing: no object or folder has this name")]
    Missing {
        /// The data set's URL.
        url: String,
    },
    /// Something is there, but no images.
    #[error("{url} is empty: it holds no {wanted}")]
    Empty {
        /// The data set's URL.
        url: String,
        /// What was looked for.
        wanted: &'static str,
    },
    /// Some shards of a numbered run are not there.
    #[error("{url} lacks {count} of its shards: {}; restore them, or name the shards to use", names.join(", "))]
    MissingShards {
        /// The data set's URL.
        url: String,
        /// How many.
        count: usize,
        /// The first of them.
        names: Vec<String>,
    },
    /// A shard cannot be read.
    #[error("{object} cannot be used: {reason}")]
    Shard {
        /// The shard's key.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Labels make no sense; every problem is listed (the first few of many).
    #[error("{url} has unusable labels: {}", problems.join("; "))]
    Labels {
        /// The data set's URL.
        url: String,
        /// Each with the sample's name.
        problems: Vec<String>,
    },
    /// One sample has no bytes.
    #[error("sample {name}: {reason}")]
    Sample {
        /// The sample's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl DataError {
    /// A shard that is not what it should be.
    pub(super) fn shard(object: &object_store::path::Path, reason: impl ToString) -> Self {
        Self::Shard {
            object: object.to_string(),
            reason: reason.to_string(),
        }
    }
}

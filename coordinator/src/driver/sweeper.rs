//! Deletes collected checkpoints: the manifest first, so that nothing torn can ever be taken for whole.

use std::time::Duration;

use diptych_common::store;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::sync::mpsc;

/// Attempts at one deletion, with a growing pause between.
const TRIES: u32 = 4;

/// A folder whose objects nobody needs.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    /// The job's storage URL.
    pub(super) storage: String,
    /// Key of the manifest; its folder goes.
    pub(super) manifest: String,
}

/// Deletes what comes in, one after another, until the channel closes.
pub(super) async fn run(mut sweeps: mpsc::Receiver<Sweep>) {
    while let Some(sweep) = sweeps.recv().await {
        let Some((folder, _)) = sweep.manifest.rsplit_once('/') else {
            continue;
        };
        let mut pause = Duration::from_millis(200);
        for attempt in 1..=TRIES {
            match delete_folder(&sweep.storage, folder).await {
                Ok(_) => break,
                Err(error) if attempt < TRIES => {
                    tracing::debug!(%folder, %error, "delete checkpoint again");
                    tokio::time::sleep(pause).await;
                    pause *= 4;
                }
                Err(error) => {
                    tracing::warn!(storage = %sweep.storage, %folder, %error, "collected checkpoint stays in the store");
                }
            }
        }
    }
}

/// Deletes every object under a folder, manifests first; how many there were.
///
/// # Errors
/// What the store said.
pub async fn delete_folder(storage: &str, folder: &str) -> Result<u64, store::StoreError> {
    let (objects, root) = store::open(storage)?;
    let folder = store::join(&root, folder);
    let failed = |error: object_store::Error| store::StoreError::from_store(&folder, &error);
    let found: Vec<Path> = objects
        .list(Some(&folder))
        .map_ok(|meta| meta.location)
        .try_collect()
        .await
        .map_err(failed)?;
    let (manifests, rest): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|key| key.filename() == Some("manifest.json"));
    let mut deleted = 0;
    for keys in [manifests, rest] {
        deleted += keys.len() as u64;
        let objects = &objects;
        futures::stream::iter(keys)
            .map(|key| async move {
                match objects.delete(&key).await {
                    Err(object_store::Error::NotFound { .. }) => Ok(()),
                    other => other,
                }
            })
            .buffer_unordered(8)
            .try_collect::<()>()
            .await
            .map_err(failed)?;
    }
    Ok(deleted)
}

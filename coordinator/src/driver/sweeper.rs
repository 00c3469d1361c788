//! Deletes what nobody needs any more, until it is gone: collected checkpoints, and what dead attempts left behind.
//! Manifests go first, so that nothing torn can ever be taken for whole.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::checkpoint::CheckpointKey;
use diptych_common::ids::{Attempt, JobId, PhaseIndex};
use diptych_common::store::{self, Stores};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::sync::Notify;

use super::handle::{Handle, WishError};
use crate::core::{CheckpointId, Deletion, State};

/// The pause after a pass that left something; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Why something could not be deleted.
#[derive(Debug, thiserror::Error)]
enum Kept {
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] store::StoreError),
    /// The coordinator ends.
    #[error(transparent)]
    Ending(#[from] WishError),
}

/// Deletes what the database remembers, and again whenever it is woken, until the owner ends.
pub(super) async fn run(handle: Handle, wake: Arc<Notify>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let Ok(all) = pass(&handle).await else { return };
        // With nothing left, something new wakes this up.
        let rest = if all { LONGEST_PAUSE } else { pause };
        pause = if all {
            FIRST_PAUSE
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
        tokio::select! {
            () = wake.notified() => {}
            () = tokio::time::sleep(rest) => {}
            () = handle.messages.closed() => return,
        }
    }
}

/// Tries everything once; whether all of it is gone.
async fn pass(handle: &Handle) -> Result<bool, WishError> {
    let (mut after, mut all) = (0, true);
    loop {
        let page = match handle.reader().deletions(after).await {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "objects that nobody needs stay for now");
                return Ok(false);
            }
        };
        let Some((last, _)) = page.last() else {
            return Ok(all);
        };
        after = *last;
        for (id, deletion) in page {
            match delete(handle, &deletion).await {
                Ok(()) => handle.deleted(id).await?,
                Err(Kept::Ending(error)) => return Err(error),
                Err(Kept::Store(error)) => {
                    all = false;
                    tracing::warn!(?deletion, %error, "objects that nobody needs stay for now");
                }
            }
        }
    }
}

async fn delete(handle: &Handle, deletion: &Deletion) -> Result<(), Kept> {
    match deletion {
        Deletion::Checkpoint { storage, folder } => {
            delete_folder(handle.stores(), storage, folder).await?;
            Ok(())
        }
        Deletion::Leftovers { job, phase, before } => {
            let (id, index) = (job.clone(), *phase);
            let phase = handle
                .read(move |state, _| Phase::of(state, &id, index))
                .await?;
            match phase {
                Some(phase) => phase.clear(handle.stores(), *before).await,
                // Its job was deleted, and what it left is as it was asked for.
                None => Ok(()),
            }
        }
    }
}

/// A phase's folder, and what in it is committed.
#[derive(Debug)]
struct Phase {
    storage: String,
    folder: String,
    committed: BTreeSet<CheckpointId>,
}

impl Phase {
    fn of(state: &State, job: &JobId, index: PhaseIndex) -> Option<Self> {
        let job = state.job(job)?;
        let plan = job.submission.phases.get(index.get() as usize)?;
        let phase = job.phases.get(index.get() as usize)?;
        let any = CheckpointKey {
            job: job.id().clone(),
            phase: index,
            name: plan.name.clone(),
            step: Default::default(),
            attempt: Attempt::default(),
        };
        let folder = any.to_string().rsplit_once('/')?.0.to_owned();
        Some(Self {
            storage: job.submission.draft.storage.clone(),
            folder,
            committed: phase.checkpoints.keys().copied().collect(),
        })
    }

    /// Whether a save of an attempt before this one was never committed.
    fn is_left(&self, save: &CheckpointKey, before: Attempt) -> bool {
        let id = CheckpointId {
            step: save.step,
            attempt: save.attempt,
        };
        save.attempt < before && !self.committed.contains(&id)
    }

    async fn clear(&self, stores: &dyn Stores, before: Attempt) -> Result<(), Kept> {
        let (objects, root) = stores.open(&self.storage)?;
        let folder = store::join(&root, &self.folder);
        let listed = objects.list_with_delimiter(Some(&folder)).await;
        let listed = listed.map_err(|error| store::StoreError::from_store(&folder, &error))?;
        for save in listed.common_prefixes {
            // What is not named as a save is not one of ours.
            let key = save.filename().and_then(|name| {
                format!("{}/{name}", self.folder)
                    .parse::<CheckpointKey>()
                    .ok()
            });
            if let Some(key) = key.filter(|key| self.is_left(key, before)) {
                delete_folder(stores, &self.storage, &key.to_string()).await?;
            }
        }
        Ok(())
    }
}

/// Deletes every object under a folder, manifests first, and what killed writers left there; how many objects there were.
///
/// # Errors
/// What the store said.
pub async fn delete_folder(
    stores: &dyn Stores,
    storage: &str,
    below: &str,
) -> Result<u64, store::StoreError> {
    let (objects, root) = stores.open(storage)?;
    let folder = store::join(&root, below);
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
    store::remove_leftovers(storage, below).await?;
    Ok(deleted)
}

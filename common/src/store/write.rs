//! Writing objects, each once.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _};
use tokio::time::Instant;

use super::create::create as only_new;
use super::{StoreError, read};

/// Objects above this size go up in parts of it.
pub const PART: usize = 8 << 20;
/// Parts of one object under way at once.
const PARTS: usize = 4;

/// Tries of a small object. A store does not repeat a conditional write whose answer was lost: it cannot know that the
/// object found by the second try is that of the first.
const TRIES: u32 = 3;
/// No try begins after this.
const PATIENCE: Duration = Duration::from_secs(180);
/// The pause after the first try; the next is four times as long. Outages are waited for inside a try.
const PAUSE: Duration = Duration::from_millis(5);

/// Writes an object that nobody may have written before. An object that holds these bytes counts as written: the first
/// try may have arrived although its answer was lost.
///
/// A large object goes up in parts, and stores overwrite then: whether the key is taken is asked before. Keys carry
/// their attempt, so two writers of one key are two tries of the same rank. What a failed upload left is removed.
///
/// # Errors
/// [`StoreError::AlreadyExists`] when the key holds something else; else as the store answers, after its retries.
pub async fn put_create(
    store: &dyn ObjectStore,
    key: &Path,
    bytes: Bytes,
) -> Result<(), StoreError> {
    if bytes.len() <= PART {
        return create_small(store, key, &bytes).await;
    }
    match create_in_parts(store, key, &bytes).await {
        Err(StoreError::AlreadyExists { .. }) if holds(store, key, &bytes).await? => Ok(()),
        other => other,
    }
}

async fn create_small(
    store: &dyn ObjectStore,
    key: &Path,
    bytes: &Bytes,
) -> Result<(), StoreError> {
    let (began, mut pause) = (Instant::now(), PAUSE);
    let mut tries = 0;
    loop {
        let error = match create_once(store, key, bytes).await {
            Err(error @ StoreError::Failed { .. }) => error,
            other => return other,
        };
        tries += 1;
        if tries == TRIES || began.elapsed() + pause > PATIENCE {
            return Err(error);
        }
        tracing::debug!(%key, %error, "trying again");
        tokio::time::sleep(pause).await;
        pause *= 4;
    }
}

async fn create_once(store: &dyn ObjectStore, key: &Path, bytes: &Bytes) -> Result<(), StoreError> {
    let written = store.put_opts(key, bytes.clone().into(), only_new()).await;
    let taken = match written.map_err(|error| StoreError::from_store(key, &error)) {
        Err(taken @ StoreError::AlreadyExists { .. }) => taken,
        other => return other.map(drop),
    };
    match holds(store, key, bytes).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(taken),
        // Two writes of one key met, and neither is there.
        Err(StoreError::NotFound { key }) => Err(StoreError::Failed {
            key,
            reason: "the store refused it as a conflict, and holds nothing".to_owned(),
        }),
        Err(error) => Err(error),
    }
}

async fn create_in_parts(
    store: &dyn ObjectStore,
    key: &Path,
    bytes: &Bytes,
) -> Result<(), StoreError> {
    let words = |error: object_store::Error| StoreError::from_store(key, &error);
    match store.head(key).await.map_err(words) {
        Ok(_) => {
            let key = key.to_string();
            return Err(StoreError::AlreadyExists { key });
        }
        Err(StoreError::NotFound { .. }) => {}
        Err(error) => return Err(error),
    }
    let mut upload = store.put_multipart(key).await.map_err(words)?;
    let Err(error) = send(&mut *upload, bytes).await else {
        return Ok(());
    };
    // A lost answer to the last request looks like a failure: the upload is gone, and the object is there.
    if let Ok(true) = holds(store, key, bytes).await {
        return Ok(());
    }
    if let Err(error) = upload.abort().await {
        tracing::warn!(%key, %error, "the parts of a failed upload stay in the store");
    }
    Err(match words(error) {
        StoreError::NotFound { key } => StoreError::Failed {
            key,
            reason: "the store lost the upload".to_owned(),
        },
        other => other,
    })
}

async fn send(upload: &mut dyn MultipartUpload, bytes: &Bytes) -> object_store::Result<()> {
    let mut under_way = FuturesUnordered::new();
    for start in (0..bytes.len()).step_by(PART) {
        if under_way.len() == PARTS {
            let _: Option<()> = under_way.try_next().await?;
        }
        let part = bytes.slice(start..bytes.len().min(start + PART));
        under_way.push(upload.put_part(part.into()));
    }
    while let Some(sent) = under_way.next().await {
        sent?;
    }
    upload.complete().await.map(drop)
}

/// Whether the object is these bytes.
async fn holds(store: &dyn ObjectStore, key: &Path, bytes: &Bytes) -> Result<bool, StoreError> {
    let words = |error: object_store::Error| StoreError::from_store(key, &error);
    if store.head(key).await.map_err(words)?.size != bytes.len() as u64 {
        return Ok(false);
    }
    let (mut there, mut at) = (read::ranges(store, key, bytes.len() as u64), 0);
    while let Some(piece) = there.try_next().await? {
        if piece != bytes.slice(at..at + piece.len()) {
            return Ok(false);
        }
        at += piece.len();
    }
    Ok(true)
}

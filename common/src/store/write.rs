//! Writing objects, each once.

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};

use super::{StoreError, read};

/// Objects above this size go up in parts of it.
pub const PART: usize = 16 << 20;
/// Parts of one object under way at once.
const PARTS: usize = 4;

/// Writes an object that nobody may have written before. A retry of the same bytes succeeds: the first try may have
/// arrived although its answer was lost.
///
/// A large object goes up in parts, and stores overwrite then: whether the key is taken is asked before. Keys carry
/// their attempt, so two writers of one key are two tries of the same rank. What a failed upload left is removed.
///
/// # Errors
/// [`StoreError::AlreadyExists`] when the key holds something else.
pub async fn put_create(
    store: &dyn ObjectStore,
    key: &Path,
    bytes: Bytes,
) -> Result<(), StoreError> {
    let written = if bytes.len() <= PART {
        create(store, key, bytes.clone()).await
    } else {
        create_in_parts(store, key, &bytes).await
    };
    match written {
        Err(StoreError::AlreadyExists { .. }) if holds(store, key, &bytes).await? => Ok(()),
        other => other,
    }
}

async fn create(store: &dyn ObjectStore, key: &Path, bytes: Bytes) -> Result<(), StoreError> {
    let options = PutOptions {
        mode: PutMode::Create,
        ..PutOptions::default()
    };
    let written = store.put_opts(key, bytes.into(), options).await;
    written
        .map(drop)
        .map_err(|error| StoreError::from_store(key, &error))
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
    let sent = send(&mut *upload, bytes).await;
    if sent.is_err()
        && let Err(error) = upload.abort().await
    {
        tracing::warn!(%key, %error, "the parts of a failed upload stay in the store");
    }
    sent.map_err(words)
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

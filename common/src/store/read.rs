//! Reading objects: large ones range by range, so that a time limit holds for a range and memory for a few of them.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _};

use super::StoreError;

/// Bytes asked for at once.
pub const RANGE: u64 = 8 << 20;
/// Ranges of one object under way at once.
const AHEAD: usize = 2;

/// Reads a whole object into memory.
///
/// # Errors
/// As the store answers.
pub async fn get(store: &dyn ObjectStore, key: &Path) -> Result<Bytes, StoreError> {
    let words = |error: object_store::Error| StoreError::from_store(key, &error);
    let answer = store.get(key).await.map_err(words)?;
    let size = answer.meta.size;
    if size <= RANGE {
        return answer.bytes().await.map_err(words);
    }
    drop(answer);
    let mut whole = BytesMut::new();
    let mut parts = ranges(store, key, size);
    while let Some(part) = parts.try_next().await? {
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

/// The bytes of an object of `size` bytes, in order and in pieces of [`RANGE`]. An object that is shorter than that
/// is an error; one that is longer is not noticed here.
pub fn ranges<'a>(
    store: &'a dyn ObjectStore,
    key: &'a Path,
    size: u64,
) -> BoxStream<'a, Result<Bytes, StoreError>> {
    let starts = (0..size).step_by(RANGE as usize);
    let pieces = starts.map(move |start| piece(store, key, start..size.min(start + RANGE)).boxed());
    stream::iter(pieces).buffered(AHEAD).boxed()
}

async fn piece(
    store: &dyn ObjectStore,
    key: &Path,
    range: Range<u64>,
) -> Result<Bytes, StoreError> {
    let expected = range.end - range.start;
    let bytes = store
        .get_range(key, range.clone())
        .await
        .map_err(|error| StoreError::from_store(key, &error))?;
    if bytes.len() as u64 != expected {
        return Err(StoreError::Failed {
            key: key.to_string(),
            reason: format!(
                "bytes {} to {} were asked for, {} came",
                range.start,
                range.end,
                bytes.len()
            ),
        });
    }
    Ok(bytes)
}

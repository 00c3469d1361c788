//! Creating an object only where there is none. Some stores take the condition and ignore it, so it is tried before it
//! is trusted: an object is created twice under a key of its own, and the second try must be refused.
//!
//! Nothing rests on the condition alone. Keys carry their attempt, the coordinator commits one manifest by its digest and
//! only for the current attempt, and loaders believe that digest.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result,
};
use tokio::sync::OnceCell;
use uuid::Uuid;

/// What a store does when an object is to be created that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preconditions {
    /// It refuses.
    Honoured,
    /// It overwrites the object, or knows no such request.
    Ignored,
}

type Known = Arc<OnceCell<Preconditions>>;

/// What this process has found out, by place.
static KNOWN: LazyLock<Mutex<BTreeMap<String, Known>>> = LazyLock::new(Mutex::default);

/// A store whose conditional creation is tried at the first use. Where it is ignored, creation looks first and then
/// writes: that leaves a gap between two writers, which the coordinator's commit closes.
#[derive(Debug)]
pub struct Conditional {
    inner: Arc<dyn ObjectStore>,
    root: Path,
    known: Known,
}

impl Conditional {
    /// Wraps a store. It is tried under `root`.
    pub fn new(inner: Arc<dyn ObjectStore>, root: Path) -> Self {
        Self {
            inner,
            root,
            known: Known::default(),
        }
    }

    /// As [`Conditional::new`]; all stores of one place are tried once in this process.
    pub fn shared(inner: Arc<dyn ObjectStore>, root: Path, place: &str) -> Self {
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let known = Arc::clone(known.entry(place.to_owned()).or_default());
        Self { inner, root, known }
    }

    /// What the store does, found out at the first call.
    ///
    /// # Errors
    /// The store's, where it could not be tried; the next call tries again.
    pub async fn preconditions(&self) -> Result<Preconditions> {
        let found = self.known.get_or_try_init(|| async {
            let found = self.probe().await?;
            if found == Preconditions::Ignored {
                tracing::warn!(
                    store = %self.inner,
                    "the store ignores conditional writes: keys are looked up before they are written, and the \
                     coordinator's commit is the only guard against two writers"
                );
            }
            Ok(found)
        });
        found.await.copied()
    }

    async fn probe(&self) -> Result<Preconditions> {
        let key = super::join(&self.root, &format!(".probe/{}", Uuid::new_v4().simple()));
        let found = self.try_twice(&key).await;
        match self.inner.delete(&key).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!(%key, %error, "an object of a few bytes stays in the store")
            }
        }
        found
    }

    async fn try_twice(&self, key: &Path) -> Result<Preconditions> {
        for content in ["first", "second"] {
            let bytes = Bytes::from_static(content.as_bytes());
            match self.inner.put_opts(key, bytes.into(), create()).await {
                Ok(_) => {}
                // The first one too: nobody else knows the key, so it is the retry of a write whose answer was lost.
                Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => {
                    return Ok(Preconditions::Honoured);
                }
                Err(Error::NotImplemented { .. } | Error::NotSupported { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(Preconditions::Ignored)
    }

    async fn look_and_put(
        &self,
        key: &Path,
        bytes: PutPayload,
        how: PutOptions,
    ) -> Result<PutResult> {
        match self.inner.head(key).await {
            Ok(_) => Err(Error::AlreadyExists {
                path: key.to_string(),
                source: "it was there before".into(),
            }),
            Err(Error::NotFound { .. }) => {
                let mode = PutMode::Overwrite;
                self.inner
                    .put_opts(key, bytes, PutOptions { mode, ..how })
                    .await
            }
            Err(error) => Err(error),
        }
    }
}

/// The options of a write that must not replace anything.
pub(super) fn create() -> PutOptions {
    PutOptions {
        mode: PutMode::Create,
        ..PutOptions::default()
    }
}

impl fmt::Display for Conditional {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait::async_trait]
impl ObjectStore for Conditional {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        if how.mode == PutMode::Create && self.preconditions().await? == Preconditions::Ignored {
            return self.look_and_put(at, bytes, how).await;
        }
        self.inner.put_opts(at, bytes, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(at, how).await
    }

    fn delete_stream(
        &self,
        places: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(places)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}

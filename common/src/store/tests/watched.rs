use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures::stream::BoxStream;
use futures::{FutureExt as _, future};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

/// A store in memory that keeps what was asked of it.
#[derive(Debug, Default)]
pub(super) struct Watched {
    inner: InMemory,
    ranges: Mutex<Vec<Range<u64>>>,
    begun: AtomicUsize,
    aborted: Arc<AtomicUsize>,
    fails_at: Option<usize>,
}

#[derive(Debug)]
struct Upload {
    inner: Box<dyn MultipartUpload>,
    parts: usize,
    fails_at: Option<usize>,
    aborted: Arc<AtomicUsize>,
}

impl Watched {
    /// The n-th part of each upload is refused.
    pub(super) fn failing_at_part(n: usize) -> Self {
        Self {
            fails_at: Some(n),
            ..Self::default()
        }
    }

    pub(super) fn ranges_read(&self) -> Vec<Range<u64>> {
        self.ranges.lock().expect("no panic").clone()
    }

    pub(super) fn uploads_begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    pub(super) fn uploads_aborted(&self) -> usize {
        self.aborted.load(Ordering::SeqCst)
    }
}

impl std::fmt::Display for Watched {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("watched")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Watched {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(at, bytes, how).await
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Upload {
            inner: self.inner.put_multipart_opts(at, how).await?,
            parts: 0,
            fails_at: self.fails_at,
            aborted: Arc::clone(&self.aborted),
        }))
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        if let Some(GetRange::Bounded(range)) = &how.range {
            self.ranges.lock().expect("no panic").push(range.clone());
        }
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

#[async_trait::async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, bytes: PutPayload) -> UploadPart {
        self.parts += 1;
        if self.fails_at == Some(self.parts) {
            let error = object_store::Error::Generic {
                store: "watched",
                source: "no space left".into(),
            };
            return future::ready(Err(error)).boxed();
        }
        self.inner.put_part(bytes)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.aborted.fetch_add(1, Ordering::SeqCst);
        self.inner.abort().await
    }
}

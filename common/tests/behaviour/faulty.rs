//! A store in memory that does wrong at a chosen call: what disks, networks and object stores do to writers and readers.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt as _, StreamExt as _};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result, UploadPart,
};

/// What goes wrong with one call.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Fault {
    /// Only this share of the bytes is kept, or comes; the store says that all is well.
    Truncated(f64),
    /// One bit is another; `u64` chooses which.
    Flipped(u64),
    /// Nothing is kept although the store says so; nothing is found.
    Vanished,
    /// Other bytes are kept, or come.
    Replaced(Bytes),
    /// Done, but the answer is lost.
    LostAnswer,
    /// A part of the bytes is kept and the call fails.
    Torn(f64),
    /// A bad gateway, too many requests, a time-out: not done, and said so.
    Refused,
    /// The disk is full.
    Full,
}

/// Calls that the plan counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Calls {
    /// Puts, parts, and the ends of uploads.
    Writes,
    /// Gets and looks.
    Reads,
}

#[derive(Debug, Default)]
struct Plan {
    faults: Vec<(Calls, usize, Fault)>,
    writes: usize,
    reads: usize,
    hit: Vec<String>,
}

/// The store.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faulty {
    inner: Arc<InMemory>,
    plan: Arc<Mutex<Plan>>,
    /// Conditional writes overwrite.
    ignores_conditions: bool,
}

impl Faulty {
    pub(crate) fn ignoring_conditions() -> Self {
        Self {
            ignores_conditions: true,
            ..Self::default()
        }
    }

    /// From now on the n-th call of a kind, from 0, goes wrong.
    pub(crate) fn plan(&self, faults: Vec<(Calls, usize, Fault)>) {
        *self.lock() = Plan {
            faults,
            ..Plan::default()
        };
    }

    /// Calls since the plan, (writes, reads).
    pub(crate) fn calls(&self) -> (usize, usize) {
        let plan = self.lock();
        (plan.writes, plan.reads)
    }

    /// Keys of the calls that went wrong.
    pub(crate) fn hit(&self) -> Vec<String> {
        self.lock().hit.clone()
    }

    /// The store below, where nothing goes wrong.
    pub(crate) fn below(&self) -> &InMemory {
        &self.inner
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().expect("no panic")
    }

    fn next(&self, calls: Calls, key: &Path) -> Option<Fault> {
        let mut plan = self.lock();
        let counter = match calls {
            Calls::Writes => &mut plan.writes,
            Calls::Reads => &mut plan.reads,
        };
        let at = *counter;
        *counter += 1;
        let place = plan
            .faults
            .iter()
            .position(|(c, n, _)| *c == calls && *n == at)?;
        plan.hit.push(key.to_string());
        Some(plan.faults.swap_remove(place).2)
    }

    async fn replace(&self, at: &Path, bytes: Bytes) -> Result<PutResult> {
        let how = PutOptions::from(PutMode::Overwrite);
        self.inner.put_opts(at, bytes.into(), how).await
    }
}

pub(crate) fn refused() -> Error {
    Error::Generic {
        store: "faulty",
        source: "503 Slow Down".into(),
    }
}

fn full() -> Error {
    Error::Generic {
        store: "faulty",
        source: Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull)),
    }
}

fn missing(key: &Path) -> Error {
    Error::NotFound {
        path: key.to_string(),
        source: "vanished".into(),
    }
}

fn share(bytes: &Bytes, share: f64) -> Bytes {
    let keep = (bytes.len() as f64 * share) as usize;
    bytes.slice(..keep.min(bytes.len().saturating_sub(1)))
}

fn flip(bytes: &Bytes, which: u64) -> Bytes {
    let mut bytes = bytes.to_vec();
    if let Some(bits) = (bytes.len() as u64 * 8).checked_sub(1) {
        let bit = which % (bits + 1);
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
    bytes.into()
}

/// The bytes that a silent fault leaves; `None` where nothing is.
fn changed(bytes: &Bytes, fault: &Fault) -> Option<Bytes> {
    match fault {
        Fault::Truncated(keep) | Fault::Torn(keep) => Some(share(bytes, *keep)),
        Fault::Flipped(which) => Some(flip(bytes, *which)),
        Fault::Replaced(other) => Some(other.clone()),
        Fault::LostAnswer => Some(bytes.clone()),
        Fault::Vanished | Fault::Refused | Fault::Full => None,
    }
}

/// What the caller is told after a fault.
fn told(fault: &Fault) -> Result<()> {
    match fault {
        Fault::Torn(_) | Fault::LostAnswer | Fault::Refused => Err(refused()),
        Fault::Full => Err(full()),
        Fault::Truncated(_) | Fault::Flipped(_) | Fault::Replaced(_) | Fault::Vanished => Ok(()),
    }
}

fn nothing_special() -> PutResult {
    PutResult {
        e_tag: None,
        version: None,
        extensions: Default::default(),
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        let how = match how.mode {
            PutMode::Create if self.ignores_conditions => PutOptions::from(PutMode::Overwrite),
            _ => how,
        };
        let Some(fault) = self.next(Calls::Writes, at) else {
            return self.inner.put_opts(at, bytes, how).await;
        };
        let bytes = Bytes::from(bytes);
        if let Some(kept) = changed(&bytes, &fault) {
            self.replace(at, kept).await?;
        }
        told(&fault).map(|()| nothing_special())
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(at, how).await?;
        Ok(Box::new(Upload {
            store: self.clone(),
            key: at.clone(),
            inner,
        }))
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        let (fault, head) = (self.next(Calls::Reads, at), how.head);
        match &fault {
            Some(Fault::Vanished) => return Err(missing(at)),
            Some(fault) => told(fault)?,
            None => {}
        }
        let mut found = self.inner.get_opts(at, how).await?;
        if let Some(fault) = fault.filter(|_| !head) {
            let (meta, range) = (found.meta.clone(), found.range.clone());
            let bytes = found.bytes().await?;
            let bytes = changed(&bytes, &fault).unwrap_or_default();
            found = GetResult {
                payload: GetResultPayload::Stream(
                    futures::stream::once(async { Ok(bytes) }).boxed(),
                ),
                meta,
                range,
                attributes: Default::default(),
                extensions: Default::default(),
            };
        }
        Ok(found)
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

#[derive(Debug)]
struct Upload {
    store: Faulty,
    key: Path,
    inner: Box<dyn MultipartUpload>,
}

#[async_trait::async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, bytes: PutPayload) -> UploadPart {
        let Some(fault) = self.store.next(Calls::Writes, &self.key) else {
            return self.inner.put_part(bytes);
        };
        let kept = changed(&Bytes::from(bytes), &fault).unwrap_or_default();
        let sent = self.inner.put_part(kept.into());
        async move {
            sent.await?;
            told(&fault)
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let Some(fault) = self.store.next(Calls::Writes, &self.key) else {
            return self.inner.complete().await;
        };
        match &fault {
            Fault::Vanished | Fault::Refused | Fault::Full => {}
            Fault::LostAnswer => drop(self.inner.complete().await?),
            silent => {
                drop(self.inner.complete().await?);
                let whole = object_store::ObjectStoreExt::get(&*self.store.inner, &self.key);
                let whole = whole.await?.bytes().await?;
                if let Some(kept) = changed(&whole, silent) {
                    self.store.replace(&self.key, kept).await?;
                }
            }
        }
        told(&fault).map(|()| nothing_special())
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

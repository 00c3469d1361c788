//! The object store of a world: in memory, late, and in bad weather out of order.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use diptych_common::store::{Opened, StoreError, Stores};
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::world::World;

/// The URL of all jobs' storage.
pub(crate) const URL: &str = "s3://simulated/jobs";

/// How the store behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Mood {
    #[default]
    Fine,
    /// Every call fails.
    Down,
    /// One call in three fails, half of them after it was done.
    Flaky,
    /// Every call takes seconds.
    Slow,
}

/// The bucket as one host sees it.
#[derive(Clone)]
pub(crate) struct Bucket {
    inner: Arc<InMemory>,
    world: Arc<World>,
}

impl Bucket {
    pub(crate) fn of(world: &Arc<World>) -> Self {
        Self {
            inner: Arc::clone(&world.objects),
            world: Arc::clone(world),
        }
    }

    /// Lets a call happen, or not.
    async fn weather(&self) -> Result<bool> {
        let mood = self.world.mood();
        let wait = match mood {
            Mood::Slow => self.world.dice(500..4000),
            Mood::Fine | Mood::Down | Mood::Flaky => self.world.dice(0..30),
        };
        tokio::time::sleep(Duration::from_millis(wait)).await;
        match mood {
            Mood::Down => Err(unavailable()),
            Mood::Flaky => match self.world.dice(0..6) {
                0 => Err(unavailable()),
                1 => Ok(false),
                _ => Ok(true),
            },
            Mood::Fine | Mood::Slow => Ok(true),
        }
    }
}

fn unavailable() -> Error {
    Error::Generic {
        store: "simulated",
        source: "503 slow down".into(),
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

impl Stores for Bucket {
    fn open(&self, url: &str) -> std::result::Result<Opened, StoreError> {
        match url {
            URL => Ok((Arc::new(self.clone()), Path::from("jobs"))),
            other => Err(StoreError::Url {
                url: other.to_owned(),
                problem: format!("is not {URL}"),
            }),
        }
    }
}

#[async_trait::async_trait]
impl ObjectStore for Bucket {
    async fn put_opts(&self, at: &Path, bytes: PutPayload, how: PutOptions) -> Result<PutResult> {
        let answered = self.weather().await?;
        let bytes = if self.world.flips_next_write() {
            let mut bytes = Bytes::from(bytes).to_vec();
            let place = bytes.len() / 2;
            if let Some(byte) = bytes.get_mut(place) {
                *byte ^= 1;
            }
            bytes.into()
        } else {
            bytes
        };
        let put = self.inner.put_opts(at, bytes, how).await?;
        if answered {
            Ok(put)
        } else {
            Err(unavailable())
        }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        how: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.weather().await?;
        self.inner.put_multipart_opts(at, how).await
    }

    async fn get_opts(&self, at: &Path, how: GetOptions) -> Result<GetResult> {
        if self.weather().await? {
            self.inner.get_opts(at, how).await
        } else {
            Err(unavailable())
        }
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
        self.weather().await?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, how: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, how).await
    }
}

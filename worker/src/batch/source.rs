//! A phase's samples: the bytes behind them, and decoded images kept where they are few.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

use bytes::Bytes;
use diptych_common::digest::Digest;
use diptych_common::spec::DataSpec;
use diptych_images::decode::{Image, decode};
use diptych_images::shard::{DataError, Index, SampleId};
use tokio::runtime::Runtime;

use super::ahead::Stop;
use super::loader::LoadError;

/// Decoded images kept in memory, in bytes: small data is decoded once.
const DECODED_BYTES: u64 = 256 << 20;
/// Threads that wait for object stores.
const READ_THREADS: usize = 2;
/// Bad images that an error names.
pub(crate) const BAD_SHOWN: usize = 5;

/// Samples of a data set that a phase uses, all or some. Cheap to clone; clones share what is kept in memory.
///
/// Calls block, and may come from any thread that may block.
#[derive(Debug, Clone)]
pub struct Source {
    shared: Arc<Shared>,
    /// `None` for every sample.
    subset: Option<Arc<[SampleId]>>,
    /// Frees who waits for the store, and stops every loader of this data.
    stop: Stop,
}

/// An image that could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadImage {
    /// The sample.
    pub sample: SampleId,
    /// Its name in the data set.
    pub name: String,
    /// What is wrong with it.
    pub reason: String,
}

/// What is known of one sample before a worker takes it.
#[derive(Debug, Clone)]
pub(super) enum Fetched {
    /// Decoded before.
    Decoded(Arc<Image>),
    /// As stored.
    Encoded(Bytes),
    /// There is nothing to decode.
    Bad(String),
}

/// Images found bad, up to a share of the samples.
#[derive(Debug)]
pub(super) struct BadImages {
    found: Mutex<BTreeMap<u64, String>>,
    samples: u64,
    most: u64,
}

#[derive(Debug)]
struct Shared {
    index: Index,
    /// Taken when the last clone goes.
    runtime: Option<Runtime>,
    decoded: Vec<OnceLock<Arc<Image>>>,
    decoded_bytes: AtomicU64,
}

// === impl Source ===

impl Source {
    /// Opens a data set: names and labels are read, images are not. `stop` frees this call, and later ones, and every
    /// loader of this data.
    ///
    /// # Errors
    /// As [`Index::open`]; [`LoadError::Aborted`] once stopped.
    pub fn open(spec: &DataSpec, stop: &Stop) -> Result<Self, LoadError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(READ_THREADS)
            .thread_name("diptych-read")
            .enable_all()
            .build()
            .map_err(|error| LoadError::Threads {
                reason: error.to_string(),
            })?;
        // A thread of its own: the caller's may belong to another runtime, and must be free to leave.
        let (answer, answered) = crossbeam_channel::bounded(1);
        let spec = spec.clone();
        let open = move || {
            let opened = runtime.block_on(Index::open(&spec));
            // Nobody waits any more when the attempt was aborted.
            drop(answer.send((runtime, opened)));
        };
        thread::Builder::new()
            .name("diptych-index".to_owned())
            .spawn(open)
            .map_err(|error| LoadError::Threads {
                reason: error.to_string(),
            })?;
        let (runtime, opened) = stop.wait("the thread that opens data", &answered)?;
        let index = opened?;
        let decoded = (0..index.len()).map(|_| OnceLock::new()).collect();
        Ok(Self {
            shared: Arc::new(Shared {
                index,
                runtime: Some(runtime),
                decoded,
                decoded_bytes: AtomicU64::new(0),
            }),
            subset: None,
            stop: stop.clone(),
        })
    }

    /// Some samples of the same data set, in this order.
    #[must_use]
    pub fn subset(&self, samples: Vec<SampleId>) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            subset: Some(samples.into()),
            stop: self.stop.clone(),
        }
    }

    /// The same samples, and all that is kept of them in memory, for work that `stop` ends.
    #[must_use]
    pub fn under(&self, stop: &Stop) -> Self {
        Self {
            stop: stop.clone(),
            ..self.clone()
        }
    }

    /// The samples whose labels a rule allows, in the order of the data set.
    ///
    /// # Errors
    /// As [`labels::choose`](super::labels::choose).
    pub fn labelled(&self, rule: &diptych_common::spec::Labels) -> Result<Self, LoadError> {
        let (rule, index) = (rule.clone(), self.shared.index.clone());
        let chosen = self.wait(async move { super::labels::choose(&rule, &index).await })?;
        Ok(self.subset(chosen?))
    }

    /// The whole data set.
    pub fn index(&self) -> &Index {
        &self.shared.index
    }

    /// The samples of the subset, as a digest; `None` where all are used.
    pub fn chosen(&self) -> Option<Digest> {
        let mut hasher = blake3::Hasher::new();
        for sample in self.subset.as_ref()?.iter() {
            hasher.update(&sample.get().to_le_bytes());
        }
        Some(Digest::new(hasher.finalize().into()))
    }

    /// What stops every loader of this data.
    pub(super) fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Samples of this source.
    pub fn len(&self) -> u64 {
        self.subset
            .as_ref()
            .map_or_else(|| self.shared.index.len(), |subset| subset.len() as u64)
    }

    /// Whether there is nothing to take: only of an empty subset.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sample at a place of this source's list, `0..len`.
    pub(super) fn sample(&self, place: u64) -> SampleId {
        match &self.subset {
            Some(subset) => subset[place as usize],
            None => SampleId::new(place),
        }
    }

    /// What is known of some samples; reads those that were not decoded before, together.
    pub(super) fn fetch(&self, samples: &[SampleId]) -> Result<Vec<Fetched>, LoadError> {
        let mut fetched: Vec<Option<Fetched>> = samples
            .iter()
            .map(|&sample| self.kept(sample).map(Fetched::Decoded))
            .collect();
        let mut missing: Vec<SampleId> = samples
            .iter()
            .zip(&fetched)
            .filter(|(_, known)| known.is_none())
            .map(|(&sample, _)| sample)
            .collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            let (index, wanted) = (self.shared.index.clone(), missing.clone());
            let read = self.wait(async move { index.read(&wanted).await })?;
            let mut known = BTreeMap::new();
            for (sample, answer) in missing.into_iter().zip(read) {
                known.insert(
                    sample,
                    match answer {
                        Ok(bytes) => Fetched::Encoded(bytes),
                        Err(DataError::Sample { reason, .. }) => Fetched::Bad(reason),
                        Err(error) => return Err(error.into()),
                    },
                );
            }
            for (&sample, slot) in samples.iter().zip(&mut fetched) {
                if slot.is_none() {
                    *slot = known.get(&sample).cloned();
                }
            }
        }
        Ok(fetched
            .into_iter()
            .map(|found| found.unwrap_or_else(|| Fetched::Bad("was not read".to_owned())))
            .collect())
    }

    /// The image of a sample, kept for the next time while there is room.
    ///
    /// # Errors
    /// The reason why it is no image.
    pub(super) fn image(&self, sample: SampleId, fetched: &Fetched) -> Result<Arc<Image>, String> {
        let image = fetched.decode()?;
        if let Fetched::Decoded(_) = fetched {
            return Ok(image);
        }
        let size = image.pixels.len() as u64;
        let taken = self.shared.decoded_bytes.fetch_add(size, Ordering::Relaxed);
        let room = taken + size <= DECODED_BYTES;
        let slot = self.shared.decoded.get(sample.get() as usize);
        if !(room && slot.is_some_and(|slot| slot.set(Arc::clone(&image)).is_ok())) {
            self.shared.decoded_bytes.fetch_sub(size, Ordering::Relaxed);
        }
        Ok(image)
    }

    fn kept(&self, sample: SampleId) -> Option<Arc<Image>> {
        self.shared
            .decoded
            .get(sample.get() as usize)?
            .get()
            .cloned()
    }

    fn wait<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, LoadError> {
        let runtime = self.shared.runtime.as_ref().expect("taken only on drop");
        wait(runtime, &self.stop, work)
    }
}

/// Waits for a task without entering its runtime, which a thread of another runtime may not do.
fn wait<T: Send + 'static>(
    runtime: &Runtime,
    stop: &Stop,
    work: impl Future<Output = T> + Send + 'static,
) -> Result<T, LoadError> {
    let (answer, answered) = crossbeam_channel::bounded(1);
    runtime.spawn(async move {
        // Nobody waits any more when the loader was aborted.
        let _ = answer.send(work.await);
    });
    stop.wait("a task that reads data", &answered)
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// How many of `samples` images may be bad.
pub fn most_bad(samples: u64, share: f64) -> u64 {
    (samples as f64 * share.clamp(0.0, 1.0)).floor() as u64
}

// === impl Fetched ===

impl Fetched {
    /// The image.
    ///
    /// # Errors
    /// The reason why it is none.
    pub(super) fn decode(&self) -> Result<Arc<Image>, String> {
        match self {
            Self::Decoded(image) => Ok(Arc::clone(image)),
            Self::Encoded(bytes) => decode(bytes)
                .map(Arc::new)
                .map_err(|error| error.to_string()),
            Self::Bad(reason) => Err(reason.clone()),
        }
    }
}

// === impl BadImages ===

impl BadImages {
    /// Allows a share of `samples` samples to be bad. One rank's own are a lower bound: the loop adds up all ranks'.
    pub(super) fn new(samples: u64, share: f64) -> Self {
        Self {
            found: Mutex::default(),
            samples,
            most: most_bad(samples, share),
        }
    }

    /// Whether a sample is known to be bad.
    pub(super) fn known(&self, sample: SampleId) -> bool {
        self.lock().contains_key(&sample.get())
    }

    /// Notes a bad image; `Some` when it is a new one.
    ///
    /// # Errors
    /// [`LoadError::TooManyBad`] beyond the allowed share.
    pub(super) fn note(
        &self,
        source: &Source,
        sample: SampleId,
        reason: String,
    ) -> Result<Option<BadImage>, LoadError> {
        let mut found = self.lock();
        if found.insert(sample.get(), reason.clone()).is_some() {
            return Ok(None);
        }
        let name = |sample| source.index().name(SampleId::new(sample)).to_owned();
        if found.len() as u64 > self.most {
            let examples = found
                .iter()
                .take(BAD_SHOWN)
                .map(|(&sample, reason)| format!("{} {reason}", name(sample)))
                .collect();
            return Err(LoadError::TooManyBad {
                bad: found.len() as u64,
                samples: self.samples,
                most: self.most,
                examples,
            });
        }
        Ok(Some(BadImage {
            sample,
            name: name(sample.get()),
            reason,
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, String>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

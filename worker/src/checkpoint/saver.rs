//! Writes this rank's objects on a thread of its own, so that training waits only for the snapshot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use diptych_common::checkpoint::{CheckpointRef, StoredObject};
use diptych_common::digest::Digest;
use diptych_common::ids::Step;
use diptych_common::store::{self, StoreError};
use object_store::ObjectStore;
use object_store::path::Path;
use tokio::sync::oneshot;

use super::flat::{FileLayout, FlatFile};
use crate::phase::PhaseError;
use crate::project::NamedTensor;

/// Where the objects of a job go.
#[derive(Debug, Clone)]
pub struct Storage {
    store: Arc<dyn ObjectStore>,
    root: Path,
}

/// The writing thread, and the snapshot's buffer while it is free.
#[derive(Debug)]
pub struct Saver {
    orders: Sender<Order>,
    outcomes: Receiver<Outcome>,
    buffer: Buffer,
    manifest_under_way: bool,
    /// Dropped with the saver: a write that hangs is given up then, and its memory comes back.
    _wanted: oneshot::Sender<()>,
}

/// What has reached the store, or has not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Saved {
    /// This rank's part of a save.
    Part {
        /// The save.
        step: Step,
        /// The object.
        object: StoredObject,
    },
    /// A manifest.
    Manifest(CheckpointRef),
    /// An object that the store did not take, after its own retries; a later save may fare better.
    Failed {
        /// The save.
        step: Step,
        /// The store's words; they name the object.
        error: StoreError,
    },
}

#[derive(Debug)]
enum Buffer {
    Free(FlatFile),
    BeingWritten,
}

#[derive(Debug)]
enum Order {
    Part {
        step: Step,
        key: String,
        file: FlatFile,
    },
    Manifest {
        checkpoint: CheckpointRef,
        bytes: Bytes,
    },
}

#[derive(Debug)]
enum Outcome {
    Part {
        step: Step,
        written: Result<StoredObject, StoreError>,
        file: FlatFile,
    },
    Manifest {
        checkpoint: CheckpointRef,
        written: Result<(), StoreError>,
    },
}

/// Lets [`Bytes`] hold the file while it is sent.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

// === impl Storage ===

impl Storage {
    /// Opens a job's storage URL for writing.
    ///
    /// # Errors
    /// [`PhaseError::Storage`] where it cannot be opened.
    pub fn open(url: &str) -> Result<Self, PhaseError> {
        let (store, root) = store::open_writable(url)?;
        Ok(Self { store, root })
    }

    /// The store and the path in it under which all keys are.
    pub fn parts(&self) -> (&Arc<dyn ObjectStore>, &Path) {
        (&self.store, &self.root)
    }

    async fn write(&self, key: &str, bytes: Bytes) -> Result<StoredObject, StoreError> {
        let hashed = bytes.clone();
        let digest = tokio::task::spawn_blocking(move || Digest::of(&hashed));
        let size = bytes.len() as u64;
        store::put_create(&*self.store, &store::join(&self.root, key), bytes).await?;
        let digest = digest.await.map_err(|error| StoreError::Failed {
            key: key.to_owned(),
            reason: format!("hashing it failed: {error}"),
        })?;
        Ok(StoredObject {
            key: key.to_owned(),
            size,
            digest,
        })
    }
}

// === impl Saver ===

impl Saver {
    /// Starts the thread. `layout` is that of this rank's part.
    ///
    /// # Errors
    /// [`PhaseError::Internal`] where the system gives no thread.
    pub fn start(storage: Storage, layout: FileLayout) -> Result<Self, PhaseError> {
        let (orders, inbox) = crossbeam_channel::unbounded();
        let (outbox, outcomes) = crossbeam_channel::unbounded();
        let (wanted, mut unwanted) = oneshot::channel();
        let failed = |error: std::io::Error| {
            PhaseError::Internal(format!("start the checkpoint thread: {error}"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || {
                for order in inbox {
                    let outcome = runtime.block_on(async {
                        tokio::select! {
                            biased;
                            _ = &mut unwanted => None,
                            outcome = carry_out(&storage, order) => Some(outcome),
                        }
                    });
                    let Some(outcome) = outcome else { break };
                    if outbox.send(outcome).is_err() {
                        break; // the attempt is over
                    }
                }
            })
            .map_err(failed)?;
        Ok(Self {
            orders,
            outcomes,
            buffer: Buffer::Free(FlatFile::new(layout)),
            manifest_under_way: false,
            _wanted: wanted,
        })
    }

    /// Whether a part or manifest is still being written.
    pub fn busy(&self) -> bool {
        self.manifest_under_way || matches!(self.buffer, Buffer::BeingWritten)
    }

    /// Copies the tensors of this rank's part and starts to write them under `key`; training may go on when it
    /// returns. The answer is how long it waited.
    ///
    /// # Errors
    /// Fails while the last part is still being written, or where the tensors are not those of the layout.
    pub fn save_part(
        &mut self,
        step: Step,
        key: String,
        state: &[NamedTensor],
    ) -> Result<Duration, PhaseError> {
        let started = Instant::now();
        match std::mem::replace(&mut self.buffer, Buffer::BeingWritten) {
            Buffer::Free(mut file) => {
                file.fill(state)?;
                self.order(Order::Part { step, key, file })?;
                Ok(started.elapsed())
            }
            Buffer::BeingWritten => Err(PhaseError::Internal(
                "a save began before the last one ended".to_owned(),
            )),
        }
    }

    /// Starts to write a manifest.
    ///
    /// # Errors
    /// [`PhaseError::Internal`] where the thread has died.
    pub fn save_manifest(
        &mut self,
        checkpoint: CheckpointRef,
        bytes: Bytes,
    ) -> Result<(), PhaseError> {
        self.manifest_under_way = true;
        self.order(Order::Manifest { checkpoint, bytes })
    }

    /// What has reached the store, or failed to, since the last call.
    ///
    /// # Errors
    /// [`PhaseError::Internal`] where the thread has died.
    pub fn poll(&mut self) -> Result<Option<Saved>, PhaseError> {
        match self.outcomes.try_recv() {
            Ok(outcome) => Ok(Some(self.take(outcome))),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(thread_died()),
        }
    }

    /// As [`Saver::poll`], but waits up to `patience`.
    ///
    /// # Errors
    /// [`PhaseError::Internal`] where the thread has died.
    pub fn wait(&mut self, patience: Duration) -> Result<Option<Saved>, PhaseError> {
        match self.outcomes.recv_timeout(patience) {
            Ok(outcome) => Ok(Some(self.take(outcome))),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(thread_died()),
        }
    }

    fn take(&mut self, outcome: Outcome) -> Saved {
        match outcome {
            Outcome::Part {
                step,
                written,
                file,
            } => {
                self.buffer = Buffer::Free(file);
                match written {
                    Ok(object) => Saved::Part { step, object },
                    Err(error) => Saved::Failed { step, error },
                }
            }
            Outcome::Manifest {
                checkpoint,
                written,
            } => {
                self.manifest_under_way = false;
                match written {
                    Ok(()) => Saved::Manifest(checkpoint),
                    Err(error) => Saved::Failed {
                        step: checkpoint.step,
                        error,
                    },
                }
            }
        }
    }

    fn order(&self, order: Order) -> Result<(), PhaseError> {
        self.orders.send(order).map_err(|_| thread_died())
    }
}

fn thread_died() -> PhaseError {
    PhaseError::Internal("the checkpoint thread has died".to_owned())
}

async fn carry_out(storage: &Storage, order: Order) -> Outcome {
    match order {
        Order::Part { step, key, file } => {
            let (layout, memory) = file.finish();
            let memory = Arc::new(memory);
            let bytes = Bytes::from_owner(Shared(Arc::clone(&memory)));
            let written = storage.write(&key, bytes).await;
            // The store lets go of the bytes when it is done; if it has not yet, the next save takes other memory.
            let file = match Arc::try_unwrap(memory) {
                Ok(memory) => FlatFile::reuse(layout, memory),
                Err(_) => FlatFile::new(layout),
            };
            Outcome::Part {
                step,
                written,
                file,
            }
        }
        Order::Manifest { checkpoint, bytes } => {
            let key = store::join(&storage.root, &checkpoint.manifest.to_string());
            let written = store::put_create(&*storage.store, &key, bytes).await;
            Outcome::Manifest {
                checkpoint,
                written,
            }
        }
    }
}

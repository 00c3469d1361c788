//! What the wire holds: wishes, reports, reads and notifications. Cheap to clone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use diptych_common::error::{Coded, ServiceCode};
use diptych_common::ids::JobId;
use diptych_common::settings::Effective;
use diptych_common::store::Stores;
use tokio::sync::{mpsc, oneshot, watch};

use super::outbox::Outbox;
use crate::core::{Answer, Event, Mono, Refusal, SessionId, Settings, State};
use crate::metrics::{CallTimes, Measured};
use crate::store::{History, Logs};
use crate::traces::Counts;

/// What the owner takes.
pub(super) enum Message {
    /// A client's wish, to be answered.
    Wish(Event, oneshot::Sender<Result<Answer, WishError>>),
    /// What a worker reports.
    Report(Event),
    /// The way to an agent.
    Open(SessionId, Outbox),
    /// Look at the state.
    Read(Look),
    /// Objects are gone: their deletion, by id, need not be remembered.
    Deleted(i64),
}

/// A look at the durable state.
pub(super) type Look = Box<dyn FnOnce(&State, Mono) + Send>;

/// Why a wish was not met.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WishError {
    /// The core refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It could not be made durable, and has no effect.
    #[error(
        "the coordinator cannot write its database, so nothing was changed ({0}); try again later"
    )]
    NotDurable(String),
    /// The coordinator ends.
    #[error("the coordinator is shutting down; try again")]
    ShuttingDown,
}

/// The owner's front door.
#[derive(Debug, Clone)]
pub struct Handle {
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) watches: Arc<Watches>,
    pub(super) sessions: Arc<AtomicU64>,
    pub(super) settings: Settings,
    pub(super) reader: Arc<dyn History>,
    pub(super) stores: Arc<dyn Stores>,
    pub(super) data_dir: PathBuf,
    pub(super) shown: Effective,
    pub(super) logs: Logs,
    pub(super) measured: Measured,
    pub(super) traced: Option<Counts>,
    pub(super) calls: CallTimes,
}

/// Who wants to know when a job changes.
#[derive(Debug, Default)]
pub(super) struct Watches(Mutex<HashMap<JobId, watch::Sender<()>>>);

impl Handle {
    /// Asks for something. The answer comes after it is durable.
    ///
    /// # Errors
    /// It is refused, cannot be made durable, or the coordinator ends; then nothing has changed.
    ///
    /// # Cancel safety
    /// Once sent, the wish is met or refused whether or not anybody waits.
    pub async fn wish(&self, event: Event) -> Result<Answer, WishError> {
        let (reply, answer) = oneshot::channel();
        self.messages
            .send(Message::Wish(event, reply))
            .await
            .map_err(|_| WishError::ShuttingDown)?;
        answer.await.map_err(|_| WishError::ShuttingDown)?
    }

    /// Passes on what a worker reports. Waits while the owner is behind.
    ///
    /// # Errors
    /// The coordinator ends.
    pub async fn report(&self, event: Event) -> Result<(), WishError> {
        self.messages
            .send(Message::Report(event))
            .await
            .map_err(|_| WishError::ShuttingDown)
    }

    /// Makes an agent's stream known; its orders go to `outbox`.
    ///
    /// # Errors
    /// The coordinator ends.
    pub async fn open(&self, outbox: Outbox) -> Result<SessionId, WishError> {
        let session = SessionId(self.sessions.fetch_add(1, Ordering::Relaxed));
        let message = Message::Open(session, outbox);
        self.messages
            .send(message)
            .await
            .map_err(|_| WishError::ShuttingDown)?;
        Ok(session)
    }

    /// Looks at the durable state. The owner waits meanwhile: take what is needed and leave.
    ///
    /// # Errors
    /// The coordinator ends.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&State, Mono) -> T + Send + 'static,
    ) -> Result<T, WishError> {
        let (reply, answer) = oneshot::channel();
        let look = move |state: &State, now: Mono| {
            // Whoever asked may be gone.
            let _ = reply.send(look(state, now));
        };
        self.messages
            .send(Message::Read(Box::new(look)))
            .await
            .map_err(|_| WishError::ShuttingDown)?;
        answer.await.map_err(|_| WishError::ShuttingDown)
    }

    /// Forgets a deletion, which is done.
    pub(super) async fn deleted(&self, id: i64) -> Result<(), WishError> {
        self.messages
            .send(Message::Deleted(id))
            .await
            .map_err(|_| WishError::ShuttingDown)
    }

    /// Is told whenever a job changes; many changes may be one.
    pub fn watch(&self, job: &JobId) -> watch::Receiver<()> {
        self.watches
            .lock()
            .entry(job.clone())
            .or_insert_with(|| watch::channel(()).0)
            .subscribe()
    }

    /// How long the core waits for what.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Histories.
    pub fn reader(&self) -> &dyn History {
        &*self.reader
    }

    /// Who opens the places where checkpoints are.
    pub fn stores(&self) -> &dyn Stores {
        &*self.stores
    }

    /// The same, which shows these settings to whoever asks for them.
    #[must_use]
    pub fn showing(mut self, settings: Effective) -> Self {
        self.shown = settings;
        self
    }

    /// The process's settings, to be shown.
    pub fn shown(&self) -> &Effective {
        &self.shown
    }

    /// Where everything durable is.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// What was counted.
    pub fn measured(&self) -> &Measured {
        &self.measured
    }

    /// What became of the jobs' traces, where they go anywhere.
    pub fn traced(&self) -> Option<&Counts> {
        self.traced.as_ref()
    }

    /// How long answers took.
    pub fn calls(&self) -> &CallTimes {
        &self.calls
    }

    /// Trainers' output.
    pub fn logs(&self) -> &Logs {
        &self.logs
    }
}

impl Watches {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<JobId, watch::Sender<()>>> {
        // The map is whole after every operation.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everybody who watches one of these jobs, and forgets those whom nobody watches.
    pub(super) fn tell<'a>(&self, jobs: impl Iterator<Item = &'a JobId>) {
        let mut watches = self.lock();
        for job in jobs {
            if let Some(sender) = watches.get(job)
                && sender.send(()).is_err()
            {
                watches.remove(job);
            }
        }
    }
}

impl Coded for WishError {
    fn code(&self) -> ServiceCode {
        match self {
            Self::Refused(refusal) => match refusal {
                Refusal::NoSuchJob(_)
                | Refusal::NoSuchCheckpoint { .. }
                | Refusal::NoSuchWorker(_) => ServiceCode::NotFound,
                Refusal::RequestIdTaken { .. } => ServiceCode::AlreadyExists,
                Refusal::WrongState { .. } | Refusal::Ranks { .. } => {
                    ServiceCode::FailedPrecondition
                }
                Refusal::TooManyJobs(_) => ServiceCode::ResourceExhausted,
                Refusal::JobIdTaken(_) | Refusal::NoWorker(_) => ServiceCode::Unavailable,
            },
            Self::NotDurable(_) | Self::ShuttingDown => ServiceCode::Unavailable,
        }
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wish(event, _) => f.debug_tuple("Wish").field(event).finish(),
            Self::Report(event) => f.debug_tuple("Report").field(event).finish(),
            Self::Open(session, _) => f.debug_tuple("Open").field(session).finish(),
            Self::Read(_) => f.write_str("Read"),
            Self::Deleted(id) => f.debug_tuple("Deleted").field(id).finish(),
        }
    }
}

//! Writes segments on a thread of its own, one at a time: neither training nor a checkpoint waits for them.

use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use diptych_common::store::{self, StoreError};

use super::backlog::Segment;
use crate::checkpoint::Storage;
use crate::phase::PhaseError;

/// Whether a segment arrived.
pub(super) type Outcome = Result<(), StoreError>;

/// The thread's handle. A thread that hangs in a dead store is left behind.
#[derive(Debug)]
pub(super) struct Writer {
    orders: Sender<Segment>,
    outcomes: Receiver<Outcome>,
}

impl Writer {
    /// Starts the thread.
    pub(super) fn start(storage: Storage) -> Result<Self, PhaseError> {
        let (orders, inbox) = crossbeam_channel::bounded::<Segment>(1);
        let (outbox, outcomes) = crossbeam_channel::bounded(1);
        let failed = |error: std::io::Error| {
            PhaseError::Internal(format!("start the TensorBoard thread: {error}"))
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(failed)?;
        std::thread::Builder::new()
            .name("tensorboard".to_owned())
            .spawn(move || {
                for Segment { key, bytes, .. } in inbox {
                    let (objects, root) = storage.parts();
                    let key = store::join(root, &key.to_string());
                    let written = runtime.block_on(store::put_create(&**objects, &key, bytes));
                    if outbox.send(written).is_err() {
                        break; // the trainer has left
                    }
                }
            })
            .map_err(failed)?;
        Ok(Self { orders, outcomes })
    }

    /// Starts to write a segment; the last one's outcome has been heard.
    pub(super) fn write(&self, segment: Segment) {
        // That the thread has died is what the next outcome says.
        drop(self.orders.try_send(segment));
    }

    /// What became of the segment, if it is known.
    pub(super) fn poll(&self) -> Option<Outcome> {
        match self.outcomes.try_recv() {
            Ok(outcome) => Some(outcome),
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => Some(Err(died())),
        }
    }

    /// As [`Writer::poll`], but waits up to `patience`.
    pub(super) fn wait(&self, patience: Duration) -> Option<Outcome> {
        match self.outcomes.recv_timeout(patience) {
            Ok(outcome) => Some(outcome),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Err(died())),
        }
    }
}

fn died() -> StoreError {
    StoreError::Failed {
        key: "tensorboard".to_owned(),
        reason: "the thread that writes events has died".to_owned(),
    }
}

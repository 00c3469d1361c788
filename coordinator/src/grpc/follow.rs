//! Streams that go on: watch, events, logs, metrics. Each is a task that ends with its client, with what it follows
//! or with the coordinator.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::ids::{JobId, Step};
use diptych_proto::status::status;
use diptych_proto::v1;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::encode;
use super::jobs::no_such;
use crate::core::{Job, State};
use crate::driver::Handle;
use crate::store::{LogFile, StoreError};

/// Least time between two states of a watched job, and between two looks at growing files.
const PACE: Duration = Duration::from_millis(200);
/// Messages that wait for a slow client.
const WAITING: usize = 64;

/// What a client follows.
pub type Follow<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
/// Where its messages go.
pub type To<T> = mpsc::Sender<Result<T, Status>>;

/// Why following ends early.
#[derive(Debug)]
pub enum End {
    /// The client went away.
    Gone,
    /// It gets this error.
    Error(Box<Status>),
}

impl From<Status> for End {
    fn from(status: Status) -> Self {
        Self::Error(Box::new(status))
    }
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        Status::unavailable(error.to_string()).into()
    }
}

/// Starts a task that follows something. When the coordinator stops, the stream ends with UNAVAILABLE: one that ends
/// without an error has said all.
pub fn stream<T, F>(stop: CancellationToken, follow: impl FnOnce(To<T>) -> F) -> Follow<T>
where
    T: Send + 'static,
    F: Future<Output = Result<(), End>> + Send + 'static,
{
    let (to, from) = mpsc::channel(WAITING);
    let following = follow(to.clone());
    tokio::spawn(async move {
        tokio::select! {
            result = following => if let Err(End::Error(status)) = result {
                // The client may be gone by now.
                let _ = to.send(Err(*status)).await;
            },
            () = to.closed() => {}
            () = stop.cancelled() => {
                let stopping = Status::unavailable("the coordinator is shutting down; try again");
                // As above.
                let _ = to.send(Err(stopping)).await;
            }
        }
    });
    Box::pin(ReceiverStream::new(from))
}

async fn send<T>(to: &To<T>, message: T) -> Result<(), End> {
    to.send(Ok(message)).await.map_err(|_| End::Gone)
}

/// A job as it is now.
pub async fn job(handle: &Handle, job: &JobId) -> Result<v1::Job, Status> {
    let id = job.clone();
    let found = handle
        .read(move |state, now| state.job(&id).map(|job| encode::job_in(state, job, now)))
        .await;
    found
        .map_err(|error| status(&error))?
        .ok_or_else(|| status(&no_such(job.clone())))
}

/// The job now, and again whenever it changes, until it ends.
pub async fn watch(handle: Handle, id: JobId, to: To<v1::Job>) -> Result<(), End> {
    let mut changes = handle.watch(&id);
    loop {
        changes.mark_unchanged();
        let job = job(&handle, &id).await?;
        let ended = job.ended.is_some();
        send(&to, job).await?;
        if ended {
            return Ok(());
        }
        tokio::time::sleep(PACE).await;
        if changes.changed().await.is_err() {
            changes = handle.watch(&id);
        }
    }
}

/// Whether a job is over, and whether no trainer of it is left.
async fn is_over(handle: &Handle, id: &JobId) -> Result<(bool, bool), End> {
    let id = id.clone();
    let look = move |state: &State, _| {
        let ended = state.job(&id).is_none_or(|job| !job.is_active());
        let slots = state.workers().values().flat_map(|worker| &worker.slots);
        let empty = slots
            .into_iter()
            .all(|slot| slot.hold.rank().is_none_or(|rank| rank.job != id));
        (ended, empty)
    };
    Ok(handle.read(look).await.map_err(|error| status(&error))?)
}

/// A job's history.
pub async fn events(handle: Handle, id: JobId, go_on: bool, to: To<v1::Event>) -> Result<(), End> {
    let mut changes = handle.watch(&id);
    let mut last = 0;
    loop {
        changes.mark_unchanged();
        let (ended, _) = is_over(&handle, &id).await?;
        loop {
            let page = handle.reader().events(&id, last).await?;
            let Some(newest) = page.last().map(|event| event.id) else {
                break;
            };
            last = newest;
            for event in page {
                send(&to, encode::event(event)).await?;
            }
        }
        if ended || !go_on {
            return Ok(());
        }
        if changes.changed().await.is_err() {
            changes = handle.watch(&id);
        }
    }
}

/// Where a followed file has been read to.
#[derive(Debug, Default)]
struct Cursor {
    byte: u64,
    line: u64,
}

/// Trainers' output. With `follow`, waits while there is none and ends with the job.
pub async fn logs(
    handle: Handle,
    job: Arc<Job>,
    request: v1::LogsRequest,
    to: To<v1::LogLine>,
) -> Result<(), End> {
    let id = job.id().clone();
    let phase = job
        .submission
        .phases
        .iter()
        .find(|plan| plan.name.as_str() == request.phase)
        .map(|plan| plan.index);
    let wanted = |file: &LogFile| {
        phase.is_none_or(|phase| phase == file.phase)
            && request
                .attempt
                .is_none_or(|attempt| attempt == file.attempt.get())
            && request.rank.is_none_or(|rank| rank == file.rank.get())
    };
    let mut cursors: BTreeMap<LogFile, Cursor> = BTreeMap::new();
    let mut quiet = 0;
    let mut first_look = true;
    loop {
        let over = is_over(&handle, &id).await?;
        let mut files = handle.logs().files(&id).await?;
        files.retain(wanted);
        // As they were written, not phase by phase.
        files.sort_by_key(|file| (file.attempt, file.rank));
        let mut moved = false;
        for file in files {
            let Some(plan) = job.submission.phases.get(file.phase.get() as usize) else {
                continue;
            };
            let lines = handle.logs().lines(&id, &file).await?;
            let after = request.after.iter().find(|after| {
                after.phase == plan.name.as_str()
                    && after.attempt == file.attempt.get()
                    && after.rank == file.rank.get()
            });
            let skip = match after {
                Some(after) => after.index,
                None if first_look && request.tail > 0 => lines.saturating_sub(request.tail),
                None => 0,
            };
            let cursor = cursors.entry(file.clone()).or_default();
            while cursor.line < lines {
                let (read, next) = handle.logs().read(&id, &file, cursor.byte).await?;
                if read.is_empty() {
                    break;
                }
                moved = true;
                cursor.byte = next;
                for line in read {
                    let index = cursor.line;
                    cursor.line += 1;
                    if index >= skip {
                        let (attempt, rank) = (file.attempt.get(), file.rank.get());
                        send(
                            &to,
                            v1::LogLine {
                                phase: plan.name.to_string(),
                                attempt,
                                rank,
                                line,
                                index,
                            },
                        )
                        .await?;
                    }
                }
            }
        }
        first_look = false;
        quiet = if moved { 0 } else { quiet + 1 };
        // The last lines of a trainer may come a moment after the news of its end.
        if !request.follow || (over == (true, true) && quiet >= 5) || (over.0 && quiet >= 150) {
            return Ok(());
        }
        tokio::time::sleep(PACE).await;
    }
}

/// The history of every measurement.
pub async fn metrics(
    handle: Handle,
    job: Arc<Job>,
    phase: String,
    to: To<v1::MetricPoint>,
) -> Result<(), End> {
    for plan in job
        .submission
        .phases
        .iter()
        .filter(|plan| phase.is_empty() || plan.name.as_str() == phase)
    {
        let mut after: Option<(String, Step)> = None;
        loop {
            let from = after.as_ref().map(|(name, step)| (name.as_str(), *step));
            let page = handle.reader().metrics(job.id(), plan.index, from).await?;
            let Some(last) = page.last() else { break };
            after = Some((last.metric.name.clone(), last.metric.step));
            for point in page {
                send(&to, encode::point(&point.metric, plan.name.as_str())).await?;
            }
        }
    }
    Ok(())
}

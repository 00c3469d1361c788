//! Streams that survive a restart of the coordinator.

use std::ops::ControlFlow;
use std::time::Duration;

use diptych_common::ids::JobId;
use diptych_proto::v1;
use tonic::{Response, Status, Streaming};

use super::Client;
use super::backoff::Backoff;
use crate::failure::{Code, Failure};
use crate::view::JobView;

/// How long a followed coordinator may be away.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What to do when the coordinator ends a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AtEnd {
    /// It has said all.
    Stop,
    /// Open the stream again, unless the job has ended.
    UntilJobEnds,
}

impl Client {
    /// Hands every message of a stream to `each`, opening it again after a break, until `each` breaks or the stream
    /// has said all. `open` starts from the beginning each time: `each` skips what it has seen.
    pub(crate) async fn stream<T, F>(
        &self,
        job: &JobId,
        at_end: AtEnd,
        open: impl Fn() -> F,
        mut each: impl FnMut(T) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<Response<Streaming<T>>, Status>>,
    {
        let mut backoff = Backoff::new(PATIENCE);
        loop {
            let failure = match open().await {
                Ok(response) => {
                    let mut stream = response.into_inner();
                    loop {
                        match stream.message().await {
                            Ok(Some(message)) => {
                                backoff.reset();
                                if each(message)?.is_break() {
                                    return Ok(());
                                }
                            }
                            Ok(None)
                                if at_end == AtEnd::Stop
                                    || self.job(job).await?.state.has_ended() =>
                            {
                                return Ok(());
                            }
                            Ok(None) => break None,
                            Err(status) => break Some(self.failure(status)),
                        }
                    }
                }
                Err(status) => Some(self.failure(status)),
            };
            if let Some(failure) = failure.as_ref().filter(|failure| !failure.is_transient()) {
                return Err(failure.clone());
            }
            match (backoff.next(), failure) {
                (Some(pause), _) => tokio::time::sleep(pause).await,
                (None, Some(failure)) => return Err(failure),
                (None, None) => {
                    let text = format!(
                        "the coordinator at {} ends the stream again and again",
                        self.server()
                    );
                    return Err(Failure::new(Code::Unavailable, text));
                }
            }
        }
    }

    /// What happened to a job so far, oldest first.
    pub(crate) async fn events(&self, job: &JobId) -> Result<Vec<v1::Event>, Failure> {
        let mut events: Vec<v1::Event> = Vec::new();
        let request = || v1::EventsRequest {
            job: job.to_string(),
            follow: false,
        };
        let open = || async { self.jobs().events(request()).await };
        let each = |event: v1::Event| {
            if events.last().is_none_or(|last| event.id > last.id) {
                events.push(event);
            }
            Ok(ControlFlow::Continue(()))
        };
        self.stream(job, AtEnd::Stop, open, each).await?;
        Ok(events)
    }

    /// The job as it is now.
    pub(crate) async fn job(&self, job: &JobId) -> Result<JobView, Failure> {
        let request = || v1::JobRequest {
            job: job.to_string(),
        };
        self.retry(|| async { self.jobs().get(request()).await })
            .await
            .map(JobView::from)
    }

    /// Hands every state of a job to `each` until it has ended, and returns the last.
    pub(crate) async fn watch(
        &self,
        job: &JobId,
        mut each: impl FnMut(&JobView) -> Result<(), Failure>,
    ) -> Result<JobView, Failure> {
        let mut last = None;
        let open = || async {
            self.jobs()
                .watch(v1::JobRequest {
                    job: job.to_string(),
                })
                .await
        };
        let take = |message: v1::Job| {
            let view = JobView::from(message);
            each(&view)?;
            let ended = view.state.has_ended();
            last = Some(view);
            Ok(if ended {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        };
        self.stream(job, AtEnd::UntilJobEnds, open, take).await?;
        match last {
            Some(view) if view.state.has_ended() => Ok(view),
            // The stream said nothing of the end, but the job has ended.
            _ => {
                let view = self.job(job).await?;
                each(&view)?;
                Ok(view)
            }
        }
    }
}

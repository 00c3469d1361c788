//! People's wishes.

use std::cmp::Reverse;
use std::sync::Arc;

use diptych_common::ids::{JobId, PhaseIndex};
use diptych_proto::convert::valid_spec;
use diptych_proto::status::{spec_status, status};
use diptych_proto::v1::job_service_server::JobService;
use diptych_proto::{MAX_ANSWER, v1};
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::follow::{self, Follow};
use super::{decode, encode};
use crate::admit;
use crate::core::{Answer, Event, Refusal, RequestId, Scale, Secret, Submit};
use crate::driver::sweeper::delete_folder;
use crate::driver::{Handle, WishError};
use crate::queue;

/// Jobs of one page of a list.
const LISTED: usize = 1000;
/// Bytes of one page, the job that goes beyond it aside.
const LIST_BYTES: usize = MAX_ANSWER / 2;
/// Characters of a request id or a reason.
const TEXT: usize = 256;

/// People's wishes.
#[derive(Debug, Clone)]
pub struct Jobs {
    handle: Handle,
    stop: CancellationToken,
}

impl Jobs {
    /// Asks the owner; streams end with `stop`.
    pub fn new(handle: Handle, stop: CancellationToken) -> Self {
        Self { handle, stop }
    }

    async fn get_job(&self, job: JobId) -> Result<Response<v1::Job>, Status> {
        follow::job(&self.handle, &job).await.map(Response::new)
    }

    async fn phase_named(&self, job: &JobId, name: &str) -> Result<PhaseIndex, Status> {
        let (id, wanted) = (job.clone(), name.to_owned());
        let found = self.handle.read(move |state, _| {
            let job = state.job(&id)?;
            Some(
                job.index_of(&wanted)
                    .map(|index| PhaseIndex::new(index as u32)),
            )
        });
        match found.await.map_err(|error| status(&error))? {
            None => Err(status(&no_such(job.clone()))),
            Some(None) => Err(Status::not_found(format!(
                "job {job} has no phase {name:?}; `diptych describe {job}` shows its phases"
            ))),
            Some(Some(index)) => Ok(index),
        }
    }

    async fn exists(&self, text: &str) -> Result<JobId, Status> {
        let job = decode::job(text).map_err(|error| status(&error))?;
        let id = job.clone();
        let found = self
            .handle
            .read(move |state, _| state.job(&id).is_some())
            .await;
        if found.map_err(|error| status(&error))? {
            Ok(job)
        } else {
            Err(status(&no_such(job)))
        }
    }
}

/// NOT_FOUND.
pub(super) fn no_such(job: JobId) -> WishError {
    WishError::Refused(Refusal::NoSuchJob(job))
}

fn short(field: &str, text: String) -> Result<String, Status> {
    if text.len() > TEXT {
        return Err(Status::invalid_argument(format!(
            "{field} is longer than {TEXT} characters"
        )));
    }
    Ok(text)
}

/// The position in the order of submission before which a page of a list starts.
fn page(text: &str) -> Result<u64, Status> {
    if text.is_empty() {
        return Ok(u64::MAX);
    }
    text.parse().map_err(|_| {
        Status::invalid_argument(format!(
            "page: {text:?} is not the next_page of an earlier answer"
        ))
    })
}

/// The spec's name and six random hex digits.
fn new_id(name: &str) -> Result<JobId, Status> {
    let suffix = rand::random::<u32>() & 0xff_ffff;
    let id = format!("{name}-{suffix:06x}").parse();
    id.map_err(|error| Status::invalid_argument(format!("name: {error}")))
}

#[tonic::async_trait]
impl JobService for Jobs {
    type WatchStream = Follow<v1::Job>;
    type EventsStream = Follow<v1::Event>;
    type LogsStream = Follow<v1::LogLine>;
    type MetricsStream = Follow<v1::MetricPoint>;

    async fn submit(
        &self,
        request: Request<v1::SubmitRequest>,
    ) -> Result<Response<v1::SubmitResponse>, Status> {
        let request = request.into_inner();
        let wire = request
            .spec
            .ok_or_else(|| Status::invalid_argument("spec is missing"))?;
        let spec = valid_spec(wire).map_err(|errors| spec_status(&errors))?;
        let request_id = short("request_id", request.request_id)?;
        if request.dry_run {
            return Ok(Response::new(v1::SubmitResponse {
                job: String::new(),
                created: false,
            }));
        }
        let submission = Arc::new(admit::submission(&spec));
        let request_id = Some(request_id).filter(|id| !id.is_empty()).map(RequestId);
        loop {
            let submit = Submit {
                id: new_id(spec.name())?,
                submission: Arc::clone(&submission),
                request: request_id.clone(),
                secret: Secret::new(rand::random()),
            };
            match self.handle.wish(Event::Submit(submit)).await {
                Ok(Answer::Submitted { job, created }) => {
                    return Ok(Response::new(v1::SubmitResponse {
                        job: job.to_string(),
                        created,
                    }));
                }
                Err(WishError::Refused(Refusal::JobIdTaken(_))) => {}
                Ok(answer) => {
                    return Err(Status::internal(format!(
                        "a submit was answered with {answer:?}"
                    )));
                }
                Err(error) => return Err(status(&error)),
            }
        }
    }

    async fn get(&self, request: Request<v1::JobRequest>) -> Result<Response<v1::Job>, Status> {
        let job = decode::job(&request.into_inner().job).map_err(|error| status(&error))?;
        self.get_job(job).await
    }

    async fn list(
        &self,
        request: Request<v1::ListJobsRequest>,
    ) -> Result<Response<v1::ListJobsResponse>, Status> {
        let request = request.into_inner();
        let states: Vec<_> = request.states().collect();
        let before = page(&request.page)?;
        let jobs = self
            .handle
            .read(|state, _| state.jobs().values().cloned().collect::<Vec<_>>())
            .await;
        let mut jobs = jobs.map_err(|error| status(&error))?;
        jobs.retain(|job| {
            job.record.sequence < before
                && (states.is_empty() || states.contains(&encode::job_state(job)))
        });
        jobs.sort_by_key(|job| Reverse(job.record.sequence));
        let mut answer = v1::ListJobsResponse::default();
        let mut bytes = 0;
        for job in &jobs {
            let wire = encode::summary(job);
            bytes += wire.encoded_len();
            if answer.jobs.len() == LISTED || (bytes > LIST_BYTES && !answer.jobs.is_empty()) {
                break;
            }
            answer.jobs.push(wire);
        }
        let last = answer.jobs.len().checked_sub(1);
        if let Some(last) = last.filter(|_| answer.jobs.len() < jobs.len()) {
            answer.next_page = jobs[last].record.sequence.to_string();
        }
        Ok(Response::new(answer))
    }

    async fn watch(
        &self,
        request: Request<v1::JobRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let job = self.exists(&request.into_inner().job).await?;
        let handle = self.handle.clone();
        Ok(Response::new(follow::stream(self.stop.clone(), |to| {
            follow::watch(handle, job, to)
        })))
    }

    async fn events(
        &self,
        request: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let request = request.into_inner();
        let job = self.exists(&request.job).await?;
        let handle = self.handle.clone();
        let go_on = request.follow;
        Ok(Response::new(follow::stream(
            self.stop.clone(),
            move |to| follow::events(handle, job, go_on, to),
        )))
    }

    async fn logs(
        &self,
        request: Request<v1::LogsRequest>,
    ) -> Result<Response<Self::LogsStream>, Status> {
        let request = request.into_inner();
        let job = self.exists(&request.job).await?;
        let id = job.clone();
        let found = self
            .handle
            .read(move |state, _| state.job(&id).cloned())
            .await
            .map_err(|error| status(&error))?;
        let known = found.ok_or_else(|| status(&no_such(job.clone())))?;
        if !request.phase.is_empty() && known.index_of(&request.phase).is_none() {
            return Err(Status::not_found(format!(
                "job {job} has no phase {:?}",
                request.phase
            )));
        }
        let handle = self.handle.clone();
        Ok(Response::new(follow::stream(self.stop.clone(), |to| {
            follow::logs(handle, known, request, to)
        })))
    }

    async fn explain(
        &self,
        request: Request<v1::JobRequest>,
    ) -> Result<Response<v1::Explanation>, Status> {
        let job = decode::job(&request.into_inner().job).map_err(|error| status(&error))?;
        let id = job.clone();
        let explained = self.handle.read(move |state, now| {
            let job = state.job(&id)?;
            Some((encode::job_state(job), queue::explain(state, job, now)))
        });
        let explained = explained.await.map_err(|error| status(&error))?;
        let (state, reasons) = explained.ok_or_else(|| status(&no_such(job.clone())))?;
        let reasons = reasons.into_iter().map(encode::reason).collect();
        Ok(Response::new(v1::Explanation {
            job: job.to_string(),
            state: state.into(),
            reasons,
        }))
    }

    async fn cancel(
        &self,
        request: Request<v1::CancelRequest>,
    ) -> Result<Response<v1::Job>, Status> {
        let request = request.into_inner();
        let job = decode::job(&request.job).map_err(|error| status(&error))?;
        let event = Event::Cancel {
            job: job.clone(),
            reason: short("reason", request.reason)?,
        };
        self.handle
            .wish(event)
            .await
            .map_err(|error| status(&error))?;
        self.get_job(job).await
    }

    async fn scale(&self, request: Request<v1::ScaleRequest>) -> Result<Response<v1::Job>, Status> {
        let request = request.into_inner();
        let job = decode::job(&request.job).map_err(|error| status(&error))?;
        let phase = match request.phase.as_str() {
            "" => None,
            name => Some(self.phase_named(&job, name).await?),
        };
        let event = Event::Scale(Scale {
            job: job.clone(),
            phase,
            min: request.min,
            max: request.max,
        });
        self.handle
            .wish(event)
            .await
            .map_err(|error| status(&error))?;
        self.get_job(job).await
    }

    async fn retry(&self, request: Request<v1::JobRequest>) -> Result<Response<v1::Job>, Status> {
        let job = decode::job(&request.into_inner().job).map_err(|error| status(&error))?;
        self.handle
            .wish(Event::Retry { job: job.clone() })
            .await
            .map_err(|error| status(&error))?;
        self.get_job(job).await
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        let request = request.into_inner();
        let job = self.exists(&request.job).await?;
        let id = job.clone();
        let deletable = self.handle.read(move |state, _| {
            admit::deletable(state, &id).map(|job| job.submission.draft.storage.clone())
        });
        let storage = deletable
            .await
            .map_err(|error| status(&error))?
            .map_err(|refusal| status(&WishError::Refused(refusal)))?;
        // The objects first: as long as one is left, the job is there to ask for again.
        let mut objects = 0;
        if request.objects {
            let deleted = delete_folder(self.handle.stores(), &storage, job.as_str()).await;
            objects = deleted.map_err(|error| {
                Status::unavailable(format!(
                    "job {job} stays, for not all objects under {storage}/{job} could be deleted: {error}; run the same command again"
                ))
            })?;
        }
        self.handle
            .wish(Event::Delete { job: job.clone() })
            .await
            .map_err(|error| status(&error))?;
        if let Err(error) = self.handle.logs().remove(&job).await {
            tracing::warn!(%job, %error, "logs of a deleted job stay");
        }
        Ok(Response::new(v1::DeleteResponse { objects }))
    }

    async fn metrics(
        &self,
        request: Request<v1::MetricsRequest>,
    ) -> Result<Response<Self::MetricsStream>, Status> {
        let request = request.into_inner();
        let job = self.exists(&request.job).await?;
        let id = job.clone();
        let found = self
            .handle
            .read(move |state, _| state.job(&id).cloned())
            .await
            .map_err(|error| status(&error))?;
        let known = found.ok_or_else(|| status(&no_such(job.clone())))?;
        if !request.phase.is_empty() && known.index_of(&request.phase).is_none() {
            return Err(Status::not_found(format!(
                "job {job} has no phase {:?}",
                request.phase
            )));
        }
        let handle = self.handle.clone();
        Ok(Response::new(follow::stream(self.stop.clone(), |to| {
            follow::metrics(handle, known, request.phase, to)
        })))
    }
}

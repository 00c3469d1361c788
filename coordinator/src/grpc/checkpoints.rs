//! List, get, verify and pin checkpoints.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::ids::JobId;
use diptych_proto::status::status;
use diptych_proto::v1;
use diptych_proto::v1::checkpoint_service_server::CheckpointService;
use tonic::{Request, Response, Status};

use super::jobs::no_such;
use super::{decode, encode};
use crate::core::{CheckpointId, Event, Job};
use crate::driver::Handle;

/// How long a verification may take.
const VERIFY: Duration = Duration::from_secs(600);
/// How often to look, should a notification be missed.
const LOOK: Duration = Duration::from_secs(1);

/// Checkpoints.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    handle: Handle,
}

/// Which checkpoint is meant where no step is given.
#[derive(Debug, Clone, Copy)]
enum Pick {
    /// The result of a phase that is done, before that the newest verified one.
    Result,
    /// The newest, whatever is known of it.
    Newest,
}

/// A checkpoint that was asked for, found.
#[derive(Debug, Clone)]
struct Found {
    job: Arc<Job>,
    index: usize,
    id: CheckpointId,
}

impl Checkpoints {
    /// Asks the owner.
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }

    async fn job(&self, job: &str) -> Result<Arc<Job>, Status> {
        let job: JobId = decode::job(job).map_err(|error| status(&error))?;
        let id = job.clone();
        let found = self
            .handle
            .read(move |state, _| state.job(&id).cloned())
            .await
            .map_err(|error| status(&error))?;
        found.ok_or_else(|| status(&no_such(job)))
    }

    async fn find(&self, request: &v1::CheckpointRequest, pick: Pick) -> Result<Found, Status> {
        let job = self.job(&request.job).await?;
        let index = if request.phase.is_empty() {
            let with = (0..job.phases.len())
                .rev()
                .find(|index| !job.phases[*index].checkpoints.is_empty());
            with.ok_or_else(|| {
                Status::not_found(format!("job {} has no checkpoint yet", job.id()))
            })?
        } else {
            let index = job.index_of(&request.phase);
            index.ok_or_else(|| {
                Status::not_found(format!("job {} has no phase {:?}", job.id(), request.phase))
            })?
        };
        let phase = &job.phases[index];
        let found = match request.step {
            Some(step) => phase
                .checkpoints
                .keys()
                .rev()
                .find(|id| id.step.get() == step)
                .copied(),
            None => match pick {
                Pick::Result => phase.result().map(|checkpoint| checkpoint.record.id),
                Pick::Newest => phase.checkpoints.keys().next_back().copied(),
            },
        };
        let name = &job.submission.phases[index].name;
        let id = found.ok_or_else(|| match request.step {
            Some(step) => Status::not_found(format!(
                "job {} has no checkpoint of phase {name} at step {step}; `diptych checkpoint list {}` shows them",
                job.id(),
                job.id()
            )),
            None => Status::not_found(format!("phase {name} of job {} has no verified checkpoint yet", job.id())),
        })?;
        Ok(Found { job, index, id })
    }
}

impl Found {
    fn encode(&self) -> Result<Response<v1::Checkpoint>, Status> {
        let found = self.job.phases[self.index].checkpoints.get(&self.id);
        let found =
            found.ok_or_else(|| Status::not_found("the checkpoint was collected meanwhile"))?;
        Ok(Response::new(encode::checkpoint(
            &self.job, self.index, found,
        )))
    }

    fn reports(&self) -> u64 {
        self.job.phases[self.index]
            .checkpoints
            .get(&self.id)
            .map_or(0, |checkpoint| checkpoint.reports)
    }

    /// What kept the last worker from reading it.
    fn trouble(&self) -> Option<String> {
        let found = self.job.phases[self.index].checkpoints.get(&self.id)?;
        found.trouble.last.clone()
    }

    async fn again(&self, checkpoints: &Checkpoints) -> Result<Self, Status> {
        let job = checkpoints.job(self.job.id().as_str()).await?;
        Ok(Self {
            job,
            index: self.index,
            id: self.id,
        })
    }
}

#[tonic::async_trait]
impl CheckpointService for Checkpoints {
    async fn list(
        &self,
        request: Request<v1::ListCheckpointsRequest>,
    ) -> Result<Response<v1::ListCheckpointsResponse>, Status> {
        let job = self.job(&request.into_inner().job).await?;
        let mut all: Vec<_> = (0..job.phases.len())
            .flat_map(|index| {
                job.phases[index]
                    .checkpoints
                    .values()
                    .map(move |checkpoint| (index, checkpoint))
            })
            .collect();
        all.sort_by_key(|(index, checkpoint)| {
            Reverse((checkpoint.record.at, *index, checkpoint.record.id))
        });
        let checkpoints = all
            .into_iter()
            .map(|(index, checkpoint)| encode::checkpoint(&job, index, checkpoint))
            .collect();
        Ok(Response::new(v1::ListCheckpointsResponse { checkpoints }))
    }

    async fn get(
        &self,
        request: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::Checkpoint>, Status> {
        self.find(&request.into_inner(), Pick::Result)
            .await?
            .encode()
    }

    async fn verify(
        &self,
        request: Request<v1::CheckpointRequest>,
    ) -> Result<Response<v1::Checkpoint>, Status> {
        let request = request.into_inner();
        let mut found = self.find(&request, Pick::Newest).await?;
        let before = found.reports();
        let mut changes = self.handle.watch(found.job.id());
        let phase = found.job.submission.phases[found.index].index;
        let event = Event::Check {
            job: found.job.id().clone(),
            phase,
            checkpoint: found.id,
        };
        self.handle
            .wish(event)
            .await
            .map_err(|error| status(&error))?;
        let answered = async {
            loop {
                found = found.again(self).await?;
                if found.reports() > before {
                    return match found.trouble() {
                        Some(said) => Err(Status::unavailable(said)),
                        None => found.encode(),
                    };
                }
                // Either way, look again.
                let _ = tokio::time::timeout(LOOK, changes.changed()).await;
            }
        };
        let late = |_| {
            Status::deadline_exceeded("no worker has re-read the checkpoint within ten minutes")
        };
        tokio::time::timeout(VERIFY, answered).await.map_err(late)?
    }

    async fn pin(
        &self,
        request: Request<v1::PinRequest>,
    ) -> Result<Response<v1::Checkpoint>, Status> {
        let request = request.into_inner();
        let which = request
            .checkpoint
            .ok_or_else(|| Status::invalid_argument("checkpoint is missing"))?;
        let found = self.find(&which, Pick::Result).await?;
        let event = Event::Pin {
            job: found.job.id().clone(),
            phase: found.job.submission.phases[found.index].index,
            checkpoint: found.id,
            pinned: request.pinned,
        };
        self.handle
            .wish(event)
            .await
            .map_err(|error| status(&error))?;
        found.again(self).await?.encode()
    }
}

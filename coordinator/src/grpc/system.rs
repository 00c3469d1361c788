//! Workers, and the coordinator itself.

use std::time::Duration;

use diptych_common::ids::WorkerId;
use diptych_proto::convert::name;
use diptych_proto::status::status;
use diptych_proto::v1::system_service_server::SystemService;
use diptych_proto::v1::worker_service_server::WorkerService;
use diptych_proto::{OLDEST_PROTOCOL, PROTOCOL, v1};
use tonic::{Request, Response, Status};

use super::encode;
use crate::core::{Event, State};
use crate::driver::Handle;

/// Workers.
#[derive(Debug, Clone)]
pub struct Workers(pub Handle);

/// The coordinator itself.
#[derive(Debug, Clone, Copy)]
pub struct System;

#[tonic::async_trait]
impl WorkerService for Workers {
    async fn list(
        &self,
        _: Request<v1::ListWorkersRequest>,
    ) -> Result<Response<v1::ListWorkersResponse>, Status> {
        let workers = self
            .0
            .read(|state, _| {
                let workers = state.workers().values();
                workers
                    .map(|worker| encode::worker(state, worker))
                    .collect()
            })
            .await;
        let workers = workers.map_err(|error| status(&error))?;
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }

    async fn cordon(
        &self,
        request: Request<v1::CordonRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let request = request.into_inner();
        let worker = worker_id(&request.worker)?;
        let reason = match (request.cordoned, request.reason.as_str()) {
            (false, _) => None,
            (true, "") => Some("cordoned".to_owned()),
            (true, reason) => Some(short(reason)?),
        };
        let event = Event::Cordon {
            worker: worker.clone(),
            reason,
        };
        self.wish(event, worker).await
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::Worker>, Status> {
        let request = request.into_inner();
        let worker = worker_id(&request.worker)?;
        let deadline = match request.deadline_ms {
            0 => DRAIN,
            ms => Duration::from_millis(ms),
        };
        let event = Event::Drain {
            worker: worker.clone(),
            reason: short(&request.reason)?,
            deadline,
        };
        self.wish(event, worker).await
    }
}

/// How long a drain may take where nothing else is said.
const DRAIN: Duration = Duration::from_secs(120);
/// Characters of a reason.
const REASON: usize = 256;

impl Workers {
    async fn wish(&self, event: Event, worker: WorkerId) -> Result<Response<v1::Worker>, Status> {
        self.0.wish(event).await.map_err(|error| status(&error))?;
        let found = self.0.read(move |state, _| {
            let known = state.worker(&worker);
            known.map_or_else(
                || absent(state, &worker),
                |worker| encode::worker(state, worker),
            )
        });
        Ok(Response::new(found.await.map_err(|error| status(&error))?))
    }
}

/// A worker that is not there, of which something is remembered.
fn absent(state: &State, worker: &WorkerId) -> v1::Worker {
    let cordoned = state
        .record(worker)
        .and_then(|record| record.cordoned.clone());
    v1::Worker {
        worker: worker.to_string(),
        state: v1::WorkerState::Lost.into(),
        cordoned: cordoned.is_some(),
        cordon_reason: cordoned.unwrap_or_default(),
        ..v1::Worker::default()
    }
}

fn worker_id(text: &str) -> Result<WorkerId, Status> {
    name("worker", text).map_err(|error| status(&error))
}

fn short(reason: &str) -> Result<String, Status> {
    if reason.chars().count() > REASON {
        return Err(Status::invalid_argument(format!(
            "reason: at most {REASON} characters"
        )));
    }
    Ok(reason.to_owned())
}

#[tonic::async_trait]
impl SystemService for System {
    async fn version(
        &self,
        _: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Ok(Response::new(v1::VersionResponse {
            version,
            protocol: PROTOCOL,
            oldest_protocol: OLDEST_PROTOCOL,
        }))
    }
}

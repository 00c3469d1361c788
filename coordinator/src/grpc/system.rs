//! Workers, and the coordinator itself.

use diptych_proto::status::status;
use diptych_proto::v1::system_service_server::SystemService;
use diptych_proto::v1::worker_service_server::WorkerService;
use diptych_proto::{OLDEST_PROTOCOL, PROTOCOL, v1};
use tonic::{Request, Response, Status};

use super::encode;
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
            .read(|state, _| state.workers().values().cloned().collect::<Vec<_>>())
            .await;
        let workers = workers.map_err(|error| status(&error))?;
        let workers = workers
            .iter()
            .map(|worker| encode::worker(worker))
            .collect();
        Ok(Response::new(v1::ListWorkersResponse { workers }))
    }
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

//! Every service on one port.

use std::net::SocketAddr;
use std::time::Duration;

use diptych_proto::v1::admin_service_server::AdminServiceServer;
use diptych_proto::v1::agent_service_server::AgentServiceServer;
use diptych_proto::v1::checkpoint_service_server::CheckpointServiceServer;
use diptych_proto::v1::job_service_server::JobServiceServer;
use diptych_proto::v1::system_service_server::SystemServiceServer;
use diptych_proto::v1::worker_service_server::WorkerServiceServer;
use diptych_proto::{DESCRIPTORS, MAX_REQUEST};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tower::layer::util::{Identity, Stack};

use super::admin::Admin;
use super::agents::Agents;
use super::checkpoints::Checkpoints;
use super::jobs::Jobs;
use super::system::{System, Workers};
use super::versions::Versions;
use crate::driver::Handle;
use crate::metrics::Calls;

/// A connection on which nothing moves is probed after this.
const KEEPALIVE: Duration = Duration::from_secs(10);
/// A probe that is not answered in this time ends the connection.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A server at work.
#[derive(Debug)]
pub struct Serving {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its task. Ends after `stop`, when the last request is answered.
    pub task: JoinHandle<Result<(), tonic::transport::Error>>,
}

/// Listens, and serves until `stop`.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(
    handle: Handle,
    listen: SocketAddr,
    stop: CancellationToken,
) -> std::io::Result<Serving> {
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let router = router(handle, stop.clone()).await?;
    let task = tokio::spawn(router.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()));
    Ok(Serving { address, task })
}

/// What every call goes through, the last one first.
pub type Layers = Stack<Versions, Stack<Calls, Identity>>;

/// All services, to be served on any kind of connection until `stop`.
///
/// # Errors
/// The built-in descriptors cannot be read, which only a bug can cause.
pub async fn router(handle: Handle, stop: CancellationToken) -> std::io::Result<Router<Layers>> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<JobServiceServer<Jobs>>().await;
    health.set_serving::<AgentServiceServer<Agents>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
    };
    let broken =
        |error| std::io::Error::other(format!("the built-in descriptors cannot be read: {error}"));
    Ok(Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .layer(Calls::new(handle.calls().clone()))
        .layer(Versions)
        .add_service(
            JobServiceServer::new(Jobs::new(handle.clone(), stop.clone()))
                .max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(CheckpointServiceServer::new(Checkpoints::new(
            handle.clone(),
        )))
        .add_service(WorkerServiceServer::new(Workers(handle.clone())))
        .add_service(SystemServiceServer::new(System))
        .add_service(AdminServiceServer::new(Admin(handle.clone())))
        .add_service(
            AgentServiceServer::new(Agents::new(handle, stop.clone()))
                .max_decoding_message_size(MAX_REQUEST),
        )
        .add_service(health_service)
        .add_service(reflection().build_v1().map_err(broken)?)
        .add_service(reflection().build_v1alpha().map_err(broken)?))
}

//! Calls to the coordinator: one connection, retries of what may be repeated, streams that survive a restart.

pub(crate) mod backoff; // how long to wait
pub(crate) mod follow; // streams

use std::time::Duration;

use diptych_proto::v1::admin_service_client::AdminServiceClient;
use diptych_proto::v1::checkpoint_service_client::CheckpointServiceClient;
use diptych_proto::v1::job_service_client::JobServiceClient;
use diptych_proto::v1::system_service_client::SystemServiceClient;
use diptych_proto::v1::worker_service_client::WorkerServiceClient;
use diptych_proto::{MAX_ANSWER, v1};
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

use crate::client::backoff::Backoff;
use crate::context::Server;
use crate::failure::{Code, Failure, is_broken_connection};

/// How long calls that may be repeated are tried against a coordinator that is away.
const PATIENCE: Duration = Duration::from_secs(4);

/// A connection to one coordinator, made at the first call.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    server: Server,
    channel: Channel,
}

impl Client {
    /// A client of this coordinator; nothing is sent yet.
    pub(crate) fn new(server: &Server) -> Result<Self, Failure> {
        let endpoint = Endpoint::from_shared(server.url().to_owned())
            .map_err(|error| Failure::new(Code::Usage, format!("{server}: {error}")))?
            .connect_timeout(Duration::from_secs(3))
            .tcp_nodelay(true)
            // A half-open connection under a stream is noticed within seconds.
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .user_agent(concat!("diptych/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| Failure::new(Code::Failed, error.to_string()))?;
        Ok(Self {
            server: server.clone(),
            channel: endpoint.connect_lazy(),
        })
    }

    /// Which coordinator.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// Jobs.
    pub(crate) fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Checkpoints.
    pub(crate) fn checkpoints(&self) -> CheckpointServiceClient<Channel> {
        CheckpointServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Workers.
    pub(crate) fn workers(&self) -> WorkerServiceClient<Channel> {
        WorkerServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// The coordinator's own data.
    pub(crate) fn admin(&self) -> AdminServiceClient<Channel> {
        AdminServiceClient::new(self.channel.clone())
    }

    /// The coordinator itself.
    pub(crate) fn system(&self) -> SystemServiceClient<Channel> {
        SystemServiceClient::new(self.channel.clone())
    }

    /// A call that must not be repeated blindly.
    pub(crate) async fn once<T>(
        &self,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Failure> {
        call.await
            .map(Response::into_inner)
            .map_err(|status| self.failure(status))
    }

    /// A call that may be repeated: tried again for a few seconds while the coordinator is away.
    pub(crate) async fn retry<T, F>(&self, call: impl Fn() -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.retry_for(PATIENCE, call).await
    }

    /// A call that may be repeated: tried again for so long while the coordinator is away.
    pub(crate) async fn retry_for<T, F>(
        &self,
        patience: Duration,
        call: impl Fn() -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = Backoff::new(patience);
        loop {
            let failure = match call().await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => self.failure(status),
            };
            match backoff.next().filter(|_| failure.is_transient()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(failure),
            }
        }
    }

    /// Every job in one of these states, or all of them; newest first, page by page.
    pub(crate) async fn all_jobs(&self, states: &[i32]) -> Result<Vec<v1::Job>, Failure> {
        let mut jobs = Vec::new();
        let mut page = String::new();
        loop {
            let request = || v1::ListJobsRequest {
                states: states.to_vec(),
                page: page.clone(),
            };
            let answer = self
                .retry(|| async { self.jobs().list(request()).await })
                .await?;
            jobs.extend(answer.jobs);
            if answer.next_page.is_empty() {
                return Ok(jobs);
            }
            page = answer.next_page;
        }
    }

    /// A status in the words of this program, with the server where that cannot be reached. What a coordinator that
    /// was reached says is passed on as it is.
    pub(crate) fn failure(&self, status: Status) -> Failure {
        let unreached = is_broken_connection(&status);
        let mut failure = Failure::from(status);
        if failure.code == Code::Unavailable && unreached {
            let server = &self.server;
            let cause = failure.message;
            failure.message = format!(
                "the coordinator at {server} cannot be reached: {cause}; is it running, and is --server right?"
            );
        }
        failure
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_server_that_cannot_be_reached_is_said_to_be_so() {
        // A port that was free a moment ago.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let client = Client::new(&format!("http://{address}").parse().unwrap()).unwrap();
        for status in [
            Status::unavailable("the database cannot be written"),
            Status::resource_exhausted("100000 jobs are waiting"),
        ] {
            let words = status.message().to_owned();
            let failure = client.failure(status);
            assert_eq!((failure.code, failure.message), (Code::Unavailable, words));
        }
        let call = client.once(async { client.system().version(v1::VersionRequest {}).await });
        let failure = call.await.unwrap_err();
        assert_eq!(failure.code, Code::Unavailable);
        assert!(failure.message.contains("cannot be reached"), "{failure}");
    }
}

//! A coordinator in this process, and its clients.

use std::path::Path;
use std::time::Duration;

use diptych_common::spec::JobDraft;
use diptych_coordinator::bench::simulated::{SimulatedAgent, registration};
use diptych_coordinator::core::Settings;
use diptych_coordinator::{driver, grpc};
use diptych_proto::v1;
use diptych_proto::v1::checkpoint_service_client::CheckpointServiceClient;
use diptych_proto::v1::coordinator_message::Message as Down;
use diptych_proto::v1::job_service_client::JobServiceClient;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

/// Nothing here takes this long.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) struct Coordinator {
    pub(crate) channel: Channel,
    stop: CancellationToken,
    owner: JoinHandle<()>,
}

impl Coordinator {
    pub(crate) async fn start(dir: &Path) -> Self {
        let stop = CancellationToken::new();
        let settings = Settings {
            settle: Duration::ZERO,
            backoff: Duration::ZERO,
            ..Settings::default()
        };
        let options = driver::Options {
            data_dir: dir.to_owned(),
            settings,
            traces: None,
        };
        let (handle, owner) = driver::start(options, stop.clone()).await.unwrap();
        let serving = grpc::serve(handle, "127.0.0.1:0".parse().unwrap(), stop.clone())
            .await
            .unwrap();
        let channel = Endpoint::from_shared(format!("http://{}", serving.address))
            .unwrap()
            .connect()
            .await
            .unwrap();
        Self {
            channel,
            stop,
            owner,
        }
    }

    /// It is told to stop; clients that follow something are told, too.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.owner.await.unwrap();
    }

    pub(crate) fn jobs(&self) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channel.clone())
    }

    pub(crate) fn checkpoints(&self) -> CheckpointServiceClient<Channel> {
        CheckpointServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn agent(&self, register: v1::Register) -> SimulatedAgent {
        SimulatedAgent::connect(self.channel.clone(), register)
            .await
            .unwrap()
    }

    /// A worker that trains nothing, and does it well.
    pub(crate) async fn obedient(&self, name: &str) {
        let agent = self.agent(registration(name, "1", 1)).await;
        tokio::spawn(agent.obey());
    }

    pub(crate) async fn submit(&self, spec: v1::JobSpec) -> String {
        let request = v1::SubmitRequest {
            spec: Some(spec),
            request_id: String::new(),
            dry_run: false,
        };
        self.jobs().submit(request).await.unwrap().into_inner().job
    }

    /// Every state of a job until it ends.
    pub(crate) async fn watch(&self, job: &str) -> Vec<v1::Job> {
        let mut states = self
            .jobs()
            .watch(v1::JobRequest {
                job: job.to_owned(),
            })
            .await
            .unwrap()
            .into_inner();
        let mut seen = Vec::new();
        let all = async {
            while let Some(state) = states.message().await.unwrap() {
                seen.push(state);
            }
        };
        tokio::time::timeout(LIMIT, all)
            .await
            .expect("the job ends");
        seen
    }
}

/// A job of a pretraining and a linear evaluation on two ranks.
pub(crate) fn spec() -> v1::JobSpec {
    let text = "
apiVersion: diptych/v1
name: tiny
storage: file:///nowhere
data: {train: {url: 'file:///nowhere/*.parquet'}}
encoder: {depth: 18, stem: cifar}
resources: {ranks: 2}
phases:
  - {name: pretrain, kind: pretrain, batch: 64, steps: 4, optimizer: {kind: sgd, learning_rate: 0.1}, augment: {image_size: 32}}
  - {name: linear, kind: linear_eval, from: pretrain, batch: 64, steps: 4, optimizer: {kind: sgd, learning_rate: 0.1}, augment: {image_size: 32}}
";
    JobDraft::from_yaml(text).unwrap().into()
}

/// The next order to an agent that is wanted; others are passed over.
pub(crate) async fn wait_for<T>(
    agent: &mut SimulatedAgent,
    mut wanted: impl FnMut(&Down) -> Option<T>,
) -> T {
    let found = async {
        loop {
            let order = agent.next().await.unwrap().expect("the stream goes on");
            if let Some(found) = wanted(&order) {
                return found;
            }
        }
    };
    tokio::time::timeout(LIMIT, found)
        .await
        .expect("the order comes")
}

//! Who submits the jobs and waits for them, as a person with the command line would: every call is made again until it is
//! answered, and what was acknowledged is asked for again and again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::spec::JobDraft;
use diptych_proto::v1;
use diptych_proto::v1::job_service_client::JobServiceClient;
use diptych_proto::v1::worker_service_client::WorkerServiceClient;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::bucket::URL;
use crate::net::to_coordinator;
use crate::world::World;

const JOBS: usize = 2;
/// One answer may take so long.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(400);
/// In fine weather, a job that failed in the storm is tried so often.
const RETRIES: u32 = 4;

/// What the harness has the client ask for.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    Scale {
        job: usize,
        min: u32,
        max: u32,
    },
    Drain {
        worker: &'static str,
    },
    Cordon {
        worker: &'static str,
        cordoned: bool,
    },
}

/// Submits all jobs, passes on wishes, and returns when every job has succeeded.
pub(crate) async fn client(
    world: Arc<World>,
    mut wishes: mpsc::UnboundedReceiver<Wish>,
) -> turmoil::Result {
    let mut client = Client {
        world,
        channel: None,
        jobs: Vec::new(),
        retried: BTreeMap::new(),
    };
    while client.jobs.len() < JOBS {
        client.submit().await;
    }
    loop {
        while let Ok(wish) = wishes.try_recv() {
            // Refusals and lost answers are the storm's.
            drop(client.pass_on(wish).await);
        }
        if client.all_succeeded().await {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

struct Client {
    world: Arc<World>,
    channel: Option<Channel>,
    /// Those that were acknowledged.
    jobs: Vec<String>,
    retried: BTreeMap<String, u32>,
}

impl Client {
    async fn call<T>(
        &mut self,
        ask: impl AsyncFnOnce(Channel) -> Result<tonic::Response<T>, Status>,
    ) -> Result<T, Status> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => to_coordinator()
                .await
                .map_err(|error| Status::unavailable(error.to_string()))?,
        };
        let asked = tokio::time::timeout(PATIENCE, ask(channel.clone()));
        let answered = asked
            .await
            .unwrap_or_else(|_| Err(Status::unavailable("no answer")));
        if answered
            .as_ref()
            .err()
            .is_none_or(|status| status.code() != Code::Unavailable)
        {
            self.channel = Some(channel);
        }
        answered.map(tonic::Response::into_inner)
    }

    /// The next job, until it is acknowledged; the same request is one job however often it is made.
    async fn submit(&mut self) {
        let number = self.jobs.len();
        let spec = spec(&self.world, number);
        let request = v1::SubmitRequest {
            spec: Some(spec),
            request_id: format!("request-{number}"),
            dry_run: false,
        };
        loop {
            let request = request.clone();
            let asked =
                self.call(async |channel| JobServiceClient::new(channel).submit(request).await);
            match asked.await {
                Ok(answer) => {
                    let fresh = !self.jobs.contains(&answer.job);
                    self.world
                        .holds(fresh, || "I3: two submits became one job".to_owned());
                    self.jobs.push(answer.job);
                    return;
                }
                Err(status) => {
                    let known = matches!(
                        status.code(),
                        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal
                    );
                    self.world
                        .holds(known, || format!("a submit was refused: {status}"));
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn pass_on(&mut self, wish: Wish) -> Result<(), Status> {
        match wish {
            Wish::Scale { job, min, max } => {
                let request = v1::ScaleRequest {
                    job: self.jobs.get(job).cloned().unwrap_or_default(),
                    phase: String::new(),
                    min: Some(min),
                    max: Some(max),
                };
                let ask = async |channel| JobServiceClient::new(channel).scale(request).await;
                self.call(ask).await.map(drop)
            }
            Wish::Drain { worker } => {
                let request = v1::DrainRequest {
                    worker: worker.to_owned(),
                    deadline_ms: 5_000,
                    reason: String::new(),
                };
                let ask = async |channel| WorkerServiceClient::new(channel).drain(request).await;
                self.call(ask).await.map(drop)
            }
            Wish::Cordon { worker, cordoned } => loop {
                let request = v1::CordonRequest {
                    worker: worker.to_owned(),
                    cordoned,
                    reason: "the storm".to_owned(),
                };
                let ask = async |channel| WorkerServiceClient::new(channel).cordon(request).await;
                match self.call(ask).await {
                    // What the storm has closed must be open again after it.
                    Err(status) if !cordoned && status.code() != Code::NotFound => {
                        tokio::time::sleep(PAUSE).await;
                    }
                    answered => break answered.map(drop),
                }
            },
        }
    }

    async fn all_succeeded(&mut self) -> bool {
        let mut all = true;
        for job in self.jobs.clone() {
            let request = v1::JobRequest { job: job.clone() };
            let ask = async |channel| JobServiceClient::new(channel).get(request).await;
            match self.call(ask).await {
                Ok(found) if found.state() == v1::JobState::Succeeded => {}
                Ok(found) if found.state() == v1::JobState::Failed => {
                    all = false;
                    self.retry(&job, &found).await;
                }
                Ok(_) => all = false,
                Err(status) => {
                    all = false;
                    let there = status.code() != Code::NotFound;
                    self.world
                        .holds(there, || format!("I3: {job} was acknowledged and is gone"));
                }
            }
        }
        all
    }

    async fn retry(&mut self, job: &str, found: &v1::Job) {
        let request = v1::JobRequest {
            job: job.to_owned(),
        };
        let ask = async |channel| JobServiceClient::new(channel).retry(request).await;
        if self.call(ask).await.is_ok() {
            let tries = self.retried.entry(job.to_owned()).or_default();
            *tries += 1;
            let few = *tries <= RETRIES;
            self.world
                .holds(few, || format!("{job} fails again and again: {found:?}"));
        }
    }
}

fn spec(world: &World, number: usize) -> v1::JobSpec {
    let min = world.dice(1..3);
    let max = world.dice(min..5);
    let spares = world.dice(0..2);
    let text = format!(
        "apiVersion: diptych/v1
name: simulated-{number}
storage: {URL}
resources: {{ device: cpu, ranks: {{ min: {min}, max: {max} }}, spares: {spares} }}
data:
  train: {{ url: 's3://simulated/train' }}
  test: {{ url: 's3://simulated/test' }}
encoder: {{ depth: 18, width: 0.125, stem: cifar }}
phases:
- name: pretrain
  kind: pretrain
  batch: 64
  steps: 120
  optimizer: {{ kind: lars, learning_rate: 0.3 }}
  augment: {{ image_size: 16 }}
- name: linear
  kind: linear_eval
  from: pretrain
  batch: 64
  steps: 120
  optimizer: {{ kind: sgd, learning_rate: 0.1 }}
  augment: {{ image_size: 16 }}
"
    );
    let draft = JobDraft::from_yaml(&text);
    draft.expect("a spec of this form").into()
}

//! The measurement.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use diptych_common::spec::JobDraft;
use diptych_proto::v1::job_service_client::JobServiceClient;
use diptych_proto::{MAX_ANSWER, v1};
use futures::{StreamExt as _, TryStreamExt as _};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use super::simulated::{SimulatedAgent, registration};
use crate::core::Settings;
use crate::{driver, grpc};

/// Clients that submit at once.
const CLIENTS: usize = 32;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(300);

/// What to simulate.
#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// Workers with one CPU slot each.
    #[arg(long, default_value_t = 100)]
    pub workers: usize,
    /// Jobs of one phase on one slot.
    #[arg(long, default_value_t = 1000)]
    pub jobs: usize,
}

/// A job of one phase on one CPU slot.
const SPEC: &str = "\
apiVersion: diptych/v1
name: bench
storage: file:///nowhere
data:
  train: {url: 'file:///nowhere/*.parquet'}
encoder: {depth: 18, width: 0.25, stem: cifar}
phases:
  - name: pretrain
    kind: pretrain
    batch: 64
    steps: 4
    optimizer: {kind: sgd, learning_rate: 0.1}
    augment: {image_size: 32}
";

/// Runs a coordinator in this process, submits all jobs, waits until all are done, restarts the coordinator on the
/// same database, and prints one JSON line: `admissions_per_s` (durable submits), `rpc_p99_ms` (of a submit, under
/// that load), `jobs_per_s` (from the first submit to the last job's end) and `recovery_ms` (from opening the
/// database to the first answered request).
///
/// # Errors
/// Anything that fails.
pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let dir = std::env::temp_dir().join(format!("diptych-bench-{}", uuid::Uuid::new_v4()));
    let result = measure(&args, &dir).await;
    std::fs::remove_dir_all(&dir).context("remove the temporary data directory")?;
    println!("{}", result?);
    Ok(())
}

/// A coordinator in this process.
struct Coordinator {
    channel: Channel,
    stop: CancellationToken,
    owner: tokio::task::JoinHandle<()>,
}

impl Coordinator {
    async fn start(dir: &std::path::Path) -> anyhow::Result<Self> {
        let stop = CancellationToken::new();
        let settings = Settings {
            settle: Duration::ZERO,
            ..Settings::default()
        };
        let options = driver::Options {
            data_dir: dir.to_owned(),
            settings,
            traces: None,
        };
        let (handle, owner) = driver::start(options, stop.clone()).await?;
        let serving = grpc::serve(handle, "127.0.0.1:0".parse()?, stop.clone()).await?;
        let channel = Endpoint::from_shared(format!("http://{}", serving.address))?
            .tcp_nodelay(true)
            .connect()
            .await?;
        Ok(Self {
            channel,
            stop,
            owner,
        })
    }

    async fn end(self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.owner.await.context("stop the owner")
    }
}

async fn measure(args: &BenchArgs, dir: &std::path::Path) -> anyhow::Result<serde_json::Value> {
    let draft = JobDraft::from_yaml(SPEC).context("read the built-in spec")?;
    let coordinator = Coordinator::start(dir).await?;
    let mut workers = JoinSet::new();
    for index in 0..args.workers {
        let register = registration(&format!("w{index:05}"), "1", 1);
        let agent = SimulatedAgent::connect(coordinator.channel.clone(), register).await?;
        workers.spawn(agent.obey());
    }
    let started = Instant::now();
    let submits = futures::stream::iter(0..args.jobs).map(|_| {
        let mut client = JobServiceClient::new(coordinator.channel.clone());
        let spec = Some(v1::JobSpec::from(draft.clone()));
        async move {
            let before = Instant::now();
            client
                .submit(v1::SubmitRequest {
                    spec,
                    request_id: String::new(),
                    dry_run: false,
                })
                .await?;
            Ok::<_, tonic::Status>(before.elapsed())
        }
    });
    let mut waits: Vec<Duration> = submits
        .buffer_unordered(CLIENTS)
        .try_collect()
        .await
        .context("submit")?;
    let admitted = started.elapsed();
    wait_for_all(&coordinator.channel, args.jobs).await?;
    let done = started.elapsed();
    coordinator.end().await?;
    workers.abort_all();

    let opening = Instant::now();
    let again = Coordinator::start(dir).await?;
    let listed = succeeded(&again.channel).await?;
    let recovery = opening.elapsed();
    again.end().await?;
    if listed != args.jobs.min(LISTED) {
        bail!("{listed} of {} jobs came back after the restart", args.jobs);
    }
    waits.sort();
    let p99 = waits[(waits.len() * 99 / 100).min(waits.len() - 1)];
    Ok(serde_json::json!({
        "workers": args.workers,
        "jobs": args.jobs,
        "admissions_per_s": (args.jobs as f64 / admitted.as_secs_f64()).round(),
        "rpc_p99_ms": p99.as_secs_f64() * 1e3,
        "jobs_per_s": (args.jobs as f64 / done.as_secs_f64()).round(),
        "recovery_ms": recovery.as_secs_f64() * 1e3,
    }))
}

/// Jobs that one list shows.
const LISTED: usize = 1000;

async fn succeeded(channel: &Channel) -> anyhow::Result<usize> {
    let states = vec![v1::JobState::Succeeded.into()];
    let mut client = JobServiceClient::new(channel.clone()).max_decoding_message_size(MAX_ANSWER);
    Ok(client
        .list(v1::ListJobsRequest {
            states,
            ..Default::default()
        })
        .await?
        .into_inner()
        .jobs
        .len())
}

async fn wait_for_all(channel: &Channel, jobs: usize) -> anyhow::Result<()> {
    let all = async {
        while succeeded(channel).await? < jobs.min(LISTED) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    };
    tokio::time::timeout(LIMIT, all)
        .await
        .context("wait for the jobs")?
}

//! Jobs of a cluster: followed to where they are to be, and told when they do not get there.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use diptych_proto::v1;
use diptych_proto::v1::job_service_client::JobServiceClient;

use super::{Cluster, PATIENCE};

impl Cluster {
    /// Follows a job until `ready` holds, over coordinator restarts.
    ///
    /// # Errors
    /// When the job ends before that, or stands still for too long.
    pub async fn wait(&self, job: &str, ready: impl Fn(&v1::Job) -> bool) -> Result<v1::Job> {
        let watched = self.watch(job, ready).await;
        watched.with_context(|| self.story(job))
    }

    async fn watch(&self, job: &str, ready: impl Fn(&v1::Job) -> bool) -> Result<v1::Job> {
        let (mut reached, mut moved) = (Vec::new(), Instant::now());
        loop {
            let request = v1::JobRequest {
                job: job.to_owned(),
            };
            let stream = self.follow(request).await;
            let Ok(mut stream) = stream else {
                ensure!(moved.elapsed() < PATIENCE, "{job}: no answer for too long");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            loop {
                let left = PATIENCE.saturating_sub(moved.elapsed());
                let next = tokio::time::timeout(left, stream.message()).await;
                let Ok(Some(now)) = next.with_context(|| format!("{job} stands still"))? else {
                    break;
                };
                if ready(&now) {
                    return Ok(now);
                }
                let (state, reason) = (now.state(), &now.reason);
                ensure!(
                    !ended(&now),
                    "{job} ended as {state:?} before that: {reason}"
                );
                let phases = now.phases.iter();
                let at = phases.map(|phase| (phase.attempt, phase.step)).collect();
                if reached != at {
                    (reached, moved) = (at, Instant::now());
                }
            }
        }
    }

    async fn follow(&self, request: v1::JobRequest) -> Result<tonic::Streaming<v1::Job>> {
        let mut client = self.jobs().await?;
        Ok(client.watch(request).await?.into_inner())
    }

    /// What has happened to a job so far, oldest first.
    ///
    /// # Errors
    /// When the coordinator does not answer.
    pub async fn events(&self, job: &str) -> Result<Vec<v1::Event>> {
        let mut client = self.jobs().await?;
        let request = v1::EventsRequest {
            job: job.to_owned(),
            follow: false,
        };
        let mut stream = client.events(request).await?.into_inner();
        let mut events = Vec::new();
        while let Some(event) = stream.message().await? {
            events.push(event);
        }
        Ok(events)
    }

    /// A job's state; `None` while the coordinator does not answer within a second.
    pub async fn state(&self, job: &str) -> Option<v1::JobState> {
        let request = v1::JobRequest {
            job: job.to_owned(),
        };
        let asked = async {
            Some(
                self.jobs()
                    .await
                    .ok()?
                    .get(request)
                    .await
                    .ok()?
                    .into_inner(),
            )
        };
        let answer = tokio::time::timeout(Duration::from_secs(1), asked).await;
        answer.ok().flatten().map(|job| job.state())
    }

    async fn jobs(&self) -> Result<JobServiceClient<tonic::transport::Channel>> {
        Ok(JobServiceClient::connect(format!("http://{}", self.address)).await?)
    }

    /// Waits until a job has succeeded.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub async fn succeed(&self, job: &str) -> Result<v1::Job> {
        self.wait(job, |now| now.state() == v1::JobState::Succeeded)
            .await
    }

    /// What a reader of a failed test needs.
    pub fn story(&self, job: &str) -> String {
        let events = self
            .diptych(&["events", job])
            .map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
        let logs = self
            .diptych(&["logs", job])
            .map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
        let tail = |text: &str| {
            text.lines()
                .rev()
                .take(30)
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .collect::<Vec<_>>()
                .join("\n")
        };
        format!(
            "events:\n{}\nlogs:\n{}\ncoordinator:\n{}\nworker-0:\n{}",
            events.unwrap_or_default(),
            tail(&logs.unwrap_or_default()),
            tail(&self.log("coordinator")),
            tail(&self.log("worker-0")),
        )
    }
}

fn ended(job: &v1::Job) -> bool {
    matches!(
        job.state(),
        v1::JobState::Succeeded | v1::JobState::Failed | v1::JobState::Cancelled
    )
}

/// Whether any phase of the job has taken at least this many steps in total.
pub fn stepped(job: &v1::Job, phase: &str, step: u64) -> bool {
    job.phases
        .iter()
        .any(|status| status.name == phase && status.step >= step)
}

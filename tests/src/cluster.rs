//! A coordinator, agents and a CLI on loopback, with state in a temporary folder. It is kept, and its place printed,
//! unless the test ends with [`Cluster::passed`].

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use diptych_proto::v1;
use diptych_proto::v1::job_service_client::JobServiceClient;

use crate::process::{Process, binary};

/// Nothing in these tests takes this long; reaching it is a hang.
const PATIENCE: Duration = Duration::from_secs(150);

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    keep: Option<tempfile::TempDir>,
    coordinator: Option<Process>,
    agents: Vec<Process>,
    address: String,
}

impl Cluster {
    /// Starts a coordinator and one agent per entry of `devices`, each with so many CPU slots.
    ///
    /// # Errors
    /// When a program does not start or the coordinator does not answer.
    pub async fn start(devices: &[u32]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("diptych-test-").tempdir()?;
        let mut cluster = Self {
            dir: folder.path().to_owned(),
            keep: Some(folder),
            coordinator: None,
            agents: Vec::new(),
            address: String::new(),
        };
        cluster.start_coordinator("127.0.0.1:0").await?;
        for &count in devices {
            cluster.start_agent(count)?;
        }
        Ok(cluster)
    }

    async fn start_coordinator(&mut self, listen: &str) -> Result<()> {
        let port_file = self.dir.join("port");
        drop(std::fs::remove_file(&port_file));
        let arguments = [
            "--listen",
            listen,
            "--data-dir",
            &self.text("coordinator"),
            "--port-file",
            &self.text("port"),
        ]
        .map(str::to_owned);
        self.coordinator = Some(Process::start(
            "diptych-coordinator",
            &arguments,
            self.dir.join("coordinator.log"),
        )?);
        let port = within(async {
            loop {
                match std::fs::read_to_string(&port_file) {
                    Ok(text) if text.ends_with('\n') => return Ok(text.trim().to_owned()),
                    _ => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        })
        .await
        .with_context(|| {
            format!(
                "coordinator wrote no port; log: {}",
                self.log("coordinator")
            )
        })?;
        self.address = format!("127.0.0.1:{port}");
        Ok(())
    }

    fn start_agent(&mut self, devices: u32) -> Result<()> {
        let name = format!("worker-{}", self.agents.len());
        let process = self.agent_process(&name, devices)?;
        self.agents.push(process);
        Ok(())
    }

    fn agent_process(&self, name: &str, devices: u32) -> Result<Process> {
        let arguments = [
            "agent",
            "--coordinator",
            &format!("http://{}", self.address),
            "--id",
            name,
            "--devices",
            &devices.to_string(),
            "--data-dir",
            &self.text(name),
        ]
        .map(str::to_owned);
        Process::start(
            "diptych-worker",
            &arguments,
            self.dir.join(format!("{name}.log")),
        )
    }

    /// Kills the coordinator with SIGKILL.
    ///
    /// # Errors
    /// When it does not run.
    pub fn kill_coordinator(&mut self) -> Result<()> {
        self.coordinator
            .as_mut()
            .context("coordinator runs")?
            .kill()
    }

    /// Starts a killed coordinator again, on the same port and state.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn revive_coordinator(&mut self) -> Result<()> {
        let address = self.address.clone();
        self.start_coordinator(&address).await
    }

    /// Process ids of all trainers, agent by agent.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn trainers(&self) -> Result<Vec<nix::unistd::Pid>> {
        let each = self.agents.iter().map(|agent| agent.children("trainer"));
        Ok(each.collect::<Result<Vec<_>>>()?.concat())
    }

    /// Kills an agent with SIGKILL and starts it again with the same identity.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_agent(&mut self, index: usize, devices: u32) -> Result<()> {
        self.agents[index].kill()?;
        self.agents[index] = self.agent_process(&format!("worker-{index}"), devices)?;
        Ok(())
    }

    /// An agent's process.
    pub fn agent(&self, index: usize) -> &Process {
        &self.agents[index]
    }

    /// The state folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn text(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(format!("{name}.log"))).unwrap_or_default()
    }

    /// Runs the CLI against this cluster.
    ///
    /// # Errors
    /// When the binary is missing.
    pub fn diptych(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(binary("diptych")?)
            .args(["--server", &format!("http://{}", self.address)])
            .args(arguments)
            .env("HOME", &self.dir)
            .output()
            .context("run diptych")
    }

    /// Runs the CLI with `-o json` and reads what it prints; a failure shows everything that it printed.
    ///
    /// # Errors
    /// When it fails or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let output = self.diptych(&[&["-o", "json"], arguments].concat())?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        ensure!(
            output.status.success(),
            "diptych {arguments:?}: {}\n{stdout}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_str(&stdout)
            .with_context(|| format!("read the output of {arguments:?}: {stdout}"))
    }

    /// Submits a spec file with the CLI and returns the job id.
    ///
    /// # Errors
    /// When it is refused.
    pub fn submit(&self, spec: &str) -> Result<String> {
        let path = self.dir.join("spec.yaml");
        std::fs::write(&path, spec)?;
        let answer = self.json(&["submit", "-f", &path.display().to_string()])?;
        Ok(answer["job"]
            .as_str()
            .context("submit prints the job id")?
            .to_owned())
    }

    /// Follows a job until `ready` holds, over coordinator restarts.
    ///
    /// # Errors
    /// When the job ends before that, or nothing happens for too long.
    pub async fn wait(&self, job: &str, ready: impl Fn(&v1::Job) -> bool) -> Result<v1::Job> {
        let watched = within(async {
            loop {
                let request = v1::JobRequest {
                    job: job.to_owned(),
                };
                let Ok(mut stream) = self.follow(request).await else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                while let Ok(Some(now)) = stream.message().await {
                    if ready(&now) {
                        return Ok(now);
                    }
                    if ended(&now) {
                        bail!(
                            "{job} ended as {:?} before that: {}",
                            now.state(),
                            now.reason
                        );
                    }
                }
            }
        })
        .await;
        watched.with_context(|| self.story(job))
    }

    async fn follow(&self, request: v1::JobRequest) -> Result<tonic::Streaming<v1::Job>> {
        let mut client = JobServiceClient::connect(format!("http://{}", self.address)).await?;
        Ok(client.watch(request).await?.into_inner())
    }

    /// Waits until a job has succeeded.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub async fn succeed(&self, job: &str) -> Result<v1::Job> {
        self.wait(job, |now| now.state() == v1::JobState::Succeeded)
            .await
    }

    /// Ends a test that has found nothing wrong: the state is removed.
    ///
    /// # Errors
    /// When it cannot be.
    pub fn passed(mut self) -> Result<()> {
        let folder = self.keep.take().context("state is there")?;
        self.agents.clear();
        self.coordinator = None;
        folder.close().context("remove state")
    }

    /// What a reader of a failed test needs.
    fn story(&self, job: &str) -> String {
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

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(folder) = self.keep.take() {
            eprintln!("state kept in {}", folder.keep().display());
        }
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

async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .context("nothing came of it in time")?
}

//! A coordinator, agents and a CLI on loopback, with state in a temporary folder. It is kept, and its place printed,
//! unless the test ends with [`Cluster::passed`].

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::{Process, Surroundings, program};
use crate::proxy::Proxy;

mod jobs; // followed to where they are to be

pub use jobs::stepped;

/// Nothing in these tests takes this long; reaching it is a hang.
const PATIENCE: Duration = Duration::from_secs(280);

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    keep: Option<tempfile::TempDir>,
    setting: Setting,
    coordinator: Option<Process>,
    agents: Vec<Agent>,
    address: String,
}

/// How a cluster differs from the ordinary one.
#[derive(Debug, Clone, Default)]
pub struct Setting {
    /// Further arguments of the coordinator.
    pub coordinator: Vec<String>,
    /// Further arguments of the agents.
    pub agents: Vec<String>,
    /// Variables of all programs.
    pub environment: Vec<(String, String)>,
    /// Every agent reaches the coordinator through a [`Proxy`].
    pub proxied: bool,
    /// Where the programs are; none: this build's.
    pub programs: Option<PathBuf>,
    /// Network namespaces of the agents, in order; none: that of the test. The coordinator is reached at the address.
    pub namespaces: Option<(String, Vec<String>)>,
}

#[derive(Debug)]
struct Agent {
    process: Process,
    devices: u32,
    wire: Option<Proxy>,
}

impl Cluster {
    /// Starts a coordinator and one agent per entry of `devices`, each with so many CPU slots.
    ///
    /// # Errors
    /// When a program does not start or the coordinator does not answer.
    pub async fn start(devices: &[u32]) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("diptych-test-").tempdir()?;
        Self::start_in(folder, devices, Setting::default()).await
    }

    /// As [`Cluster::start`], in a given folder and setting.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub async fn start_in(
        folder: tempfile::TempDir,
        devices: &[u32],
        setting: Setting,
    ) -> Result<Self> {
        let mut cluster = Self {
            dir: folder.path().to_owned(),
            keep: Some(folder),
            setting,
            coordinator: None,
            agents: Vec::new(),
            address: String::new(),
        };
        let host = cluster.host().to_owned();
        cluster.start_coordinator(&format!("{host}:0")).await?;
        for (index, &devices) in devices.iter().enumerate() {
            let wire = if cluster.setting.proxied {
                Some(Proxy::start(&host, &cluster.address).await?)
            } else {
                None
            };
            let process = cluster.agent_process(index, devices, wire.as_ref())?;
            cluster.agents.push(Agent {
                process,
                devices,
                wire,
            });
        }
        Ok(cluster)
    }

    /// The address of this machine at which its programs reach each other.
    pub fn host(&self) -> &str {
        self.setting
            .namespaces
            .as_ref()
            .map_or("127.0.0.1", |(host, _)| host)
    }

    async fn start_coordinator(&mut self, listen: &str) -> Result<()> {
        let port_file = self.dir.join("port");
        drop(std::fs::remove_file(&port_file));
        let mut arguments = [
            "--listen",
            listen,
            "--data-dir",
            &self.text("coordinator"),
            "--port-file",
            &self.text("port"),
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend_from_slice(&self.setting.coordinator);
        self.coordinator = Some(Process::start_within(
            "diptych-coordinator",
            &arguments,
            self.dir.join("coordinator.log"),
            &Surroundings {
                environment: self.setting.environment.clone(),
                namespace: None,
                programs: self.setting.programs.clone(),
            },
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
        self.address = format!("{}:{port}", self.host());
        Ok(())
    }

    fn agent_process(&self, index: usize, devices: u32, wire: Option<&Proxy>) -> Result<Process> {
        let name = format!("worker-{index}");
        let coordinator = wire.map_or_else(|| self.address.clone(), |w| w.address().to_string());
        let mut arguments = [
            "agent",
            "--coordinator",
            &format!("http://{coordinator}"),
            "--id",
            &name,
            "--devices",
            &devices.to_string(),
            "--data-dir",
            &self.text(&name),
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.extend_from_slice(&self.setting.agents);
        let namespaces = self.setting.namespaces.as_ref();
        Process::start_within(
            "diptych-worker",
            &arguments,
            self.dir.join(format!("{name}.log")),
            &Surroundings {
                environment: [
                    self.setting.environment.as_slice(),
                    // A flag would be refused by a version that has no GPUs.
                    &[("DIPTYCH_GPUS".to_owned(), "none".to_owned())],
                ]
                .concat(),
                programs: self.setting.programs.clone(),
                namespace: namespaces.and_then(|(_, names)| names.get(index).cloned()),
            },
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

    /// Asks the coordinator to leave, as a rolling upgrade does, and waits until it has.
    ///
    /// # Errors
    /// When it does not.
    pub async fn stop_coordinator(&mut self) -> Result<()> {
        let coordinator = self.coordinator.as_mut().context("coordinator runs")?;
        coordinator.leave(PATIENCE).await.context("the coordinator")
    }

    /// Asks an agent to leave, and waits until it has.
    ///
    /// # Errors
    /// When it does not.
    pub async fn stop_agent(&mut self, index: usize) -> Result<()> {
        let left = self.agents[index].process.leave(PATIENCE).await;
        left.with_context(|| format!("worker-{index}"))
    }

    /// Programs that are started from now on are those in `folder`.
    pub fn take_programs_from(&mut self, folder: &Path) {
        self.setting.programs = Some(folder.to_owned());
    }

    /// Process ids of all trainers, agent by agent.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn trainers(&self) -> Result<Vec<nix::unistd::Pid>> {
        let each = self.agents.iter();
        let each = each.map(|agent| agent.process.children("trainer"));
        Ok(each.collect::<Result<Vec<_>>>()?.concat())
    }

    /// The process id of the trainer that an agent runs.
    ///
    /// # Errors
    /// When it runs none.
    pub fn trainer(&self, agent: usize) -> Result<nix::unistd::Pid> {
        let trainers = self.agents[agent].process.children("trainer")?;
        let first = trainers.first().copied();
        first.with_context(|| format!("worker-{agent} runs no trainer"))
    }

    /// Kills an agent with SIGKILL and starts it again with the same identity.
    ///
    /// # Errors
    /// When it does not start.
    pub fn restart_agent(&mut self, index: usize, devices: u32) -> Result<()> {
        self.kill_agent(index)?;
        self.agents[index].devices = devices;
        self.revive_agent(index)
    }

    /// Kills an agent with SIGKILL.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill_agent(&mut self, index: usize) -> Result<()> {
        self.agents[index].process.kill()
    }

    /// Starts a killed agent again, with the same identity.
    ///
    /// # Errors
    /// When it does not start.
    pub fn revive_agent(&mut self, index: usize) -> Result<()> {
        let agent = &self.agents[index];
        let process = self.agent_process(index, agent.devices, agent.wire.as_ref())?;
        self.agents[index].process = process;
        Ok(())
    }

    /// An agent's process.
    pub fn agent(&self, index: usize) -> &Process {
        &self.agents[index].process
    }

    /// How many agents there are.
    pub fn agents(&self) -> usize {
        self.agents.len()
    }

    /// The coordinator's process.
    ///
    /// # Errors
    /// When it was never started.
    pub fn coordinator(&self) -> Result<&Process> {
        self.coordinator.as_ref().context("coordinator runs")
    }

    /// The wire between an agent and the coordinator, in a setting that has them.
    ///
    /// # Errors
    /// In another.
    pub fn wire(&self, agent: usize) -> Result<&Proxy> {
        self.agents[agent]
            .wire
            .as_ref()
            .context("wires are proxied")
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
        self.diptych_from(self.setting.programs.as_deref(), arguments)
    }

    /// As [`Cluster::diptych`], with the CLI among the programs in `folder`; none: this build's.
    ///
    /// # Errors
    /// When there is none.
    pub fn diptych_from(&self, folder: Option<&Path>, arguments: &[&str]) -> Result<Output> {
        Command::new(program(folder, "diptych")?)
            .args(["--server", &format!("http://{}", self.address)])
            .args(arguments)
            .env("HOME", &self.dir)
            .envs(
                self.setting
                    .environment
                    .iter()
                    .map(|(name, value)| (name, value)),
            )
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
        self.submit_with(spec, &[])
    }

    /// As [`Cluster::submit`], with some fields of the spec set otherwise (`path=value`).
    ///
    /// # Errors
    /// When it is refused.
    pub fn submit_with(&self, spec: &str, changes: &[&str]) -> Result<String> {
        let path = self.dir.join("spec.yaml");
        std::fs::write(&path, spec)?;
        let path = path.display().to_string();
        let mut arguments = vec!["submit", "-f", &path];
        for change in changes {
            arguments.extend(["--set", change]);
        }
        let answer = self.json(&arguments)?;
        Ok(answer["job"]
            .as_str()
            .context("submit prints the job id")?
            .to_owned())
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
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(folder) = self.keep.take() {
            eprintln!("state kept in {}", folder.keep().display());
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work)
        .await
        .context("nothing came of it in time")?
}

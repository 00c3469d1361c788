//! A coordinator in this process, and the program beside it.

use std::process::{Output, Stdio};
use std::time::Duration;

use diptych_coordinator::bench::simulated::{SimulatedAgent, registration};
use diptych_coordinator::core::Settings;
use diptych_coordinator::{driver, grpc};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

/// Nothing here takes this long.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) url: String,
    stop: CancellationToken,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let options = driver::Options {
            data_dir: dir.path().join("data"),
            settings: Settings {
                settle: Duration::ZERO,
                ..Settings::default()
            },
        };
        let (handle, _) = driver::start(options, stop.clone()).await.unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let serving = grpc::serve(handle, listen, stop.clone()).await.unwrap();
        let url = format!("http://{}", serving.address);
        Self { dir, url, stop }
    }

    /// A worker with one slot that obeys every order at once.
    pub(crate) async fn worker(&self, name: &str) {
        let channel = Endpoint::from_shared(self.url.clone())
            .unwrap()
            .connect()
            .await
            .unwrap();
        let agent = SimulatedAgent::connect(channel, registration(name, "1", 1));
        tokio::spawn(agent.await.unwrap().obey());
    }

    /// The program, without a server.
    pub(crate) fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diptych"));
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// What one command line does.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut program = self.program();
        program.args(["--server", &self.url]).args(arguments);
        within(program.output()).await.unwrap()
    }

    /// What a command line that succeeds prints.
    pub(crate) async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// As JSON.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[&["-o", "json"], arguments].concat()).await;
        serde_json::from_str(&text).unwrap()
    }

    /// The exit code of a command line that fails, and what it says.
    pub(crate) async fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments).await;
        let words = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), words)
    }

    /// A job of two phases on two ranks.
    pub(crate) async fn submit(&self) -> String {
        let file = self.dir.path().join("job.yaml");
        let phase = "batch: 64, steps: 4, optimizer: {kind: sgd, learning_rate: 0.1}, augment: {image_size: 32}";
        let text = format!(
            "apiVersion: diptych/v1
name: tiny
storage: file://{}/store
data: {{train: {{url: 'file:///nowhere/*.parquet'}}}}
encoder: {{depth: 18, stem: cifar}}
resources: {{ranks: 2}}
phases:
  - {{name: pretrain, kind: pretrain, {phase}}}
  - {{name: linear, kind: linear_eval, from: pretrain, {phase}}}
",
            self.dir.path().display()
        );
        std::fs::write(&file, text).unwrap();
        let id = self.ok(&["submit", "-f", file.to_str().unwrap()]).await;
        id.trim().to_owned()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// A hang is a failure.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("in time")
}

//! A coordinator in this process, and the program beside it.

use std::ops::Deref;
use std::time::Duration;

use diptych_coordinator::bench::simulated::{SimulatedAgent, registration};
use diptych_coordinator::core::Settings;
use diptych_coordinator::{driver, grpc};
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::program::Program;

pub(crate) struct Cluster {
    program: Program,
    stop: CancellationToken,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
        let mut program = Program::new("");
        let stop = CancellationToken::new();
        let options = driver::Options {
            data_dir: program.dir.path().join("data"),
            settings: Settings {
                settle: Duration::ZERO,
                ..Settings::default()
            },
            traces: None,
        };
        let (handle, _) = driver::start(options, stop.clone()).await.unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let serving = grpc::serve(handle, listen, stop.clone()).await.unwrap();
        program.url = format!("http://{}", serving.address);
        Self { program, stop }
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

impl Deref for Cluster {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

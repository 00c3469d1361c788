//! A coordinator and its workers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::layout::Layout;
use super::process::Process;
use crate::binaries::Binaries;
use crate::context::Server;
use crate::failure::{Code, Failure};

const START_LIMIT: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Running processes; dropping it kills them.
#[derive(Debug)]
pub(super) struct Cluster {
    server: Server,
    coordinator: Process,
    workers: Vec<Process>,
}

impl Cluster {
    /// Starts everything; returns once the coordinator listens. Each worker has so many CPU slots; the first one lends the
    /// machine's GPUs, too, where they are wanted.
    pub(super) async fn start(
        layout: &Layout,
        binaries: &Binaries,
        workers: u32,
        (devices, on_gpus): (u32, bool),
    ) -> Result<Self, Failure> {
        let port_file = layout.port_file();
        match std::fs::remove_file(&port_file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let text = |path: PathBuf| path.display().to_string();
        let args = [
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            &text(layout.coordinator()),
            "--port-file",
            &text(port_file.clone()),
        ]
        .map(str::to_owned);
        let mut coordinator = Process::start(
            "coordinator",
            &binaries.coordinator,
            &args,
            layout.log("coordinator"),
        )?;
        let server = tokio::select! {
            server = listening(&port_file) => server?,
            failure = coordinator.died() => return Err(failure),
        };
        let threads = threads_per_device(workers, devices);
        let worker = |index: u32| {
            let name = format!("worker-{index}");
            // Two workers must not lend the same ones.
            let gpus = if on_gpus && index == 0 {
                "auto"
            } else {
                "none"
            };
            let args = [
                "agent",
                "--coordinator",
                server.url(),
                "--id",
                &name,
                "--devices",
                &devices.to_string(),
                "--gpus",
                gpus,
                "--threads-per-device",
                &threads.to_string(),
                "--data-dir",
                &text(layout.worker(&name)),
            ]
            .map(str::to_owned);
            Process::start(&name, &binaries.worker, &args, layout.log(&name))
        };
        let workers = (0..workers).map(worker).collect::<Result<_, _>>()?;
        Ok(Self {
            server,
            coordinator,
            workers,
        })
    }

    /// Where the coordinator listens.
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// Waits until the cluster cannot go on: the coordinator has ended, or every worker has.
    pub(super) async fn broken(&mut self) -> Failure {
        loop {
            tokio::time::sleep(LOOK_AGAIN * 10).await;
            if self.coordinator.has_ended() {
                return self.coordinator.died().await;
            }
            if let Some(index) = self.workers.iter_mut().position(Process::has_ended) {
                let failure = self.workers.remove(index).died().await;
                if self.workers.is_empty() {
                    return failure;
                }
                eprintln!("{}", failure.text());
            }
        }
    }

    /// Stops the workers, then the coordinator.
    pub(super) async fn stop(mut self) -> Result<(), Failure> {
        self.workers.iter().for_each(Process::ask_to_end);
        let mut result = Ok(());
        for worker in &mut self.workers {
            result = result.and(worker.end().await);
        }
        self.coordinator.ask_to_end();
        result.and(self.coordinator.end().await)
    }
}

/// An equal share of this machine's cores for every device of every worker: each worker alone would take them all.
fn threads_per_device(workers: u32, devices: u32) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let slots = (workers as usize).saturating_mul(devices as usize).max(1);
    (cores / slots).max(1)
}

/// Reads the port file, which the coordinator makes in one step.
async fn listening(port_file: &Path) -> Result<Server, Failure> {
    let port = async {
        loop {
            match std::fs::read_to_string(port_file) {
                Ok(text) if !text.is_empty() => return text.trim().to_owned(),
                _ => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    };
    let late = || {
        Failure::new(
            Code::Timeout,
            format!(
                "the coordinator wrote no port to {} in time",
                port_file.display()
            ),
        )
    };
    let port = tokio::time::timeout(START_LIMIT, port)
        .await
        .map_err(|_| late())?;
    let bad = |error| Failure::new(Code::Failed, format!("{}: {error}", port_file.display()));
    format!("127.0.0.1:{port}").parse().map_err(bad)
}

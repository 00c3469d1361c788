//! Workers, versions, contexts.

use std::io::{self, Write};

use diptych_common::units::Bytes;
use diptych_proto::v1;
use serde::Serialize;

use super::{some_text, time};
use crate::output::Output;
use crate::output::table::{columns, or_dash, properties};

/// Where a worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkerState {
    /// Takes ranks.
    Ready,
    /// Its stream was reset.
    Suspect,
    /// It did not come back in time.
    Lost,
    /// A state that this version does not know.
    Unknown,
}

/// A worker.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerView {
    pub(crate) worker: String,
    pub(crate) state: WorkerState,
    pub(crate) host: String,
    pub(crate) version: String,
    pub(crate) since: Option<String>,
    pub(crate) devices: Vec<DeviceView>,
    pub(crate) running: Vec<RunningView>,
}

/// A device that can hold a rank.
#[derive(Debug, Serialize)]
pub(crate) struct DeviceView {
    pub(crate) index: u32,
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Bytes; absent where unknown.
    pub(crate) memory: Option<u64>,
}

/// A rank that runs.
#[derive(Debug, Serialize)]
pub(crate) struct RunningView {
    pub(crate) job: String,
    pub(crate) attempt: u64,
    pub(crate) rank: u32,
    pub(crate) device: u32,
}

/// Many workers.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct WorkerList(pub(crate) Vec<WorkerView>);

/// Versions of both sides.
#[derive(Debug, Serialize)]
pub(crate) struct Versions {
    pub(crate) client: ClientVersion,
    /// Absent with `--client`.
    pub(crate) server: Option<ServerVersion>,
}

/// This program.
#[derive(Debug, Serialize)]
pub(crate) struct ClientVersion {
    pub(crate) version: &'static str,
    pub(crate) protocol: u32,
}

/// The coordinator.
#[derive(Debug, Serialize)]
pub(crate) struct ServerVersion {
    pub(crate) url: String,
    pub(crate) version: String,
    pub(crate) protocol: u32,
    pub(crate) oldest_protocol: u32,
}

/// A named coordinator.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct ContextView {
    pub(crate) name: String,
    pub(crate) server: String,
    pub(crate) current: bool,
}

/// All named coordinators.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct ContextList(pub(crate) Vec<ContextView>);

impl WorkerState {
    fn word(self) -> &'static str {
        match self {
            WorkerState::Ready => "ready",
            WorkerState::Suspect => "suspect",
            WorkerState::Lost => "lost",
            WorkerState::Unknown => "unknown",
        }
    }
}

impl From<v1::Worker> for WorkerView {
    fn from(worker: v1::Worker) -> Self {
        let state = match worker.state() {
            v1::WorkerState::Unspecified => WorkerState::Unknown,
            v1::WorkerState::Ready => WorkerState::Ready,
            v1::WorkerState::Suspect => WorkerState::Suspect,
            v1::WorkerState::Lost => WorkerState::Lost,
        };
        Self {
            worker: worker.worker,
            state,
            host: worker.host,
            version: worker.version,
            since: time(worker.since),
            devices: worker.devices.into_iter().map(DeviceView::from).collect(),
            running: worker.running.into_iter().map(RunningView::from).collect(),
        }
    }
}

impl From<v1::DeviceInfo> for DeviceView {
    fn from(device: v1::DeviceInfo) -> Self {
        let memory = Some(device.memory).filter(|bytes| *bytes > 0);
        Self {
            index: device.index,
            kind: device.kind,
            name: device.name,
            memory,
        }
    }
}

impl From<v1::RunningRank> for RunningView {
    fn from(rank: v1::RunningRank) -> Self {
        Self {
            job: rank.job,
            attempt: rank.attempt,
            rank: rank.rank,
            device: rank.device,
        }
    }
}

impl Output for WorkerList {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows = self.0.iter().map(|worker| {
            let running: Vec<_> = worker
                .running
                .iter()
                .map(|rank| format!("{}/{}", rank.job, rank.rank))
                .collect();
            vec![
                worker.worker.clone(),
                worker.state.word().to_owned(),
                worker.host.clone(),
                devices(&worker.devices),
                or_dash(some_text(running.join(","))),
                worker.version.clone(),
                or_dash(worker.since.as_ref()),
            ]
        });
        columns(
            out,
            &[
                "WORKER", "STATE", "HOST", "DEVICES", "RUNNING", "VERSION", "SINCE",
            ],
            rows,
        )
    }
}

/// `2 cpu` or `8 cuda (79.6 GiB each)`.
fn devices(devices: &[DeviceView]) -> String {
    let Some(first) = devices.first() else {
        return "-".to_owned();
    };
    let memory = first
        .memory
        .map(|bytes| format!(" ({} each)", Bytes::new(bytes)))
        .unwrap_or_default();
    format!("{} {}{memory}", devices.len(), first.kind)
}

impl Output for Versions {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let client = format!(
            "{} (protocol {})",
            self.client.version, self.client.protocol
        );
        let server = self.server.as_ref().map(|server| {
            let ServerVersion {
                url,
                version,
                protocol,
                oldest_protocol,
            } = server;
            format!("{version} (protocol {protocol}, back to {oldest_protocol}) at {url}")
        });
        properties(out, &[("client", Some(client)), ("server", server)])
    }
}

impl Output for ContextView {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}  {}", self.name, self.server)
    }
}

impl Output for ContextList {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows = self.0.iter().map(|context| {
            let mark = if context.current { "*" } else { "" };
            vec![
                mark.to_owned(),
                context.name.clone(),
                context.server.clone(),
            ]
        });
        columns(out, &["", "NAME", "SERVER"], rows)
    }
}

//! `diptych-worker agent`: from settings to a running agent, and out again on SIGTERM or Ctrl-C.

use std::path::Path;

use anyhow::Context as _;
use diptych_common::ids::WorkerId;
use diptych_common::telemetry;
use diptych_proto::v1;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{AgentArgs, AgentConfig};

use super::core::Patience;
use super::identity::{DataDir, address_towards, host_name, memory_per_slot, stable_id};
use super::service::{AgentOptions, run};
use super::supervisor::Launch;

/// Runs an agent until it is told to leave.
///
/// # Errors
/// Settings that make no sense, a data directory in use, or a coordinator that will never take this worker.
pub fn command(args: AgentArgs) -> anyhow::Result<()> {
    let config = AgentConfig::load(args)?;
    telemetry::init(config.log_format, &config.log)?;
    let _owned = DataDir::lock(&config.data_dir)?;
    let host = host_name();
    let id = match &config.id {
        Some(id) => id.clone(),
        None => stable_id(&config.data_dir, &host)?,
    };
    let work_dir = config.data_dir.join("work");
    clear(&work_dir).with_context(|| format!("clear {}", work_dir.display()))?;
    let options = AgentOptions {
        register: registration(&id, host, config.devices),
        launch: Launch {
            program: std::env::current_exe().context("find this program")?,
            arguments: vec!["trainer".into()],
            data_address: data_address(&config),
            threads: config.threads,
            work_dir,
        },
        logs: config.data_dir.join("logs"),
        patience: Patience {
            abort_grace: config.abort_grace,
            orphan_limit: config.orphan_limit,
        },
        coordinator: config.coordinator,
    };
    tracing::info!(%id, devices = config.devices, threads = config.threads, address = options.launch.data_address, "agent starts");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (mut terminate, mut interrupt) = (
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => "the worker was told to stop (SIGTERM)".to_owned(),
                _ = interrupt.recv() => "the worker was told to stop (Ctrl-C)".to_owned(),
            }
        };
        run(options, stop).await.context("run the agent")
    })
}

fn registration(id: &WorkerId, host: String, devices: u32) -> v1::Register {
    let memory = memory_per_slot(devices).map_or(0, |bytes| bytes.get());
    let device = |index| v1::DeviceInfo {
        index,
        kind: "cpu".to_owned(),
        name: format!("cpu slot {index}"),
        memory,
    };
    v1::Register {
        worker_id: id.to_string(),
        incarnation: format!("{:032x}", rand::random::<u128>()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: diptych_proto::PROTOCOL,
        host,
        devices: (0..devices).map(device).collect(),
        running: Vec::new(),
        ..v1::Register::default()
    }
}

fn data_address(config: &AgentConfig) -> String {
    if let Some(address) = &config.data_address {
        return address.clone();
    }
    let uri = config.coordinator.uri();
    let port = uri
        .port_u16()
        .unwrap_or(if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        });
    let host = uri.host().unwrap_or("127.0.0.1").trim_matches(['[', ']']);
    let found = address_towards(host, port);
    if found.is_none() {
        tracing::warn!(
            host,
            "no route to the coordinator yet: peers are told this machine's host name; --data-address changes that"
        );
    }
    found.map_or_else(host_name, |address| address.to_string())
}

/// What trainers of an earlier agent left behind; they died with it.
fn clear(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

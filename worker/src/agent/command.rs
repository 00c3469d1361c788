//! `diptych-worker agent`: from settings to a running agent, and out again on SIGTERM or Ctrl-C.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use diptych_common::ids::WorkerId;
use diptych_common::store::ByUrl;
use diptych_common::{operations, telemetry};
use diptych_proto::v1;
use futures::{Stream, stream};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::AgentConfig;

use super::devices::{self, Roster};
use super::identity::{DataDir, address_towards, host_name, stable_id};
use super::logs::LogBook;
use super::peers::{Peers, Tcp};
use super::service::{AgentOptions, run};
use super::supervisor::{Launch, Supervisor};
use super::watch::Watch;

/// Runs an agent until it is told to leave.
///
/// # Errors
/// A data directory or an address in use, or a coordinator that will never take this worker.
pub fn command(config: AgentConfig) -> anyhow::Result<()> {
    telemetry::init(config.log_format, &config.log)?;
    let _owned = DataDir::lock(&config.data_dir)?;
    let host = host_name();
    let id = match &config.id {
        Some(id) => id.clone(),
        None => stable_id(&config.data_dir, &host)?,
    };
    let work_dir = config.data_dir.join("work");
    clear(&work_dir).with_context(|| format!("clear {}", work_dir.display()))?;
    let program = std::env::current_exe().context("find this program")?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let stops = signals()?;
        let watch = Watch::default();
        let watched = config
            .metrics_listen
            .map(|listen| {
                let serving = operations::serve(listen, Arc::new(watch.clone()));
                serving.with_context(|| format!("metrics-listen: cannot listen on {listen}"))
            })
            .transpose()?;
        if let Some(watched) = &watched {
            tracing::info!("health and metrics on {}", watched.address);
        }
        let roster = devices::lend(&config, &program).await?;
        let faults = devices::watch(&roster);
        let Roster { devices, seats } = roster;
        let launch = Launch {
            program,
            arguments: vec!["trainer".into()],
            data_address: data_address(&config),
            seats,
            work_dir,
            log: config.log.clone(),
        };
        tracing::info!(%id, devices = devices.len(), address = launch.data_address, "agent starts");
        let (listener, peer_endpoint) = listen(&config, &launch.data_address).await?;
        let peers = Peers::new(id.clone(), Tcp);
        peers.0.serve(listener);
        let book = LogBook::new(config.data_dir.join("logs"));
        let trainers = Supervisor::new(launch, book.clone()).context("start the supervisor")?;
        let options = AgentOptions {
            register: v1::Register {
                peer_endpoint,
                ..registration(&id, host, devices)
            },
            trainers,
            faults,
            peers,
            stores: Arc::new(ByUrl),
            book,
            patience: config.patience,
            watch,
            coordinator: config.coordinator,
            seed: rand::random(),
        };
        run(options, stops).await.context("run the agent")
    })
}

/// One reason to leave for each signal.
fn signals() -> std::io::Result<impl Stream<Item = String>> {
    let signals = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    Ok(stream::unfold(
        signals,
        |(mut terminate, mut interrupt)| async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "Ctrl-C",
            };
            let reason = format!("the worker was told to stop ({name})");
            Some((reason, (terminate, interrupt)))
        },
    ))
}

/// Where other agents reach this one, and the socket behind it.
async fn listen(config: &AgentConfig, data_address: &str) -> anyhow::Result<(TcpListener, String)> {
    let listener = match config.peer_listen {
        Some(address) => TcpListener::bind(address)
            .await
            .with_context(|| format!("peer-listen: cannot listen on {address}"))?,
        // An address that is another machine's from here (a forwarded one) is not one to listen on.
        None => match TcpListener::bind((data_address, 0)).await {
            Ok(listener) => listener,
            Err(_) => {
                let any = [
                    SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
                    SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
                ];
                TcpListener::bind(any.as_slice())
                    .await
                    .context("listen for other agents")?
            }
        },
    };
    let port = listener.local_addr()?.port();
    let endpoint = match data_address.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, port).to_string(),
        Err(_) => format!("{data_address}:{port}"),
    };
    Ok((listener, endpoint))
}

fn registration(id: &WorkerId, host: String, devices: Vec<v1::DeviceInfo>) -> v1::Register {
    v1::Register {
        worker_id: id.to_string(),
        incarnation: format!("{:032x}", rand::random::<u128>()),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol: diptych_proto::PROTOCOL,
        host,
        devices,
        running: Vec::new(),
        peer_endpoint: String::new(),
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

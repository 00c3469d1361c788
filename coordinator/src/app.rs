//! The process: everything started in order, and stopped in the opposite one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use diptych_common::operations;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics::Port;
use crate::traces::Exporter;
use crate::{driver, grpc};

/// How long open requests may take once the end is asked for.
const DRAIN: Duration = Duration::from_secs(5);

/// Runs a coordinator until SIGTERM or SIGINT.
///
/// # Errors
/// The data directory or the address cannot be used.
pub async fn run(config: Config) -> anyhow::Result<()> {
    // The server first, then the owner: requests that are in are still answered.
    let (stop_server, stop_owner) = (CancellationToken::new(), CancellationToken::new());
    let (exporter, outlet) = config.otlp_endpoint.map(Exporter::start).unzip();
    let options = driver::Options {
        data_dir: config.data_dir.clone(),
        settings: config.settings,
        traces: outlet,
    };
    // Whoever watches may look from the first moment on: opening a large database takes its time.
    let port = Arc::new(Port::default());
    let watched = config
        .metrics_listen
        .map(|listen| {
            let serving = operations::serve(listen, port.clone());
            serving.with_context(|| format!("metrics-listen: listen on {listen}"))
        })
        .transpose()?;
    let started = driver::start(options, stop_owner.clone()).await;
    let (handle, owner) = started.context("open the data directory")?;
    let handle = handle.showing(config.effective);
    let serving = grpc::serve(handle.clone(), config.listen, stop_server.clone()).await;
    let serving = serving.with_context(|| format!("listen on {}", config.listen))?;
    if let Some(path) = &config.port_file {
        let temporary = path.with_extension("part");
        std::fs::write(&temporary, format!("{}\n", serving.address.port()))
            .and_then(|()| std::fs::rename(&temporary, path))
            .with_context(|| format!("write the port to {}", path.display()))?;
    }
    port.open(handle);
    tracing::info!("listening on {}", serving.address);
    if let Some(watched) = &watched {
        tracing::info!("health and metrics on {}", watched.address);
    }

    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let mut server = serving.task;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut server => return ended.context("serve")?.context("serve"),
    }
    tracing::info!("stopping; training goes on, and comes back when the coordinator does");
    stop_server.cancel();
    if tokio::time::timeout(DRAIN, &mut server).await.is_err() {
        tracing::warn!("requests were still open after {DRAIN:?}");
    }
    stop_owner.cancel();
    let ended = owner.await.context("stop the owner");
    if let Some(exporter) = exporter {
        exporter.flush().await;
    }
    ended
}

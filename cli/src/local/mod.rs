//! A cluster on this machine: a coordinator, workers and one job, from start to end.

mod layout; // where things are
mod process; // one child
mod cluster; // all of them

use std::io::Write;

use diptych_common::ids::JobId;
use diptych_common::spec::Device;
use diptych_proto::v1;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::local::Local;
use crate::binaries::Binaries;
use crate::client::Client;
use crate::command::{Submit, Then, new_request_id, read_spec};
use crate::context::{Environment, Server};
use crate::failure::{Code, Failure};
use crate::output::{Output as _, Printer};
use crate::progress::Progress;
use crate::verb::{follow, job, submit, watch};
use crate::view::summary::Summary;
use crate::view::{JobState, JobView};

use cluster::Cluster;
use layout::Layout;

/// Runs a spec to its end on this machine.
pub(crate) async fn run<W: Write>(
    args: Local,
    environment: Environment,
    binaries: &Binaries,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let layout = Layout::create(args.dir.as_deref())?;
    let environment = environment.or_set("DIPTYCH_STORAGE", layout.storage_url());
    let spec = read_spec(&args.spec, &environment)?;
    let on_gpus = spec
        .phases()
        .iter()
        .any(|phase| phase.gang.device == Device::Cuda);
    let submit = Submit {
        spec: Box::new(spec),
        request_id: new_request_id(),
        then: Then::Follow,
    };

    let started = Cluster::start(
        &layout,
        binaries,
        args.workers.get(),
        (args.devices_per_worker.get(), on_gpus),
    )
    .await;
    let mut cluster = match started {
        Ok(cluster) => cluster,
        Err(failure) => {
            // What it says points into the logs.
            layout.leave(true);
            return Err(failure);
        }
    };
    let server = cluster.server().clone();
    let followed = tokio::select! {
        followed = follow(&server, &layout, &submit) => followed,
        failure = cluster.broken() => Err(failure),
        failure = stopped() => Err(failure),
    };
    let stopped = cluster.stop().await;

    let succeeded = matches!(&followed, Ok(ended) if watch::outcome(ended).is_ok());
    layout.leave(args.keep || !succeeded);
    // The results come last: they are what a reader looks for.
    let ended = followed?;
    out.print(&Summary(ended.clone()))?;
    watch::outcome(&ended).and(stopped)
}

/// Submits, shows progress to the end, and asks for the reasons of a failure while there is somebody to ask.
async fn follow(server: &Server, layout: &Layout, submit: &Submit) -> Result<JobView, Failure> {
    let client = Client::new(server)?;
    cancel_leftovers(&client).await?;
    let answer = submit::send(&client, submit, false).await?;
    let job = submit::accepted(Some(&answer.job))?;
    eprintln!(
        "{job}: coordinator at {server}, state in {}",
        layout.dir().display()
    );
    let ended = follow::follow(&client, &job, Progress::to_stderr()).await?;
    if watch::outcome(&ended).is_err() {
        explain(&client, &job).await;
    }
    Ok(ended)
}

/// An earlier run in the same directory may have been killed: its job must not take this one's devices.
async fn cancel_leftovers(client: &Client) -> Result<(), Failure> {
    let states = [JobState::Queued, JobState::Running]
        .map(|state| state.to_wire() as i32)
        .to_vec();
    for job in client.all_jobs(&states).await? {
        eprintln!("{}: left over from an earlier run, cancelled", job.job);
        let reason = "a later local run took its place".to_owned();
        client
            .once(client.jobs().cancel(v1::CancelRequest {
                job: job.job,
                reason,
            }))
            .await?;
    }
    Ok(())
}

/// Why the job failed, with the failing rank's last lines, on standard error.
async fn explain(client: &Client, job: &JobId) {
    let mut text = Vec::new();
    let written = match job::explanation(client, job).await {
        Ok(explanation) => explanation.table(&mut text).map_err(Failure::from),
        Err(failure) => Err(failure),
    };
    match written {
        Ok(()) => eprint!("{}", String::from_utf8_lossy(&text)),
        Err(failure) => eprintln!("{}", failure.while_doing("explain").text()),
    }
}

/// Ctrl-C, or a polite kill.
async fn stopped() -> Failure {
    let interrupted = Failure::new(
        Code::Interrupted,
        "stopped; the coordinator and the workers are stopped, too",
    );
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => interrupted,
        },
        Err(error) => Failure::from(error).while_doing("listen for signals"),
    }
}

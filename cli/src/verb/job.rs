//! `list`, `describe`, `explain`, `cancel`, `retry`, `delete`, `metrics`.

use std::io::Write;
use std::ops::ControlFlow;

use diptych_common::ids::JobId;
use diptych_common::spec::JobDraft;
use diptych_proto::v1;

use crate::args::job::Metrics as Args;
use crate::client::Client;
use crate::client::follow::AtEnd;
use crate::failure::Failure;
use crate::output::{Format, Printer};
use crate::view::history::{ExplanationView, MetricView, Metrics};
use crate::view::job::{Deleted, Description, JobList};
use crate::view::{JobState, JobView};

pub(super) async fn list<W: Write>(
    client: &Client,
    states: &[JobState],
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let states: Vec<i32> = states.iter().map(|state| state.to_wire() as i32).collect();
    let request = || v1::ListJobsRequest {
        states: states.clone(),
    };
    let answer = client
        .retry(|| async { client.jobs().list(request()).await })
        .await?;
    out.print(&JobList(
        answer.jobs.into_iter().map(JobView::from).collect(),
    ))
}

pub(super) async fn describe<W: Write>(
    client: &Client,
    job: &JobId,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let mut answer = client
        .retry(|| async { client.jobs().get(request(job)).await })
        .await?;
    let spec = JobDraft::from(answer.spec.clone().unwrap_or_default());
    answer.spec = answer.spec.map(|spec| v1::JobSpec {
        name: spec.name,
        ..v1::JobSpec::default()
    });
    out.print(&Description {
        job: JobView::from(answer),
        spec,
    })
}

pub(super) async fn explain<W: Write>(
    client: &Client,
    job: &JobId,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    out.print(&explanation(client, job).await?)
}

/// Why a job waits or failed.
pub(crate) async fn explanation(client: &Client, job: &JobId) -> Result<ExplanationView, Failure> {
    client
        .retry(|| async { client.jobs().explain(request(job)).await })
        .await
        .map(ExplanationView::from)
}

pub(super) async fn cancel<W: Write>(
    client: &Client,
    job: &JobId,
    reason: String,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let request = v1::CancelRequest {
        job: job.to_string(),
        reason,
    };
    let answer = client.once(client.jobs().cancel(request)).await?;
    out.print(&JobView::from(answer))
}

pub(super) async fn retry<W: Write>(
    client: &Client,
    job: &JobId,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let answer = client.once(client.jobs().retry(request(job))).await?;
    out.print(&JobView::from(answer))
}

pub(super) async fn delete<W: Write>(
    client: &Client,
    job: &JobId,
    objects: bool,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let request = v1::DeleteRequest {
        job: job.to_string(),
        objects,
    };
    let answer = client.once(client.jobs().delete(request)).await?;
    out.print(&Deleted {
        job: job.to_string(),
        objects: answer.objects,
    })
}

pub(super) async fn metrics<W: Write>(
    client: &Client,
    args: &Args,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let phase = args
        .phase
        .as_ref()
        .map(ToString::to_string)
        .unwrap_or_default();
    let request = || v1::MetricsRequest {
        job: args.job.to_string(),
        phase: phase.clone(),
    };
    let mut points = Vec::new();
    let open = || async { client.jobs().metrics(request()).await };
    let each = |point| {
        points.push(MetricView::from(point));
        Ok(ControlFlow::Continue(()))
    };
    client.stream(&args.job, AtEnd::Stop, open, each).await?;
    let metrics = Metrics(points);
    match out.format() {
        Format::Csv => out.text(&metrics.csv()),
        _ => out.print(&metrics),
    }
}

fn request(job: &JobId) -> v1::JobRequest {
    v1::JobRequest {
        job: job.to_string(),
    }
}

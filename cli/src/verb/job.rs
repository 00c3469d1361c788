//! `list`, `describe`, `explain`, `cancel`, `retry`, `scale`, `delete`, `metrics`.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;

use diptych_common::ids::{JobId, PhaseName};
use diptych_common::spec::JobDraft;
use diptych_proto::v1;

use crate::args::job::Metrics as Args;
use crate::client::Client;
use crate::client::follow::AtEnd;
use crate::command::Scale;
use crate::failure::Failure;
use crate::output::{Format, Printer};
use crate::view::history::{ExplanationView, MetricView, Metrics};
use crate::view::job::{Deleted, Description, JobList};
use crate::view::scale::Scaled;
use crate::view::{JobState, JobView};

pub(super) async fn list<W: Write>(
    client: &Client,
    states: &[JobState],
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let states: Vec<i32> = states.iter().map(|state| state.to_wire() as i32).collect();
    let jobs = client.all_jobs(&states).await?;
    out.print(&JobList(jobs.into_iter().map(JobView::from).collect()))
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

/// Numbers of ranks are set, not counted up: the call may be repeated.
pub(super) async fn scale<W: Write>(
    client: &Client,
    scale: &Scale,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let phase = scale.phase.as_ref().map(PhaseName::as_str);
    let request = || v1::ScaleRequest {
        job: scale.job.to_string(),
        phase: phase.unwrap_or_default().to_owned(),
        min: scale.min,
        max: scale.max,
    };
    let answer = client
        .retry(|| async { client.jobs().scale(request()).await })
        .await?;
    out.print(&Scaled::new(&JobView::from(answer), phase))
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

/// Measurements by position: a stream that starts over repeats, and may add in between.
#[derive(Debug, Default)]
struct History {
    /// In the order in which they came, which is the spec's.
    phases: Vec<String>,
    points: BTreeMap<(usize, String, u64), MetricView>,
}

impl History {
    fn add(&mut self, point: MetricView) {
        let known = self.phases.iter().position(|phase| *phase == point.phase);
        let phase = known.unwrap_or_else(|| {
            self.phases.push(point.phase.clone());
            self.phases.len() - 1
        });
        self.points
            .insert((phase, point.name.clone(), point.step), point);
    }

    fn points(self) -> Vec<MetricView> {
        self.points.into_values().collect()
    }
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
    let mut history = History::default();
    let open = || async { client.jobs().metrics(request()).await };
    let each = |point| {
        history.add(MetricView::from(point));
        Ok(ControlFlow::Continue(()))
    };
    client.stream(&args.job, AtEnd::Stop, open, each).await?;
    let metrics = Metrics(history.points());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_that_starts_over_has_each_point_once() {
        let point = |phase: &str, name: &str, step, value| MetricView {
            phase: phase.into(),
            step,
            name: name.into(),
            value,
        };
        let mut history = History::default();
        let first = [
            point("pretrain", "loss", 1, 5.0),
            point("pretrain", "loss", 2, 4.0),
            point("linear", "loss", 1, 3.0),
        ];
        // After a reconnect; step 2 was taken again by a later attempt, and step 3 is new.
        let again = [
            point("pretrain", "loss", 1, 5.0),
            point("pretrain", "loss", 2, 4.5),
            point("pretrain", "loss", 3, 4.0),
        ];
        for point in first.into_iter().chain(again) {
            history.add(point);
        }
        assert_eq!(
            history.points(),
            [
                point("pretrain", "loss", 1, 5.0),
                point("pretrain", "loss", 2, 4.5),
                point("pretrain", "loss", 3, 4.0),
                point("linear", "loss", 1, 3.0),
            ]
        );
    }
}

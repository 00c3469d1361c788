//! Jobs and their phases.

use std::collections::BTreeMap;
use std::io::{self, Write};

use diptych_proto::v1;
use serde::Serialize;

use super::{JobState, PhaseState, seconds_between, some_text, time};
use crate::output::Output;
use crate::output::table::{columns, or_dash, properties, seconds};

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct JobView {
    pub(crate) job: String,
    pub(crate) name: String,
    pub(crate) state: JobState,
    /// Why it failed, was cancelled or waits.
    pub(crate) reason: Option<String>,
    pub(crate) submitted: Option<String>,
    pub(crate) ended: Option<String>,
    pub(crate) spec_digest: String,
    /// In spec order.
    pub(crate) phases: Vec<PhaseView>,
}

/// A phase.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PhaseView {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) state: PhaseState,
    /// 0 before the first.
    pub(crate) attempt: u64,
    /// Attempts of this phase before that one.
    pub(crate) restarts: u32,
    pub(crate) step: u64,
    pub(crate) total_steps: u64,
    pub(crate) images_per_s: f64,
    pub(crate) eta_s: Option<f64>,
    pub(crate) started: Option<String>,
    pub(crate) ended: Option<String>,
    /// From start to end, once ended.
    pub(crate) seconds: Option<f64>,
    /// Worker of each rank, while placed.
    pub(crate) workers: Vec<String>,
    /// The last value of each measurement.
    pub(crate) metrics: BTreeMap<String, f64>,
    /// Results, once done: final ones, or those of the best checkpoint.
    pub(crate) results: BTreeMap<String, f64>,
    /// Steps in the best checkpoint so far, where the spec asks for it.
    pub(crate) best_step: Option<u64>,
}

/// Many jobs.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct JobList(pub(crate) Vec<JobView>);

/// One job with its spec.
#[derive(Debug, Serialize)]
pub(crate) struct Description {
    #[serde(flatten)]
    pub(crate) job: JobView,
    /// As the coordinator holds it.
    pub(crate) spec: diptych_common::spec::JobDraft,
}

/// The answer to a submit.
#[derive(Debug, Serialize)]
pub(crate) struct Submitted {
    /// Absent on a dry run.
    pub(crate) job: Option<String>,
    /// False when the request id was known, and on a dry run.
    pub(crate) created: bool,
    pub(crate) dry_run: bool,
    pub(crate) request_id: String,
}

/// The answer to a delete.
#[derive(Debug, Serialize)]
pub(crate) struct Deleted {
    pub(crate) job: String,
    /// Objects deleted from the store.
    pub(crate) objects: u64,
}

impl From<v1::Job> for JobView {
    fn from(job: v1::Job) -> Self {
        Self {
            state: job.state().into(),
            name: job.spec.map(|spec| spec.name).unwrap_or_default(),
            job: job.job,
            reason: some_text(job.reason),
            submitted: time(job.submitted),
            ended: time(job.ended),
            spec_digest: job.spec_digest,
            phases: job.phases.into_iter().map(PhaseView::from).collect(),
        }
    }
}

impl From<v1::PhaseStatus> for PhaseView {
    fn from(phase: v1::PhaseStatus) -> Self {
        Self {
            state: phase.state().into(),
            name: phase.name,
            kind: phase.kind,
            attempt: phase.attempt,
            restarts: phase.restarts,
            step: phase.step,
            total_steps: phase.total_steps,
            images_per_s: phase.images_per_s,
            eta_s: phase.eta_s,
            started: time(phase.started),
            ended: time(phase.ended),
            seconds: seconds_between(phase.started, phase.ended),
            workers: phase.workers,
            metrics: by_name(phase.metrics),
            results: by_name(phase.results),
            best_step: phase.best_step,
        }
    }
}

fn by_name(points: Vec<v1::MetricPoint>) -> BTreeMap<String, f64> {
    points
        .into_iter()
        .map(|point| (point.name, point.value))
        .collect()
}

impl JobView {
    /// The phase that a reader wants to see: the one that runs or failed, else the first that is not done.
    pub(crate) fn current(&self) -> Option<&PhaseView> {
        use PhaseState::{Done, Failed, Starting, Training, Verifying};
        let active =
            |phase: &&PhaseView| matches!(phase.state, Starting | Training | Verifying | Failed);
        let open = |phase: &&PhaseView| phase.state != Done;
        self.phases
            .iter()
            .find(active)
            .or_else(|| self.phases.iter().find(open))
            .or(self.phases.last())
    }
}

impl PhaseView {
    /// `step/total`, as far as known.
    pub(crate) fn steps(&self) -> String {
        match (self.step, self.total_steps) {
            (0, 0) => "-".to_owned(),
            (step, 0) => step.to_string(),
            (step, total) => format!("{step}/{total}"),
        }
    }

    /// A measurement under the first of these names that is there: a final result, else the last value.
    pub(crate) fn value(&self, names: &[&str]) -> Option<f64> {
        let find =
            |map: &BTreeMap<String, f64>| names.iter().find_map(|name| map.get(*name).copied());
        find(&self.results).or_else(|| find(&self.metrics))
    }
}

impl Output for JobList {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let rows = self.0.iter().map(|job| {
            let current = job.current();
            vec![
                job.job.clone(),
                job.state.word().to_owned(),
                or_dash(current.map(|phase| phase.name.as_str())),
                or_dash(current.map(PhaseView::steps)),
                or_dash(job.submitted.as_ref()),
                or_dash(job.ended.as_ref()),
            ]
        });
        columns(
            out,
            &["JOB", "STATE", "PHASE", "STEP", "SUBMITTED", "ENDED"],
            rows,
        )
    }
}

impl Output for JobView {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        properties(
            out,
            &[
                ("job", Some(self.job.clone())),
                ("state", Some(self.state.word().to_owned())),
                ("reason", self.reason.clone()),
                ("submitted", self.submitted.clone()),
                ("ended", self.ended.clone()),
                ("spec", some_text(self.spec_digest.clone())),
            ],
        )?;
        writeln!(out)?;
        let rows = self.phases.iter().map(|phase| {
            vec![
                phase.name.clone(),
                phase.kind.clone(),
                phase.state.word().to_owned(),
                phase.attempt.to_string(),
                phase.steps(),
                or_dash(phase.started.as_ref()),
                or_dash(phase.seconds.map(seconds)),
                or_dash(some_text(phase.workers.join(","))),
            ]
        });
        columns(
            out,
            &[
                "PHASE", "KIND", "STATE", "ATTEMPT", "STEP", "STARTED", "TIME", "WORKERS",
            ],
            rows,
        )?;
        let mut values = Vec::new();
        for phase in &self.phases {
            let shown = if phase.results.is_empty() {
                &phase.metrics
            } else {
                &phase.results
            };
            for (name, value) in shown {
                values.push(vec![
                    phase.name.clone(),
                    name.clone(),
                    format!("{value:.6}"),
                ]);
            }
            if let Some(step) = phase.best_step {
                let name = "best checkpoint".to_owned();
                values.push(vec![phase.name.clone(), name, format!("step {step}")]);
            }
        }
        if !values.is_empty() {
            writeln!(out)?;
            columns(out, &["PHASE", "MEASUREMENT", "VALUE"], values)?;
        }
        Ok(())
    }
}

impl Output for Description {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        self.job.table(out)
    }
}

impl Output for Submitted {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.job {
            Some(job) => writeln!(out, "{job}"),
            None => writeln!(out, "valid; nothing was queued"),
        }
    }
}

impl Output for Deleted {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(
            out,
            "{} deleted; {} objects deleted from its storage",
            self.job, self.objects
        )
    }
}

#[cfg(test)]
pub(crate) mod samples {
    //! Fixed values that tests print and follow.

    use super::*;

    pub(crate) fn phase(name: &str, state: PhaseState) -> PhaseView {
        PhaseView {
            name: name.to_owned(),
            kind: "pretrain".to_owned(),
            state,
            attempt: 1,
            restarts: 0,
            step: 0,
            total_steps: 0,
            images_per_s: 0.0,
            eta_s: None,
            started: None,
            ended: None,
            seconds: None,
            workers: Vec::new(),
            metrics: BTreeMap::new(),
            results: BTreeMap::new(),
            best_step: None,
        }
    }

    pub(crate) fn job(phases: Vec<PhaseView>) -> JobView {
        JobView {
            job: "digits-3f9a01".to_owned(),
            name: "digits".to_owned(),
            state: JobState::Running,
            reason: None,
            submitted: Some("2026-01-02T03:04:05Z".to_owned()),
            ended: None,
            spec_digest: "ab12".to_owned(),
            phases,
        }
    }
}

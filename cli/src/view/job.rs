//! Jobs and their phases.

use std::io::{self, Write};

use diptych_proto::v1;
use serde::Serialize;

use super::phase::PhaseView;
use super::rank::PACE;
use super::{JobState, PhaseState, some_text, time};
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

    /// A row a rank of the phases that are placed.
    fn ranks(&self, out: &mut dyn Write) -> io::Result<()> {
        let ranks: Vec<_> = self
            .phases
            .iter()
            .flat_map(|phase| phase.ranks.iter().map(move |rank| (phase, rank)))
            .collect();
        if ranks.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        let rows = ranks.into_iter().map(|(phase, rank)| {
            let mut row = vec![
                phase.name.clone(),
                rank.rank.to_string(),
                rank.worker.clone(),
                rank.device.to_string(),
                rank.state.clone(),
                rank.step.to_string(),
            ];
            row.extend(rank.pace());
            row
        });
        let headings = ["PHASE", "RANK", "WORKER", "DEVICE", "STATE", "STEP"];
        columns(out, &[&headings[..], &PACE].concat(), rows)
    }

    /// What a loss would cost, and what was left out.
    fn remarks(&self, out: &mut dyn Write) -> io::Result<()> {
        let remarks: Vec<_> = self
            .phases
            .iter()
            .flat_map(|phase| {
                let said = [phase.cost_of_loss(), phase.skipped()];
                said.into_iter()
                    .flatten()
                    .map(|said| (phase.name.as_str(), Some(said)))
            })
            .collect();
        if remarks.is_empty() {
            return Ok(());
        }
        writeln!(out)?;
        properties(out, &remarks)
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
                phase.restarts.to_string(),
                phase.steps(),
                or_dash(phase.gang()),
                or_dash(phase.started.as_ref()),
                or_dash(phase.seconds.map(seconds)),
                or_dash(some_text(phase.workers.join(","))),
            ]
        });
        let headings = [
            "PHASE", "KIND", "STATE", "ATTEMPT", "RESTARTS", "STEP", "RANKS", "STARTED", "TIME",
            "WORKERS",
        ];
        columns(out, &headings, rows)?;
        self.ranks(out)?;
        self.remarks(out)?;
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

    use std::collections::BTreeMap;

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
            world: 0,
            ranks_min: 0,
            ranks_max: 0,
            ranks: Vec::new(),
            unsaved_s: None,
            skipped_steps: Vec::new(),
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

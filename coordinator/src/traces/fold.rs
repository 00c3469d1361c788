//! A fold over committed batches. Whoever starts again takes up what is open from the jobs' histories, which say the same.

use std::collections::BTreeMap;

use diptych_common::ids::{Attempt, JobId};

use super::run::{End, Fate, Run};
use super::span::Span;
use crate::core::{Happening, JobState, Observation, Outcome, State, UnixMs};

/// What is open of all jobs that have not ended.
#[derive(Debug, Default)]
pub struct Traces {
    jobs: BTreeMap<JobId, Run>,
}

impl Traces {
    /// Nothing is open.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes up a job that has not ended, from all of its history, oldest first. What had ended was another process's to
    /// tell.
    pub fn recall(&mut self, state: &State, history: &[Happening]) {
        for line in history {
            self.line(state, line, None, &mut Vec::new());
            if let Some(run) = self.jobs.get_mut(&line.job) {
                run.recalled();
            }
        }
    }

    /// Takes a batch that is durable, before the state forgets what it touched. Returns what ended with it.
    pub fn take(
        &mut self,
        state: &State,
        outcomes: &[Outcome],
        happened: &[Happening],
        now: UnixMs,
    ) -> Vec<Span> {
        let mut ends: BTreeMap<(&JobId, Attempt), End> = BTreeMap::new();
        for observation in outcomes.iter().flat_map(|outcome| &outcome.observed) {
            match observation {
                Observation::Ended {
                    job,
                    attempt,
                    failure,
                    reached,
                    ..
                } => {
                    let end = End {
                        failure: *failure,
                        reached: *reached,
                    };
                    ends.insert((job, *attempt), end);
                }
                // Ranks are told to begin when that is durable: their steps come in a later batch.
                Observation::Stepped {
                    job,
                    attempt,
                    rank,
                    step,
                    ..
                } => {
                    if let Some(run) = self.jobs.get_mut(job) {
                        run.stepped(*attempt, *rank, *step, now);
                    }
                }
                Observation::Noticed { .. }
                | Observation::Left { .. }
                | Observation::Saved { .. } => {}
            }
        }
        let mut spans = Vec::new();
        for line in happened {
            let end = ends.get(&(&line.job, line.attempt));
            self.line(state, line, end, &mut spans);
        }
        spans
    }

    fn line(&mut self, state: &State, line: &Happening, end: Option<&End>, spans: &mut Vec<Span>) {
        let job = state.job(&line.job).map(AsRef::as_ref);
        match line.kind.as_str() {
            "submitted" => {
                self.jobs.insert(line.job.clone(), Run::submitted(line));
            }
            "retried" => {
                self.jobs.insert(line.job.clone(), Run::retried(line));
            }
            _ => {}
        }
        let Some(run) = self.jobs.get_mut(&line.job) else {
            return;
        };
        if line.kind == "placed" {
            run.placed(job, line, spans);
        }
        run.note(line);
        let ended = match line.kind.as_str() {
            "begun" => return run.begun(job, line),
            "attempt_failed" => {
                return spans.extend(run.attempt_ends(line, Fate::Failed, end));
            }
            "attempt_ended" => {
                let goes_on = job.is_some_and(|job| matches!(job.record.state, JobState::Active));
                let fate = if goes_on {
                    Fate::Planned
                } else {
                    Fate::Cancelled
                };
                return spans.extend(run.attempt_ends(line, fate, end));
            }
            "phase_done" => return run.phase_done(job, line, spans),
            "job_succeeded" => Fate::Succeeded,
            "job_failed" => Fate::Failed,
            "cancelled" => Fate::Cancelled,
            _ => return,
        };
        if let Some(run) = self.jobs.remove(&line.job) {
            spans.extend(run.ends(job, ended, line));
        }
    }
}

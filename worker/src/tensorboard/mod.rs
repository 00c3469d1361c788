//! Curves, and a picture of the first views, for TensorBoard: event files beside the checkpoints of a phase.
//!
//! Object stores cannot append, so the events of a phase lie in many immutable files, *segments*: one with each save and
//! each evaluation. Their names stand in the order in which they were written, and TensorBoard reads a folder of them as
//! one run. All of it is best effort: a slow or dead store costs curves, never a step. What a store does not take is kept
//! up to [`KEPT`] bytes and tried again with the next segment.

mod record; // the framing of event files
mod backlog; // segments on their way to the store
mod writer; // the thread that writes them
mod views; // the picture of the first views

use std::time::{Duration, Instant};

use diptych_common::checkpoint::EventsKey;
use diptych_common::clock;
use diptych_common::ids::{Rank, Step};
use diptych_proto::tensorboard::event::What;
use diptych_proto::tensorboard::session_log::SessionStatus;
use diptych_proto::tensorboard::summary::{Value, value};
use diptych_proto::tensorboard::{Event, SessionLog, Summary};

use crate::backward::MicroBatch;
use crate::checkpoint::Storage;
use crate::phase::PhaseError;
use crate::trainer::{Assignment, Control, Progress, Report};

use backlog::Backlog;
use writer::Writer;

/// Bytes of events that wait for the store; beyond them the oldest go.
const KEPT: usize = 8 << 20;
/// Longest that the end of a phase waits for its last curves.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest wait before an abort is looked for again.
const TURN: Duration = Duration::from_millis(20);

/// The event files of one attempt: rank 0 writes them, where the job wants them.
#[derive(Debug)]
pub struct Board(Option<Open>);

#[derive(Debug)]
struct Open {
    backlog: Backlog,
    writer: Writer,
    /// The step that comes first, and the views of each image, until they have been drawn.
    undrawn: Option<(Step, u32)>,
    trouble: Trouble,
}

/// What people have been told: once, until a segment arrives again.
#[derive(Debug, Default)]
struct Trouble {
    refused: bool,
    dropped: bool,
}

// === impl Board ===

impl Board {
    /// Begins the run of an attempt that goes on from `step`. A phase's first attempt draws the `views` of each image.
    ///
    /// # Errors
    /// Fails where the system gives no thread.
    pub fn start(
        assignment: &Assignment,
        storage: &Storage,
        step: Step,
        views: u32,
    ) -> Result<Self, PhaseError> {
        let phase = assignment.spec.phase(assignment.phase);
        let wanted = assignment.spec.tensorboard() && assignment.rank == Rank::new(0);
        let Some(phase) = phase.filter(|_| wanted) else {
            return Ok(Self(None));
        };
        let key = EventsKey {
            job: assignment.job.clone(),
            phase: phase.index,
            name: phase.name.clone(),
            attempt: assignment.attempt,
            segment: 0,
        };
        let mut open = Open {
            backlog: Backlog::new(key, KEPT),
            writer: Writer::start(storage.clone())?,
            undrawn: (step == Step::new(0)).then_some((step.next(), views)),
            trouble: Trouble::default(),
        };
        let start = SessionLog {
            status: SessionStatus::Start.into(),
        };
        open.add(step.next(), What::SessionLog(start));
        Ok(Self(Some(open)))
    }

    /// Draws the first images that the phase trains on, as it sees them; does nothing later.
    pub fn first_views(&mut self, batches: &[MicroBatch]) {
        let Some(open) = &mut self.0 else { return };
        let Some((step, views)) = open.undrawn.take() else {
            return;
        };
        match views::picture(batches, views) {
            Ok(Some(image)) => {
                let value = Value {
                    tag: "views".to_owned(),
                    value: Some(value::Value::Image(image)),
                };
                open.add(step, What::Summary(Summary { value: vec![value] }));
                open.backlog.close();
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(error = format!("{error:#}"), "no picture of the views"),
        }
    }

    /// Notes what was measured. `publish` ends the segment: what was noted so far goes to the store.
    pub fn note(&mut self, progress: &Progress, publish: bool, control: &Control) {
        let Some(open) = &mut self.0 else { return };
        let number = |tag: &str, number: f64| Value {
            tag: tag.to_owned(),
            value: Some(value::Value::SimpleValue(number as f32)),
        };
        let mut value: Vec<Value> = progress
            .measurements
            .iter()
            .map(|found| number(&found.name, found.value))
            .collect();
        if !value.is_empty() {
            if progress.images_per_s > 0.0 {
                value.push(number("images_per_s", progress.images_per_s));
            }
            open.add(progress.step, What::Summary(Summary { value }));
        }
        if publish {
            open.backlog.close();
        }
        open.attend(control);
    }

    /// Ends the segment, and hands it to the store without waiting: the ranks leave.
    pub fn publish(&mut self, control: &Control) {
        if let Some(open) = &mut self.0 {
            open.backlog.close();
            open.attend(control);
        }
    }

    /// Writes what is left, and waits a little while for it. An abort ends the wait.
    pub fn close(self, control: &Control) {
        let Some(mut open) = self.0 else { return };
        open.backlog.close();
        let deadline = Instant::now() + PATIENCE;
        open.attend(control);
        while !open.backlog.is_empty() && Instant::now() < deadline && control.check().is_ok() {
            let outcome = open.writer.wait(TURN);
            let refused = matches!(outcome, Some(Err(_)));
            open.take(outcome, control);
            if refused {
                break;
            }
            open.attend(control);
        }
    }
}

// === impl Open ===

impl Open {
    fn add(&mut self, step: Step, what: What) {
        let now = clock::unix_millis(clock::now());
        self.backlog.add(&Event {
            wall_time: now as f64 / 1e3,
            step: i64::try_from(step.get()).unwrap_or(i64::MAX),
            what: Some(what),
        });
    }

    /// Hears what became of a segment, and gives the next one away. Never waits.
    fn attend(&mut self, control: &Control) {
        let outcome = self.writer.poll();
        self.take(outcome, control);
        if let Some(segment) = self.backlog.next() {
            self.writer.write(segment);
        }
        let dropped = self.backlog.dropped();
        if dropped > 0 && !self.trouble.dropped {
            self.trouble.dropped = true;
            let message = format!(
                "the store takes no TensorBoard events: the oldest {dropped} are given up; training goes on"
            );
            control.report(Report::Notice {
                kind: "tensorboard_dropped",
                message,
            });
        }
    }

    fn take(&mut self, outcome: Option<writer::Outcome>, control: &Control) {
        match outcome {
            None => {}
            Some(Ok(())) => {
                self.backlog.written(true);
                self.trouble = Trouble::default();
            }
            Some(Err(error)) => {
                self.backlog.written(false);
                if !std::mem::replace(&mut self.trouble.refused, true) {
                    let message = format!(
                        "TensorBoard events: {error}; they are kept and tried again, training goes on"
                    );
                    control.report(Report::Notice {
                        kind: "tensorboard_failed",
                        message,
                    });
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

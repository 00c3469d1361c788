//! The one loop of all phases: rows, gradient, agreement, commit; and in between saves, evaluations and reports.

use std::time::{Duration, Instant};

use diptych_common::ids::{Rank, Step};
use tch::Tensor;

use super::PhaseError;
use super::bad::BadShare;
use super::cadence::Cadence;
use super::keeper::Keeper;
use super::prepare::Prepared;
use super::task::{Values, measured};
use crate::collective::Gang;
use crate::reduce::Buckets;
use crate::tensorboard::Board;
use crate::trainer::{Activity, Begin, Control, Measurement, Progress, Report};

/// Most points of one measurement in the history of a phase, evaluations aside.
const POINTS: u64 = 1000;
/// Time over which rates are averaged, at least.
const WINDOW: Duration = Duration::from_secs(1);

/// What the ranks agree on at the end of each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agreed {
    GoOn,
    Save,
    /// A save is due, but a rank still writes the last one.
    SkipSave,
}

/// Steps per second, lately.
#[derive(Debug)]
struct Rate {
    since: Instant,
    steps: u32,
    step_s: f64,
}

impl Prepared {
    /// Connects to the peers, trains to the end, evaluates, saves, and returns after the last commit.
    ///
    /// # Errors
    /// Why the rank stopped early.
    pub fn run(mut self, begin: &Begin, control: &Control) -> Result<(), PhaseError> {
        let gang = self.connect(begin, control)?;
        let mut keeper = Keeper::start(&self)?;
        let mut board = Board::start(
            &self.assignment,
            &self.storage,
            self.learner.step,
            self.phase.views(),
        )?;
        let mut buckets = Buckets::new(&self.learner.model, gang.gradients.clone())?;
        let (total, phase) = (self.learner.total(), self.phase.clone());
        let cadence = Cadence::new(&phase, total, self.examples);
        let mut bad_share = BadShare::new(&self.used, phase.max_bad_images);
        let first = gang.rank() == Rank::new(0);
        let every = total.get().div_ceil(POINTS).max(1);
        let mut rate = Rate {
            since: Instant::now(),
            steps: 0,
            step_s: 0.0,
        };
        // The evaluation after which the phase ended early.
        let mut decisive = None;
        while self.learner.step < self.learner.total() {
            keeper.attend(control)?;
            let rows = self.batches.next()?;
            board.first_views(&rows.rows);
            let mut bad = rows.bad;
            bad.extend(self.task.fetch()?);
            for bad in &bad {
                self.notices
                    .bad(&self.used, bad, "the next good image takes its place");
            }
            bad_share.note(bad);
            let learning_rate = self.learner.rate();
            let found = self
                .task
                .step(&self.learner, &mut buckets, &rows.rows, &gang);
            let mut values = found.map_err(|error| self.learner.give_up(error))?;
            if let Some((tensor, _)) = values.iter().find(|(_, value)| !value.is_finite()) {
                self.learner.discard_step();
                return Err(PhaseError::NonFinite {
                    tensor: tensor.to_string(),
                    step: self.learner.step,
                });
            }
            let due = first && cadence.save_due(self.learner.step.next(), keeper.since_last());
            let agreed = match agree(&gang, due, keeper.busy(), &mut bad_share) {
                Ok(agreed) => agreed,
                Err(error) => {
                    self.learner.discard_step();
                    return Err(error);
                }
            };
            self.learner.commit(&buckets)?;
            rate.count();
            let step = self.learner.step;
            // An evaluation comes before a save of its step, which keeps what it decides.
            let evaluates = cadence.evaluate_due(step);
            let (evaluated, best) = if evaluates {
                self.evaluate(&gang, control)?
            } else {
                (Values::new(), false)
            };
            values.extend(evaluated.iter().cloned());
            match agreed {
                // The last save follows.
                _ if self.learner.judge.has_stopped() => decisive = Some((evaluated.clone(), best)),
                _ if best => keeper.save_best(&self.learner, &values, control)?,
                Agreed::Save => keeper.save(&self.learner, &values)?,
                Agreed::SkipSave if first => {
                    let message = format!("step {step}: the last save is still being written");
                    control.report(Report::Notice {
                        kind: "save_skipped",
                        message,
                    });
                }
                Agreed::SkipSave | Agreed::GoOn => {}
            }
            values.push(measured("learning_rate", learning_rate));
            if !(step.get().is_multiple_of(every) || step.get() == 1 || step == total) {
                values = evaluated;
            }
            let progress = Progress {
                step,
                total_steps: total,
                images_per_s: f64::from(phase.batch) / rate.step_s.max(1e-9),
                step_s: rate.step_s,
                measurements: if first {
                    measurements(step, &values)
                } else {
                    Vec::new()
                },
            };
            board.note(&progress, evaluates || agreed == Agreed::Save, control);
            control.report(Report::Progress(progress));
        }
        if let Some(reason) = self.learner.judge.reason().filter(|_| first) {
            let message = format!("step {}: {reason}", self.learner.step);
            let kind = "stopped_early";
            control.report(Report::Notice { kind, message });
        }
        let last = match decisive {
            Some(evaluation) => evaluation,
            None => self.evaluate(&gang, control)?,
        };
        self.finish(&gang, (keeper, board), last, control)
    }

    /// What the network measures as it stands, and whether that is the best so far, where the spec asks.
    fn evaluate(&mut self, gang: &Gang, control: &Control) -> Result<(Values, bool), PhaseError> {
        control.report(Report::Activity(Activity::Evaluating));
        let values = self.task.evaluate(&self.learner, gang)?;
        let best = self.learner.judge.hear(self.learner.step, &values, gang)?;
        control.report(Report::Activity(Activity::Training));
        Ok((values, best))
    }

    fn finish(
        self,
        gang: &Gang,
        (mut keeper, mut board): (Keeper, Board),
        (values, best): (Values, bool),
        control: &Control,
    ) -> Result<(), PhaseError> {
        let step = self.learner.step;
        control.report(Report::Activity(Activity::Saving));
        keeper.drain(control)?;
        keeper.save_last(&self.learner, &values, best)?;
        let results = if gang.rank() == Rank::new(0) {
            measurements(step, &values)
        } else {
            Vec::new()
        };
        let progress = Progress {
            step,
            total_steps: step,
            measurements: results.clone(),
            ..Progress::default()
        };
        board.note(&progress, true, control);
        control.report(Report::Progress(progress));
        keeper.drain(control)?;
        board.close(control);
        control.report(Report::Finished { step, results });
        keeper.wait_committed(step, control)
    }
}

impl Rate {
    fn count(&mut self) {
        self.steps += 1;
        let elapsed = self.since.elapsed();
        if elapsed >= WINDOW || self.step_s == 0.0 {
            self.step_s = elapsed.as_secs_f64() / f64::from(self.steps);
            *self = Self {
                since: Instant::now(),
                steps: 0,
                step_s: self.step_s,
            };
        }
    }
}

/// The step's last collective: that it returns proves that every rank completed the step. Rank 0's clock decides
/// whether a save is due, and no rank saves while another still writes. Where any rank found bad images, all hear of
/// them.
fn agree(gang: &Gang, due: bool, busy: bool, bad: &mut BadShare) -> Result<Agreed, PhaseError> {
    let mut sums = Tensor::from_slice(&[
        f64::from(u8::from(due)),
        f64::from(u8::from(busy)),
        bad.unheard() as f64,
    ]);
    gang.statistics.all_reduce(&mut sums)?;
    let (due, busy) = (
        sums.f_double_value(&[0])? > 0.0,
        sums.f_double_value(&[1])? > 0.0,
    );
    if sums.f_double_value(&[2])? > 0.0 {
        bad.exchange(&*gang.statistics)?;
    }
    Ok(match (due, busy) {
        (false, _) => Agreed::GoOn,
        (true, false) => Agreed::Save,
        (true, true) => Agreed::SkipSave,
    })
}

fn measurements(step: Step, values: &Values) -> Vec<Measurement> {
    values
        .iter()
        .map(|(name, value)| Measurement {
            step,
            name: name.to_string(),
            value: *value,
        })
        .collect()
}

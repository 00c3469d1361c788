//! The one loop of all phases: rows, gradient, agreement, commit; and in between saves, evaluations and reports.

use std::time::{Duration, Instant};

use diptych_common::ids::{Rank, Step};
use tch::Tensor;

use super::PhaseError;
use super::bad::BadShare;
use super::cadence::Cadence;
use super::keeper::Keeper;
use super::leave::{Leaving, any};
use super::prepare::{Prepared, Run};
use super::task::{Values, measured};
use crate::collective::Gang;
use crate::reduce::Buckets;
use crate::tensorboard::Board;
use crate::trainer::{Activity, Begin, Control, Ended, Measurement, Progress, Report};

/// Most points of one measurement in the history of a phase, evaluations aside.
const POINTS: u64 = 1000;
/// Time over which rates are averaged, at least.
const WINDOW: Duration = Duration::from_secs(1);

/// What the ranks agree on at the end of each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Agreed {
    save: Saving,
    leave: Option<Leaving>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saving {
    No,
    Yes,
    /// A save is due, but a rank still writes the last one.
    Skip,
}

/// What an evaluation measured, and whether the state is the best so far, where the spec asks.
pub(super) type Evaluation = (Values, bool);

/// How an attempt goes on after a step.
enum Next {
    Step,
    /// The phase has ended early, by this evaluation.
    Decided(Evaluation),
    Leave(Leaving, Evaluation),
}

/// Times of a step, lately.
#[derive(Debug)]
struct Rate {
    since: Instant,
    /// What had been waited by then.
    waited_before: Duration,
    steps: u32,
    step_s: f64,
    waited_s: f64,
}

/// A gang at work.
pub(super) struct Session<'a> {
    pub(super) prepared: Prepared<'a>,
    pub(super) gang: Gang,
    pub(super) keeper: Keeper,
    pub(super) board: Board,
    run: Run,
    buckets: Buckets,
    cadence: Cadence,
    bad_share: BadShare,
    rate: Rate,
    /// People know that saves are being skipped.
    skip_told: bool,
}

impl<'a> Prepared<'a> {
    /// Connects to the peers, takes their state where they are to give it, trains to the end, evaluates, saves, and
    /// returns after the last commit; or leaves by plan.
    ///
    /// # Errors
    /// Why the rank stopped early.
    pub fn run(mut self, begin: &Begin, control: &Control) -> Result<Ended, PhaseError> {
        let gang = self.connect(begin, control)?;
        self.take_state(begin, &gang)?;
        let mut session = Session::start(self, gang)?;
        let mut decisive = session.evaluate_owed(control)?;
        let mut first = true;
        while session.step() < session.prepared.learner.total() {
            let next = session.advance(control)?;
            if std::mem::take(&mut first) {
                let took = session.prepared.since.elapsed();
                tracing::info!(step = session.step().get(), ?took, "first step");
            }
            match next {
                Next::Step => {}
                Next::Decided(evaluation) => decisive = Some(evaluation),
                Next::Leave(how, evaluation) => return session.leave(how, evaluation, control),
            }
        }
        session.finish(decisive, control)
    }
}

impl<'a> Session<'a> {
    fn start(mut prepared: Prepared<'a>, gang: Gang) -> Result<Self, PhaseError> {
        let run = prepared.take_run()?;
        let (setup, learner) = (prepared.setup, &*prepared.learner);
        let phase = &setup.phase;
        Ok(Self {
            keeper: Keeper::start(&prepared)?,
            board: Board::start(
                &prepared.assignment,
                &setup.storage,
                learner.step,
                phase.views(),
            )?,
            buckets: Buckets::new(&learner.model, gang.gradients.clone())?,
            cadence: Cadence::new(phase, learner.total(), setup.examples),
            bad_share: BadShare::new(&prepared.data.used, phase.max_bad_images),
            rate: Rate::new(Instant::now()),
            skip_told: false,
            run,
            gang,
            prepared,
        })
    }

    fn step(&self) -> Step {
        self.prepared.learner.step
    }

    /// Rank 0 speaks for all.
    fn speaks(&self) -> bool {
        self.gang.rank() == Rank::new(0)
    }

    /// Makes up for an evaluation that an earlier attempt did not bring to its end on every rank.
    fn evaluate_owed(&mut self, control: &Control) -> Result<Option<Evaluation>, PhaseError> {
        let owed = any(&self.gang, self.prepared.learner.owes_evaluation)?;
        if !owed || !self.cadence.evaluate_due(self.step()) {
            return Ok(None);
        }
        let (values, best) = self.evaluate(control)?;
        self.tell(values.clone(), true, control);
        if self.prepared.learner.judge.has_stopped() {
            return Ok(Some((values, best)));
        }
        self.save(Saving::No, (&values, best), control)?;
        Ok(None)
    }

    /// One step, with what follows it.
    fn advance(&mut self, control: &Control) -> Result<Next, PhaseError> {
        self.keeper.attend(control)?;
        self.prepared.learner.best_at_risk = self.keeper.best_at_risk();
        let skipped = self.prepared.assignment.skip.contains(&self.step());
        let learning_rate = self.prepared.learner.rate();
        let (mut values, agreed) = self.compute(skipped, control)?;
        if skipped {
            self.prepared.learner.skip();
        } else {
            self.prepared.learner.commit(&self.buckets)?;
            values.push(measured("learning_rate", learning_rate));
        }
        let step = self.step();
        tracing::debug!(step = step.get(), "committed");
        self.prepared.learner.owes_evaluation = self.cadence.evaluate_due(step);
        let waited = self.gang.statistics.waited() + self.buckets.waited();
        self.rate.count(Instant::now(), waited);
        if skipped && self.speaks() {
            let message = format!("step {step}: its batch was drawn and changed nothing");
            let kind = "batch_skipped";
            control.report(Report::Notice { kind, message });
        }
        let leaving = agreed
            .leave
            .filter(|_| step < self.prepared.learner.total());
        // An evaluation comes before a save of its step, which keeps what it decides. Ranks that leave without one leave
        // it to the next attempt.
        let evaluates =
            self.cadence.evaluate_due(step) && leaving.is_none_or(|leaving| leaving.save);
        let (evaluated, best) = if evaluates {
            self.evaluate(control)?
        } else {
            (Values::new(), false)
        };
        values.extend(evaluated.iter().cloned());
        let next = match leaving {
            // The last save follows.
            _ if self.prepared.learner.judge.has_stopped() => {
                Next::Decided((evaluated.clone(), best))
            }
            Some(how) => Next::Leave(how, (values.clone(), best)),
            None => {
                self.save(agreed.save, (&values, best), control)?;
                Next::Step
            }
        };
        let total = self.cadence.total();
        let every = total.div_ceil(POINTS).max(1);
        if !(step.get().is_multiple_of(every) || step.get() == 1 || step.get() == total) {
            values = evaluated;
        }
        self.tell(values, evaluates || agreed.save == Saving::Yes, control);
        Ok(next)
    }

    /// Draws the rows of a step and, unless it is skipped, leaves its gradient in the buckets. Nothing has changed on any
    /// rank when it returns, and every rank has come as far.
    fn compute(
        &mut self,
        skipped: bool,
        control: &Control,
    ) -> Result<(Values, Agreed), PhaseError> {
        let rows = self.run.batches.step()?;
        self.board.first_views(&rows.rows);
        let mut bad = rows.bad;
        bad.extend(self.run.task.fetch()?);
        for bad in &bad {
            let used = &self.prepared.data.used;
            let then = "the next good image takes its place";
            self.prepared.notices.bad(used, bad, then);
        }
        self.bad_share.note(bad);
        let learner = &mut *self.prepared.learner;
        let mut values = Values::new();
        if !skipped {
            let (task, buckets) = (&mut self.run.task, &mut self.buckets);
            let found = task.step(learner, buckets, &rows.rows, &self.gang);
            values = found.map_err(|error| learner.give_up(error))?;
            // The host's one wait for the device: a collective that did not come to its end must not pass for numbers
            // that are not finite.
            for channel in [&self.gang.statistics, &self.gang.gradients] {
                channel.settle()?;
            }
        }
        if let Some((tensor, _)) = values.iter().find(|(_, value)| !value.is_finite()) {
            return Err(PhaseError::NonFinite {
                tensor: tensor.to_string(),
                step: learner.step,
            });
        }
        let since = self.keeper.since_last();
        let due =
            self.gang.rank() == Rank::new(0) && self.cadence.save_due(learner.step.next(), since);
        let agreed = self.agree(due, control)?;
        Ok((values, agreed))
    }

    /// The step's last collective: that it returns proves that every rank completed the step. Rank 0's clock decides
    /// whether a save is due, and no rank saves while another still writes. One rank that was told to leave is enough.
    /// Where any rank found bad images, all hear of them.
    fn agree(&mut self, due: bool, control: &Control) -> Result<Agreed, PhaseError> {
        let leave = control.leave();
        let says = |yes: bool| f64::from(u8::from(yes));
        let alone = leave.as_ref().is_some_and(|leave| leave.alone);
        let save = leave.as_ref().is_some_and(|leave| leave.save);
        let mut sums = Tensor::f_from_slice(&[
            says(due),
            says(self.keeper.busy()),
            self.bad_share.unheard() as f64,
            says(leave.is_some()),
            says(save || alone),
            says(alone),
        ])?;
        self.gang.statistics.all_reduce(&mut sums)?;
        let sums = Vec::<f64>::try_from(sums)?;
        let any = |index: usize| sums.get(index).is_some_and(|sum| *sum > 0.0);
        if any(2) {
            self.bad_share.exchange(&*self.gang.statistics)?;
        }
        Ok(Agreed {
            save: match (any(0), any(1)) {
                (false, _) => Saving::No,
                (true, false) => Saving::Yes,
                (true, true) => Saving::Skip,
            },
            leave: any(3).then(|| Leaving {
                save: any(4),
                alone: any(5),
            }),
        })
    }

    /// Saves the step where it is the best so far or a save is due. Only the best waits for the save before it: it is the
    /// phase's result, and a spec that does not ask for the best never waits for the store before its end.
    fn save(
        &mut self,
        agreed: Saving,
        (values, best): (&Values, bool),
        control: &Control,
    ) -> Result<(), PhaseError> {
        let learner = &*self.prepared.learner;
        match agreed {
            _ if best => {
                self.keeper.save_best(learner, values, control)?;
                self.prepared.learner.best_at_risk = Some(self.step());
            }
            Saving::Yes => self.keeper.save(learner, values)?,
            Saving::Skip if self.speaks() && !self.skip_told => {
                self.skip_told = true;
                let message = format!(
                    "step {}: the last save is still being written; saves are skipped until it is",
                    learner.step
                );
                let kind = "save_skipped";
                control.report(Report::Notice { kind, message });
            }
            Saving::Skip | Saving::No => return Ok(()),
        }
        self.skip_told &= agreed == Saving::Skip && !best;
        Ok(())
    }

    /// What the network measures as it stands.
    fn evaluate(&mut self, control: &Control) -> Result<Evaluation, PhaseError> {
        control.report(Report::Activity(Activity::Evaluating));
        let learner = &mut *self.prepared.learner;
        let values = self.run.task.evaluate(learner, &self.gang)?;
        let best = learner.judge.hear(learner.step, &values, &self.gang)?;
        learner.owes_evaluation = false;
        control.report(Report::Activity(Activity::Training));
        Ok((values, best))
    }

    /// Reports where the rank is; `publish` as in [`Board::note`].
    fn tell(&mut self, values: Values, publish: bool, control: &Control) {
        let step = self.step();
        let progress = Progress {
            step,
            total_steps: Step::new(self.cadence.total()),
            images_per_s: f64::from(self.prepared.setup.phase.batch) / self.rate.step_s.max(1e-9),
            step_s: self.rate.step_s,
            waited_s: self.rate.waited_s,
            measurements: if self.speaks() {
                measurements(step, &values)
            } else {
                Vec::new()
            },
        };
        self.board.note(&progress, publish, control);
        control.report(Report::Progress(progress));
    }

    fn finish(
        mut self,
        decisive: Option<Evaluation>,
        control: &Control,
    ) -> Result<Ended, PhaseError> {
        let step = self.step();
        let speaks = self.speaks();
        if let Some(reason) = self.prepared.learner.judge.reason().filter(|_| speaks) {
            let message = format!("step {step}: {reason}");
            let kind = "stopped_early";
            control.report(Report::Notice { kind, message });
        }
        let (values, best) = match decisive {
            Some(evaluation) => evaluation,
            None => self.evaluate(control)?,
        };
        control.report(Report::Activity(Activity::Saving));
        self.keeper.drain(control)?;
        self.keeper
            .save_last(self.prepared.learner, &values, best)?;
        let results = if speaks {
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
        self.board.note(&progress, true, control);
        control.report(Report::Progress(progress));
        self.keeper.drain(control)?;
        self.board.close(control);
        control.report(Report::Finished { step, results });
        self.keeper.wait_committed(step, control)?;
        Ok(Ended::Done)
    }
}

impl Rate {
    fn new(now: Instant) -> Self {
        Self {
            since: now,
            waited_before: Duration::ZERO,
            steps: 0,
            step_s: 0.0,
            waited_s: 0.0,
        }
    }

    /// Counts a step that ended `now`; `waited` is all that was waited for peers so far.
    fn count(&mut self, now: Instant, waited: Duration) {
        self.steps += 1;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= WINDOW || self.step_s == 0.0 {
            let steps = f64::from(self.steps);
            let blocked = waited.saturating_sub(self.waited_before).min(elapsed);
            *self = Self {
                since: now,
                waited_before: waited,
                steps: 0,
                step_s: elapsed.as_secs_f64() / steps,
                waited_s: blocked.as_secs_f64() / steps,
            };
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steps_time_and_what_was_waited_of_it_are_of_the_same_steps() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let waited = Duration::from_millis;
        let mut rate = Rate::new(start);
        rate.count(at(400), waited(100));
        assert_eq!((rate.step_s, rate.waited_s), (0.4, 0.1));
        rate.count(at(900), waited(300));
        assert_eq!((rate.step_s, rate.waited_s), (0.4, 0.1), "not long enough");
        rate.count(at(1400), waited(700));
        assert_eq!((rate.step_s, rate.waited_s), (0.5, 0.3));
    }
}

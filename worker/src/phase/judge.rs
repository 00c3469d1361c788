//! What evaluations decide where a spec asks for it: that the phase ends early, and which checkpoint is its result.
//!
//! What has been seen so far is part of the state, so that a restart goes on with it: the same evaluations lead to the
//! same end, whatever happens in between.

use diptych_common::ids::{Rank, Step};
use diptych_common::spec::{Metric, PhaseSpec, StopAfter};
use tch::Tensor;

use super::PhaseError;
use super::task::Values;
use crate::collective::Gang;
use crate::project::{NamedTensor, StateRole};

/// What evaluations have decided so far.
#[derive(Debug)]
pub struct Judge {
    stop: Option<(StopAfter, Record)>,
    best: Option<(Metric, Record)>,
    /// What had been seen before the evaluation of the step that the state stands at, where that was heard here.
    before: Option<[Option<Record>; 2]>,
}

/// The largest value so far, the step that had it, the evaluations since then and the step of the last one; f64, live.
#[derive(Debug)]
struct Record(Tensor);

/// The numbers of a [`Record`].
#[derive(Debug, Clone, Copy, PartialEq)]
struct Seen {
    best: f64,
    at: f64,
    since: f64,
    last: f64,
}

// === impl Judge ===

impl Judge {
    /// Nothing has been evaluated yet.
    pub fn new(phase: &PhaseSpec) -> Self {
        Self {
            stop: phase.evaluate.stop_after.map(|stop| (stop, Record::new())),
            best: phase.checkpoint.best.map(|metric| (metric, Record::new())),
            before: None,
        }
    }

    /// Hears an evaluation; all ranks call together, and rank 0's values count. To hear one twice changes nothing.
    /// Whether the state at this step is the best so far, where the spec asks for the best.
    ///
    /// # Errors
    /// [`PhaseError::Refused`] where a measurement that the spec names was not taken; [`PhaseError::NonFinite`].
    pub fn hear(&mut self, step: Step, values: &Values, gang: &Gang) -> Result<bool, PhaseError> {
        if self.before.is_none() {
            let stop = self.stop.as_ref().map(|(_, record)| record.share());
            let best = self.best.as_ref().map(|(_, record)| record.share());
            self.before = Some([stop, best]);
        }
        if let Some((stop, record)) = &mut self.stop {
            record.hear(step, agreed(stop.metric, step, values, gang)?)?;
        }
        let Some((metric, record)) = &mut self.best else {
            return Ok(false);
        };
        record.hear(step, agreed(*metric, step, values, gang)?)?;
        Ok(record.seen().at == step.get() as f64)
    }

    /// A step has been committed since the last evaluation: every rank has heard that, and none takes it back.
    pub fn settle(&mut self) {
        self.before = None;
    }

    /// Takes back what was heard since the last step was committed, in whole or in part: other ranks may not have heard
    /// it. Whether there was anything.
    pub fn unhear(&mut self) -> bool {
        let Some([stop, best]) = self.before.take() else {
            return false;
        };
        if let (Some((_, own)), Some(before)) = (&mut self.stop, stop) {
            *own = before;
        }
        if let (Some((_, own)), Some(before)) = (&mut self.best, best) {
            *own = before;
        }
        true
    }

    /// Whether the phase has ended early.
    pub fn has_stopped(&self) -> bool {
        self.stop
            .as_ref()
            .is_some_and(|(stop, record)| record.seen().since >= f64::from(stop.evaluations))
    }

    /// Why it has, in words.
    pub fn reason(&self) -> Option<String> {
        let (stop, record) = self.stop.as_ref().filter(|_| self.has_stopped())?;
        let seen = record.seen();
        Some(format!(
            "{} has not exceeded the {} of step {} in {} evaluations",
            stop.metric.name(),
            seen.best,
            seen.at,
            seen.since
        ))
    }

    /// What has been seen, live: `judge.stop` and `judge.best`.
    pub fn named_tensors(&self) -> Vec<NamedTensor> {
        let stop = self.stop.as_ref().map(|(_, record)| ("judge.stop", record));
        let best = self.best.as_ref().map(|(_, record)| ("judge.best", record));
        let both = stop.into_iter().chain(best);
        both.map(|(name, record)| NamedTensor {
            name: name.to_owned(),
            role: StateRole::State,
            tensor: record.0.shallow_clone(),
        })
        .collect()
    }
}

/// Rank 0's value, so that all ranks decide alike whatever machines they run on.
fn agreed(metric: Metric, step: Step, values: &Values, gang: &Gang) -> Result<f64, PhaseError> {
    let name = metric.name();
    let value = values.iter().find(|(own, _)| *own == name);
    let &(_, value) = value.ok_or_else(|| {
        PhaseError::Refused(format!(
            "`evaluate.stop_after` or `checkpoint.select` names {name}, which evaluations of this phase do not measure: \
             they need labels for it"
        ))
    })?;
    let mut agreed = Tensor::from_slice(&[value]);
    gang.statistics.broadcast(&mut agreed, Rank::new(0))?;
    let value = agreed.f_double_value(&[0])?;
    if !value.is_finite() {
        let tensor = name.to_owned();
        return Err(PhaseError::NonFinite { tensor, step });
    }
    Ok(value)
}

// === impl Record ===

impl Record {
    fn new() -> Self {
        // Below every measurement, and finite.
        let seen = [f64::MIN, -1.0, 0.0, -1.0];
        Self(Tensor::from_slice(&seen))
    }

    fn hear(&mut self, step: Step, value: f64) -> Result<(), PhaseError> {
        let next = self.seen().then(step.get() as f64, value);
        // In memory of its own: what was seen before may be wanted back.
        self.0 = Tensor::f_from_slice(&[next.best, next.at, next.since, next.last])?;
        Ok(())
    }

    fn share(&self) -> Self {
        Self(self.0.shallow_clone())
    }

    fn seen(&self) -> Seen {
        let number = |index| self.0.double_value(&[index]);
        Seen {
            best: number(0),
            at: number(1),
            since: number(2),
            last: number(3),
        }
    }
}

// === impl Seen ===

impl Seen {
    /// After an evaluation at `step`. Only a larger value is better: the first of equal ones stays.
    fn then(self, step: f64, value: f64) -> Self {
        if step <= self.last {
            self
        } else if value > self.best {
            Self {
                best: value,
                at: step,
                since: 0.0,
                last: step,
            }
        } else {
            Self {
                since: self.since + 1.0,
                last: step,
                ..self
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_larger_value_is_better_and_a_repeated_evaluation_is_none() {
        let mut record = Record::new();
        let heard = [
            (10, 0.3),
            (20, 0.5),
            (30, 0.5),
            (30, 0.9),
            (40, 0.4),
            (50, 0.6),
        ];
        let mut seen = Vec::new();
        for (step, value) in heard {
            record.hear(Step::new(step), value).expect("heard");
            let Seen {
                best, at, since, ..
            } = record.seen();
            seen.push((best, at, since));
        }
        let expected = [
            (0.3, 10.0, 0.0),
            (0.5, 20.0, 0.0),
            (0.5, 20.0, 1.0),
            (0.5, 20.0, 1.0),
            (0.5, 20.0, 2.0),
            (0.6, 50.0, 0.0),
        ];
        assert_eq!(seen, expected);
    }
}

//! When a phase saves and evaluates: pure decisions.

use std::time::Duration;

use diptych_common::ids::Step;
use diptych_common::spec::{CheckpointSpec, EvaluateSpec};

/// When to save and to evaluate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cadence {
    total: u64,
    save_every: Duration,
    save_every_steps: Option<u64>,
    evaluate_every_steps: Option<u64>,
}

impl Cadence {
    /// The cadence of a phase of `total` steps over `examples` images with `batch` images a step.
    pub fn new(
        checkpoint: &CheckpointSpec,
        evaluate: &EvaluateSpec,
        total: Step,
        examples: u64,
        batch: u32,
    ) -> Self {
        let steps =
            |epochs: f64| ((epochs * examples as f64 / f64::from(batch)).round() as u64).max(1);
        Self {
            total: total.get(),
            save_every: checkpoint.every,
            save_every_steps: checkpoint.every_steps,
            evaluate_every_steps: evaluate.every_epochs.map(steps),
        }
    }

    /// Whether to save after this step, `since` the last save began. The last step's save is not asked about here:
    /// it happens after the final evaluation, always.
    pub fn save_due(&self, step: Step, since: Duration) -> bool {
        let by_steps = self
            .save_every_steps
            .is_some_and(|every| step.get().is_multiple_of(every));
        step.get() < self.total && (by_steps || since >= self.save_every)
    }

    /// Whether to evaluate after this step, the final evaluation aside.
    pub fn evaluate_due(&self, step: Step) -> bool {
        step.get() < self.total
            && self
                .evaluate_every_steps
                .is_some_and(|every| step.get().is_multiple_of(every))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn saves_by_time_or_steps_and_never_twice_at_the_end() {
        let checkpoint = CheckpointSpec {
            every: Duration::from_secs(60),
            every_steps: Some(10),
            keep: 1,
        };
        let evaluate = EvaluateSpec {
            every_epochs: Some(2.0),
        };
        let cadence = Cadence::new(&checkpoint, &evaluate, Step::new(40), 100, 20);
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(60));
        let saves: Vec<_> = (1..=40)
            .filter(|step| cadence.save_due(Step::new(*step), short))
            .collect();
        assert_eq!(saves, [10, 20, 30]);
        assert!(cadence.save_due(Step::new(7), long));
        assert!(!cadence.save_due(Step::new(40), long));
        let evaluations: Vec<_> = (1..=40)
            .filter(|step| cadence.evaluate_due(Step::new(*step)))
            .collect();
        assert_eq!(evaluations, [10, 20, 30]);
    }
}

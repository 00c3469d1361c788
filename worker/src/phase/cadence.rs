//! When a phase saves and evaluates: pure decisions.

use std::time::Duration;

use diptych_common::ids::Step;
use diptych_common::spec::PhaseSpec;

/// When to save and to evaluate.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cadence {
    total: u64,
    save_every: Duration,
    save_every_steps: Option<u64>,
    evaluate_every_steps: Option<u64>,
}

impl Cadence {
    /// The cadence of a phase of `total` steps over `examples` images.
    pub fn new(phase: &PhaseSpec, total: Step, examples: u64) -> Self {
        Self {
            total: total.get(),
            save_every: phase.checkpoint.every,
            save_every_steps: phase.checkpoint.every_steps,
            evaluate_every_steps: phase.evaluation_interval(total.get(), examples),
        }
    }

    /// Steps of the whole phase.
    pub fn total(&self) -> u64 {
        self.total
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
    use diptych_common::spec::{JobDraft, JobSpec};

    use super::*;

    /// A phase of 20 images a step with these fields, over 100 images.
    fn cadence(kind: &str, total: u64, fields: &str) -> Cadence {
        let yaml = format!(
            "apiVersion: diptych/v1\nname: x\nstorage: file:///x\ndata: {{train: {{url: file:///x}}}}\n\
             encoder: {{depth: 18}}\nphases:\n- {{name: x, kind: {kind}, batch: 20, steps: {total}, \
             optimizer: {{kind: sgd, learning_rate: 1.0}}, augment: {{image_size: 32}}, {fields}}}\n"
        );
        let spec = JobSpec::try_from(JobDraft::from_yaml(&yaml).expect("a draft")).expect("valid");
        Cadence::new(&spec.phases()[0], Step::new(total), 100)
    }

    fn evaluations(cadence: &Cadence) -> Vec<u64> {
        let due = |step: &u64| cadence.evaluate_due(Step::new(*step));
        (1..=cadence.total()).filter(due).collect()
    }

    #[test]
    fn saves_by_time_or_steps_and_never_twice_at_the_end() {
        let cadence = cadence(
            "pretrain",
            40,
            "checkpoint: {every: 60s, every_steps: 10}, evaluate: {every_epochs: 2}",
        );
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(60));
        let saves: Vec<_> = (1..=40)
            .filter(|step| cadence.save_due(Step::new(*step), short))
            .collect();
        assert_eq!(saves, [10, 20, 30]);
        assert!(cadence.save_due(Step::new(7), long));
        assert!(!cadence.save_due(Step::new(40), long));
        assert_eq!(evaluations(&cadence), [10, 20, 30]);
    }

    #[test]
    fn pretraining_is_evaluated_every_tenth_but_not_twice_an_epoch() {
        let tenths = evaluations(&cadence("pretrain", 100, ""));
        assert_eq!(tenths, [10, 20, 30, 40, 50, 60, 70, 80, 90]);
        assert_eq!(evaluations(&cadence("pretrain", 12, "")), [5, 10]);
        assert_eq!(evaluations(&cadence("pretrain", 5, "")), [0; 0]);
        assert_eq!(
            evaluations(&cadence("finetune", 100, "from: random")),
            [0; 0]
        );
    }
}

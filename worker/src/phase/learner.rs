//! What a phase trains: the network, its optimiser and the step that they stand at.

use std::collections::BTreeMap;

use diptych_common::digest::Digest;
use diptych_common::ids::Step;
use diptych_common::spec::{OptimizerSpec, PhaseKind, PhaseSpec};
use tch::Tensor;

use super::PhaseError;
use super::blueprint::Blueprint;
use crate::device::{Compute, StepError};
use crate::optim::{Optimizer, Schedule};
use crate::project::{Model, NamedTensor, StateError, Trained};
use crate::reduce::Buckets;

/// The state of a phase. All that is not in it follows from the spec and the step.
#[derive(Debug)]
pub struct Learner {
    /// The network.
    pub model: Model,
    /// The learning rate of every step.
    pub schedule: Schedule,
    /// Steps committed.
    pub step: Step,
    optimizer: Optimizer,
}

impl Learner {
    /// The state before the first step; `examples` are the images that an epoch takes.
    ///
    /// # Errors
    /// [`PhaseError::BadCheckpoint`] where the weights to start from do not fit the network.
    pub fn new(
        blueprint: &Blueprint,
        phase: &PhaseSpec,
        seed: u64,
        compute: Compute,
        examples: u64,
    ) -> Result<Self, PhaseError> {
        let mut model = Model::new(&blueprint.model, seed, compute)?;
        if let Some(start) = &blueprint.start {
            model
                .load(&start.tensors, |name| start.gives(name))
                .map_err(|error| misfit(&start.object, &error))?;
        }
        if matches!(phase.kind, PhaseKind::LinearEval(_)) {
            model.train(Trained::Classifiers)?;
        }
        let spec: &OptimizerSpec = &phase.optimizer;
        let optimizer = Optimizer::new(spec, &model)?;
        let schedule = Schedule::new(spec, phase.length, examples, phase.batch);
        Ok(Self {
            model,
            schedule,
            step: Step::new(0),
            optimizer,
        })
    }

    /// Weights, running statistics and momentum, live.
    pub fn state(&self) -> Vec<NamedTensor> {
        let mut state = self.model.named_tensors();
        state.extend(self.optimizer.named_tensors());
        state
    }

    /// Takes over a whole state.
    ///
    /// # Errors
    /// [`PhaseError::BadCheckpoint`] where a tensor is missing or of another shape.
    pub fn resume(
        &mut self,
        tensors: &BTreeMap<String, Tensor>,
        step: Step,
        object: &str,
    ) -> Result<(), PhaseError> {
        for own in self.state() {
            own.load(tensors).map_err(|error| misfit(object, &error))?;
        }
        self.step = step;
        Ok(())
    }

    /// Digest of the state: the same on every rank at the same step.
    ///
    /// # Errors
    /// Fails only where libtorch does.
    pub fn digest(&self) -> Result<Digest, PhaseError> {
        Ok(Digest::new(*NamedTensor::digest(&self.state())?.as_bytes()))
    }

    /// The learning rate of the next step.
    pub fn rate(&self) -> f64 {
        self.schedule.rate(self.step.get())
    }

    /// Steps of the whole phase.
    pub fn total(&self) -> Step {
        Step::new(self.schedule.total_steps())
    }

    /// The commit point of a step whose gradient is in `buckets`.
    ///
    /// # Errors
    /// [`PhaseError::NonFinite`]; nothing has changed then.
    pub fn commit(&mut self, buckets: &Buckets) -> Result<(), PhaseError> {
        let rate = self.rate();
        let done = self.optimizer.commit(&mut self.model, buckets, rate);
        done.map_err(|error| self.give_up(error))?;
        self.step = self.step.next();
        Ok(())
    }

    /// Forgets a step that failed, and says why.
    pub fn give_up(&mut self, error: StepError) -> PhaseError {
        self.model.discard_step();
        match error {
            StepError::NonFinite { tensor } => PhaseError::NonFinite {
                tensor,
                step: self.step,
            },
            other => other.into(),
        }
    }
}

fn misfit(object: &str, error: &StateError) -> PhaseError {
    PhaseError::BadCheckpoint {
        object: object.to_owned(),
        problem: error.to_string(),
    }
}

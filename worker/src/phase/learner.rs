//! What a phase trains: the network, its optimiser and the step that they stand at.

use std::collections::BTreeMap;

use diptych_common::digest::Digest;
use diptych_common::ids::Step;
use diptych_common::spec::{OptimizerSpec, PhaseKind, PhaseSpec};
use tch::{Tensor, no_grad};

use super::PhaseError;
use super::blueprint::Blueprint;
use super::judge::Judge;
use crate::backward::Memory;
use crate::device::{Compute, StepError};
use crate::optim::{Optimizer, Schedule};
use crate::project::{Model, NamedTensor, Trained};
use crate::reduce::Buckets;
use crate::trainer::StateSummary;

/// The state of a phase. All that is not in it follows from the spec and the step.
#[derive(Debug)]
pub struct Learner {
    /// The network.
    pub model: Model,
    /// The memory of a pretraining that asks for one.
    pub memory: Option<Memory>,
    /// What evaluations have decided so far.
    pub judge: Judge,
    /// The learning rate of every step.
    pub schedule: Schedule,
    /// Steps committed.
    pub step: Step,
    /// The evaluation that is due at this step has not been heard yet.
    pub owes_evaluation: bool,
    /// The newest step whose state is the best so far and is not known to be committed.
    pub best_at_risk: Option<Step>,
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
                .map_err(|error| PhaseError::bad_checkpoint(&start.object, error))?;
        }
        if matches!(phase.kind, PhaseKind::LinearEval(_)) {
            model.train(Trained::Classifiers)?;
        }
        let memory = match &phase.kind {
            PhaseKind::Pretrain(pretrain) => pretrain.memory,
            PhaseKind::LinearEval(_) | PhaseKind::Finetune(_) | PhaseKind::Distill(_) => None,
        };
        let memory = memory
            .map(|spec| Memory::new(&spec, &model, &blueprint.model, phase.batch))
            .transpose()?;
        let spec: &OptimizerSpec = &phase.optimizer;
        let optimizer = Optimizer::new(spec, &model)?;
        let schedule = Schedule::new(spec, phase.length, examples, phase.batch);
        Ok(Self {
            model,
            memory,
            judge: Judge::new(phase),
            schedule,
            step: Step::new(0),
            owes_evaluation: false,
            best_at_risk: None,
            optimizer,
        })
    }

    /// Weights, running statistics, momentum, memory and what evaluations decided, live.
    pub fn state(&self) -> Vec<NamedTensor> {
        let mut state = self.model.named_tensors();
        state.extend(self.optimizer.named_tensors());
        state.extend(self.memory.iter().flat_map(Memory::named_tensors));
        state.extend(self.judge.named_tensors());
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
            own.load(tensors)
                .map_err(|error| PhaseError::bad_checkpoint(object, error))?;
        }
        self.best_at_risk = None;
        self.stand_at(step);
        Ok(())
    }

    /// Takes over a whole state, given in the order of [`state`](Self::state).
    ///
    /// # Errors
    /// Fails only where libtorch does.
    pub fn take(&mut self, given: &[NamedTensor], step: Step) -> Result<(), PhaseError> {
        for (own, given) in self.state().iter_mut().zip(given) {
            no_grad(|| own.tensor.f_copy_(&given.tensor))?;
        }
        self.best_at_risk = None;
        self.stand_at(step);
        Ok(())
    }

    fn stand_at(&mut self, step: Step) {
        self.step = step;
        self.judge.settle();
        self.owes_evaluation = false;
    }

    /// Step and digests of the state: the same on every rank at the same step.
    ///
    /// # Errors
    /// Fails only where libtorch does.
    pub fn summary(&self) -> Result<StateSummary, PhaseError> {
        let state = self.state();
        let own: Vec<blake3::Hash> = state
            .iter()
            .map(NamedTensor::own_digest)
            .collect::<Result<_, _>>()?;
        let digest = NamedTensor::digest_of(&state, &own);
        let first = |hash: &blake3::Hash| {
            let [a, b, c, d, e, f, g, h, ..] = *hash.as_bytes();
            u64::from_le_bytes([a, b, c, d, e, f, g, h])
        };
        let names = state.into_iter().map(|tensor| tensor.name);
        Ok(StateSummary {
            step: self.step,
            digest: Digest::new(digest.into()),
            tensors: names.zip(own.iter().map(first)).collect(),
        })
    }

    /// The learning rate of the next step.
    pub fn rate(&self) -> f64 {
        self.schedule.rate(self.step.get())
    }

    /// The step at which the phase ends: the schedule's last, or this one where evaluations have ended it early.
    pub fn total(&self) -> Step {
        if self.judge.has_stopped() {
            return self.step;
        }
        Step::new(self.schedule.total_steps())
    }

    /// The commit point of a step whose gradient is in `buckets`.
    ///
    /// # Errors
    /// [`PhaseError::NonFinite`]; nothing has changed then.
    pub fn commit(&mut self, buckets: &Buckets) -> Result<(), PhaseError> {
        let pace = self.schedule.pace(self.step.get());
        let mut done = self.optimizer.commit(&mut self.model, buckets, pace);
        if done.is_ok()
            && let Some(memory) = &mut self.memory
        {
            done = memory.commit(self.step.get());
        }
        done.map_err(|error| self.give_up(error))?;
        self.stand_at(self.step.next());
        Ok(())
    }

    /// Counts a step whose batch changes nothing. The places that its rows would have in the memory's queue keep what
    /// they hold.
    pub fn skip(&mut self) {
        self.stand_at(self.step.next());
    }

    /// Comes to rest between two attempts: the state is that of the last committed step, before any evaluation of it.
    /// Whether training can go on from it: not where the best state so far has been passed and its save was cut short,
    /// for no later attempt could make that checkpoint, which may be the phase's result.
    pub fn rest(&mut self) -> bool {
        self.discard_step();
        self.owes_evaluation |= self.judge.unhear();
        let risked = self.best_at_risk.take();
        risked.is_none_or(|best| best >= self.step)
    }

    /// Forgets what a step that is given up has staged.
    pub fn discard_step(&mut self) {
        self.model.discard_step();
        if let Some(memory) = &mut self.memory {
            memory.discard_step();
        }
    }

    /// Forgets a step that failed, and says why.
    pub fn give_up(&mut self, error: StepError) -> PhaseError {
        self.discard_step();
        match error {
            StepError::NonFinite { tensor } => PhaseError::NonFinite {
                tensor,
                step: self.step,
            },
            other => other.into(),
        }
    }
}

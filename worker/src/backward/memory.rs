//! The memory of SimCLR v2 (§2, after He et al. 2020): a moving average of encoder and head, and a queue of the rows that
//! it gave of earlier batches.
//!
//! A step compares with the rows of the steps before it ([`Memory::rows`]) and encodes its own views
//! ([`Memory::stage`]); its commit moves the average and puts those rows into the queue ([`Memory::commit`]). Row k of
//! step s, counted from 0 in the order (view, position), goes to place (s · 2N + k) mod size: where the queue stands
//! follows from the step.

use std::cell::RefCell;
use std::collections::BTreeMap;

use diptych_common::spec::MemorySpec;
use tch::{Tensor, no_grad};

use super::MicroBatch;
use crate::collective::Gang;
use crate::device::StepError;
use crate::encode::{Mode, TrainMode};
use crate::gather::RowOrder;
use crate::loss::unit_rows;
use crate::project::{Model, ModelSpec, NamedTensor, StateRole};

/// An averaged network and the queue of its rows, the same on every rank.
#[derive(Debug)]
pub struct Memory {
    model: Model,
    /// Each weight of the average, and the live one that it follows.
    followed: Vec<(Tensor, Tensor)>,
    /// `[size, d]`, unit rows; zeros where none has been put yet.
    queue: Tensor,
    /// 2N.
    rows_per_step: i64,
    decay: f64,
    staged: RefCell<Option<Tensor>>,
}

// === impl Memory ===

impl Memory {
    /// An average that starts as a copy of `model`, which `network` describes, and an empty queue, for steps of `batch`
    /// images.
    ///
    /// # Errors
    /// [`StepError::Shape`] for a queue that cannot hold one step's rows; [`StepError::Torch`].
    pub fn new(
        spec: &MemorySpec,
        model: &Model,
        network: &ModelSpec,
        batch: u32,
    ) -> Result<Self, StepError> {
        let rows_per_step = 2 * i64::from(batch);
        if i64::from(spec.size) < rows_per_step {
            return Err(StepError::Shape {
                what: "memory",
                expected: format!("room for the {rows_per_step} rows of a step"),
                got: format!("{} rows", spec.size),
            });
        }
        let network = ModelSpec {
            head: network.head.clone(),
            ..ModelSpec::bare(network.encoder.clone())
        };
        let compute = model.compute();
        let average = Model::new(&network, 0, compute)?;
        let live: BTreeMap<String, Tensor> = model
            .named_tensors()
            .into_iter()
            .map(|live| (live.name, live.tensor))
            .collect();
        let mut followed = Vec::new();
        for NamedTensor { name, role, tensor } in average.named_tensors() {
            let live = live.get(&name).filter(|live| live.size() == tensor.size());
            let live = live.ok_or_else(|| StepError::Shape {
                what: "the network to average",
                expected: format!("{name} of shape {:?}", tensor.size()),
                got: "none".to_owned(),
            })?;
            no_grad(|| tensor.shallow_clone().f_copy_(live))?;
            if role == StateRole::Weight {
                followed.push((tensor, live.shallow_clone()));
            }
        }
        let shape = [i64::from(spec.size), average.output()];
        Ok(Self {
            followed,
            queue: Tensor::f_zeros(shape, (compute.kind(), compute.device))?,
            model: average,
            rows_per_step,
            decay: spec.decay,
            staged: RefCell::new(None),
        })
    }

    /// The rows that the steps before `step` have left, `[k, d]`.
    ///
    /// # Errors
    /// [`StepError::Torch`].
    pub fn rows(&self, step: u64) -> Result<Tensor, StepError> {
        let put = i64::try_from(step)
            .unwrap_or(i64::MAX)
            .saturating_mul(self.rows_per_step);
        Ok(self.queue.f_narrow(0, 0, put.min(self.queue.size()[0]))?)
    }

    /// Encodes both views of a step with the average, in training mode and without a graph, and keeps everybody's rows
    /// for the commit. All ranks call together.
    ///
    /// # Errors
    /// [`StepError`]; then call [`Memory::discard_step`].
    pub fn stage(
        &self,
        micro_batches: &[MicroBatch],
        order: &RowOrder,
        gang: &Gang,
    ) -> Result<(), StepError> {
        let kind = self.queue.kind();
        let rows: Result<Vec<Tensor>, StepError> = micro_batches
            .iter()
            .map(|batch| {
                let channel = gang.statistics.clone();
                let mode = TrainMode::new(batch.group_rows.clone(), true, channel);
                let outputs = no_grad(|| self.model.forward(&batch.images, Mode::Train(&mode)))?;
                unit_rows(&outputs.top()?.f_detach()?.f_to_kind(kind)?)
            })
            .collect();
        let rows = order.gather(&Tensor::f_cat(&rows?, 0)?, gang.statistics.as_ref())?;
        *self.staged.borrow_mut() = Some(rows);
        Ok(())
    }

    /// Whether what is staged may be committed; waits for the device.
    ///
    /// # Errors
    /// [`StepError::NonFinite`]; then call [`Memory::discard_step`].
    pub fn check(&self) -> Result<(), StepError> {
        let staged = self.staged.borrow();
        let Some(rows) = staged.as_ref() else {
            return Ok(());
        };
        if rows.f_isfinite()?.f_all()?.f_int64_value(&[])? == 0 {
            return Err(StepError::NonFinite {
                tensor: "a row of the memory".to_owned(),
            });
        }
        Ok(())
    }

    /// Part of a step's one commit point, after the live weights have moved: moves the average towards them and its
    /// running statistics by its own groups, and puts the rows of the step, `step` steps before it, into the queue.
    ///
    /// # Errors
    /// [`StepError::Torch`].
    pub(crate) fn commit(&mut self, step: u64) -> Result<(), StepError> {
        no_grad(|| -> Result<(), StepError> {
            for (average, live) in &mut self.followed {
                let _ = average.f_lerp_(live, 1.0 - self.decay)?;
            }
            let Some(rows) = self.staged.take() else {
                return Ok(());
            };
            let (size, count) = (self.queue.size()[0], rows.size()[0]);
            let start = (u128::from(step) * count as u128 % size as u128) as i64;
            let first = count.min(size - start);
            for (to, from, count) in [(start, 0, first), (0, first, count - first)] {
                let from = rows.f_narrow(0, from, count)?;
                self.queue.f_narrow(0, to, count)?.f_copy_(&from)?;
            }
            Ok(())
        })?;
        self.model.commit_statistics()
    }

    /// Forgets what a step that is given up has staged.
    pub(crate) fn discard_step(&mut self) {
        self.staged.take();
        self.model.discard_step();
    }

    /// The average as `ema.{name}`, and the queue, live.
    pub fn named_tensors(&self) -> Vec<NamedTensor> {
        let average = self.model.named_tensors().into_iter();
        let average = average.map(|own| NamedTensor {
            name: format!("ema.{}", own.name),
            role: StateRole::Average,
            tensor: own.tensor,
        });
        let queue = NamedTensor {
            name: "memory.queue".to_owned(),
            role: StateRole::Queue,
            tensor: self.queue.shallow_clone(),
        };
        average.chain([queue]).collect()
    }
}

#[cfg(test)]
mod tests;

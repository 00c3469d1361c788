//! Gradient buckets, summed over ranks while backward runs.
//!
//! A gradient is a view into a flat bucket, so a bucket is reduced without a copy. Buckets are filled in reverse order
//! of the forward pass; a hook counts their parameters down during the step's last backward pass, and each full bucket is
//! summed over the ranks, in the same order everywhere: by a thread of its own, or, where a call only queues, by the one
//! that runs backward.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use tch::{TchError, Tensor};

use crate::collective::{Collective, CollectiveError};
use crate::device::{StepError, shim, update};
use crate::project::Model;

/// Size of a bucket, unless one parameter is larger.
const BUCKET_BYTES: usize = 4 << 20;

/// The gradients of a model's trained parameters.
pub struct Buckets {
    gradients: Vec<Tensor>,
    parameters: Vec<Tensor>,
    flat: Vec<Tensor>,
    shared: Arc<Shared>,
    channel: Arc<dyn Collective>,
    waited: Duration,
    /// Whether this step's sums are finite, on the device.
    finite: Option<Tensor>,
}

/// How long the gradients of one step travelled.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Reduced {
    /// Time that collectives ran.
    pub total: Duration,
    /// The part of it that backward did not hide.
    pub exposed: Duration,
}

/// What hooks see.
struct Shared {
    armed: AtomicBool,
    /// Per bucket: its parameters, and how many of them still wait for their gradient.
    size: Vec<usize>,
    waiting: Vec<AtomicUsize>,
    summing: Summing,
}

/// Who sums full buckets.
enum Summing {
    /// There is one rank.
    Nobody,
    /// Whoever fills one.
    Filler(Mutex<Sums>),
    /// A thread, which ends when nobody can send any more. It answers [`Work::Report`].
    Thread(Sender<Work>, Receiver<Outcome>),
}

enum Work {
    Sum(usize),
    /// The last of the step: answer.
    Report,
}

/// Time that a step's sums took.
type Outcome = Result<Duration, CollectiveError>;

/// The sums of a step.
struct Sums {
    flat: Vec<Tensor>,
    channel: Arc<dyn Collective>,
    full: Vec<bool>,
    next: usize,
    outcome: Outcome,
}

// === impl Reduced ===

impl Reduced {
    /// Share of the travel that backward hid, in [0, 1]; 1 where nothing travelled.
    pub fn hidden_share(&self) -> f64 {
        if self.total.is_zero() {
            return 1.0;
        }
        (1.0 - self.exposed.as_secs_f64() / self.total.as_secs_f64()).clamp(0.0, 1.0)
    }
}

// === impl Buckets ===

impl Buckets {
    /// Buckets for what `model` trains, summed over the ranks of `channel`. All ranks have the same model.
    ///
    /// # Errors
    /// [`StepError::Torch`], for example out of memory.
    pub fn new(model: &Model, channel: Arc<dyn Collective>) -> Result<Self, StepError> {
        let parameters: Vec<Tensor> = model
            .trained()
            .map(|parameter| parameter.tensor.shallow_clone())
            .collect();
        let plan = plan(
            &parameters.iter().map(bytes).collect::<Vec<_>>(),
            BUCKET_BYTES,
        );
        let mut flat = Vec::new();
        let mut gradients: BTreeMap<usize, Tensor> = BTreeMap::new();
        for bucket in &plan {
            let numel = bucket
                .iter()
                .map(|&index| parameters[index].numel() as i64)
                .sum::<i64>();
            let buffer =
                Tensor::f_zeros([numel], (model.compute().kind(), model.compute().device))?;
            let mut start = 0;
            for &index in bucket {
                let parameter = &parameters[index];
                let view = buffer.f_as_strided(parameter.size(), parameter.stride(), start)?;
                shim::set_gradient(parameter, &view)?;
                start += parameter.numel() as i64;
                gradients.insert(index, view);
            }
            flat.push(buffer);
        }
        let shared = Arc::new(Shared {
            armed: AtomicBool::new(false),
            size: plan.iter().map(Vec::len).collect(),
            waiting: plan.iter().map(|_| AtomicUsize::new(0)).collect(),
            summing: Summing::of(&flat, &channel)?,
        });
        for (bucket, indices) in plan.iter().enumerate() {
            for &index in indices {
                let shared = Arc::clone(&shared);
                shim::on_gradient(&parameters[index], move || shared.arrived(bucket))?;
            }
        }
        Ok(Self {
            gradients: gradients.into_values().collect(),
            parameters,
            flat,
            shared,
            channel,
            waited: Duration::ZERO,
            finite: None,
        })
    }

    /// Sets all gradients to zero: the start of a step.
    pub(crate) fn clear(&mut self) -> Result<(), StepError> {
        self.shared.armed.store(false, Ordering::Release);
        self.finite = None;
        Ok(update::zero(&self.flat)?)
    }

    /// The next backward pass is the step's last: buckets travel as they fill.
    pub(crate) fn arm(&mut self) {
        for (waiting, size) in self.shared.waiting.iter().zip(&self.shared.size) {
            waiting.store(*size, Ordering::Release);
        }
        self.shared.armed.store(true, Ordering::Release);
    }

    /// Waits until every bucket is summed over all ranks, or on its way to be: what is queued from now on finds the sums.
    ///
    /// # Errors
    /// [`StepError::Collective`]: the gang has failed and the gradients are unspecified. [`StepError::Torch`].
    pub(crate) fn finish(&mut self) -> Result<Reduced, StepError> {
        self.shared.armed.store(false, Ordering::Release);
        let reduced = self.collect()?;
        self.finite = Some(update::all_finite(&self.flat)?);
        Ok(reduced)
    }

    fn collect(&mut self) -> Result<Reduced, StepError> {
        if matches!(self.shared.summing, Summing::Nobody) {
            return Ok(Reduced::default());
        }
        // Buckets with a parameter that got no gradient in this pass travel too: the other ranks wait for them.
        for bucket in 0..self.shared.size.len() {
            if self.shared.waiting[bucket].swap(0, Ordering::AcqRel) > 0 {
                self.shared.summing.sum(bucket);
            }
        }
        let (started, before) = (Instant::now(), self.channel.waited());
        let total = self.shared.summing.report()?;
        self.channel.join()?;
        let blocked = self.channel.waited().saturating_sub(before);
        self.waited += blocked.min(started.elapsed());
        Ok(Reduced {
            total,
            exposed: started.elapsed().min(total),
        })
    }

    /// Whether the gradients are finite. It was found out beside the step: a device that has done the step has the answer.
    ///
    /// # Errors
    /// [`StepError::Torch`].
    pub(crate) fn are_finite(&self) -> Result<bool, StepError> {
        let found = match &self.finite {
            Some(found) => found.shallow_clone(),
            None => update::all_finite(&self.flat)?,
        };
        Ok(found.f_int64_value(&[])? != 0)
    }

    /// Time in which nothing was left to do but wait for peers' gradients, over all steps.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// The gradients, in the order of [`Model::trained`].
    pub fn gradients(&self) -> &[Tensor] {
        &self.gradients
    }

    /// The buckets themselves.
    pub(crate) fn flat(&self) -> &[Tensor] {
        &self.flat
    }
}

impl Drop for Buckets {
    fn drop(&mut self) {
        for parameter in &self.parameters {
            // Hooks hold a sender to the summing thread. Clearing a slot cannot fail.
            let _ = shim::clear_hook(parameter);
        }
    }
}

impl fmt::Debug for Buckets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buckets")
            .field("buckets", &self.flat.len())
            .field("parameters", &self.parameters.len())
            .finish()
    }
}

// === impl Shared ===

impl Shared {
    fn arrived(&self, bucket: usize) {
        if self.armed.load(Ordering::Acquire)
            && self.waiting[bucket].fetch_sub(1, Ordering::AcqRel) == 1
        {
            self.summing.sum(bucket);
        }
    }
}

// === impl Summing ===

impl Summing {
    fn of(flat: &[Tensor], channel: &Arc<dyn Collective>) -> Result<Self, StepError> {
        if channel.world() == 1 {
            return Ok(Self::Nobody);
        }
        let mut sums = Sums {
            flat: flat.iter().map(Tensor::shallow_clone).collect(),
            channel: Arc::clone(channel),
            full: vec![false; flat.len()],
            next: 0,
            outcome: Ok(Duration::ZERO),
        };
        if channel.only_queues() {
            return Ok(Self::Filler(Mutex::new(sums)));
        }
        let (work, works) = crossbeam_channel::unbounded();
        let (report, reports) = crossbeam_channel::unbounded();
        let serve = move || {
            for work in works {
                match work {
                    Work::Sum(bucket) => sums.add(bucket),
                    Work::Report if report.send(sums.report()).is_err() => return,
                    Work::Report => {}
                }
            }
        };
        let thread = std::thread::Builder::new().name("reduce".to_owned());
        thread.spawn(serve).map_err(TchError::Io)?;
        Ok(Self::Thread(work, reports))
    }

    /// A bucket is full.
    fn sum(&self, bucket: usize) {
        match self {
            Self::Nobody => {}
            Self::Filler(sums) => lock(sums).add(bucket),
            // The thread ends only after its senders.
            Self::Thread(work, _) => drop(work.send(Work::Sum(bucket))),
        }
    }

    /// Ends a step.
    fn report(&self) -> Outcome {
        match self {
            Self::Nobody => Ok(Duration::ZERO),
            Self::Filler(sums) => lock(sums).report(),
            Self::Thread(work, reports) => {
                drop(work.send(Work::Report));
                reports.recv().unwrap_or(Err(CollectiveError::Aborted))
            }
        }
    }
}

// === impl Sums ===

impl Sums {
    /// Sums buckets in the order of their index, whatever order they fill in: all ranks make the same calls.
    fn add(&mut self, bucket: usize) {
        self.full[bucket] = true;
        while self.next < self.flat.len() && self.full[self.next] {
            let started = Instant::now();
            let so_far = std::mem::replace(&mut self.outcome, Ok(Duration::ZERO));
            self.outcome = so_far.and_then(|total| {
                self.channel.begin_all_reduce(&mut self.flat[self.next])?;
                Ok(total + started.elapsed())
            });
            self.next += 1;
        }
    }

    fn report(&mut self) -> Outcome {
        self.full.fill(false);
        self.next = 0;
        std::mem::replace(&mut self.outcome, Ok(Duration::ZERO))
    }
}

/// Locks; a thread that panicked while it held the lock left plain data behind.
fn lock(sums: &Mutex<Sums>) -> MutexGuard<'_, Sums> {
    sums.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bytes(tensor: &Tensor) -> usize {
    tensor.numel() * tensor.kind().elt_size_in_bytes()
}

/// Parameters (by index) of each bucket, from the last parameter to the first.
fn plan(bytes: &[usize], limit: usize) -> Vec<Vec<usize>> {
    let mut buckets: Vec<Vec<usize>> = Vec::new();
    let mut room = 0;
    for (index, &size) in bytes.iter().enumerate().rev() {
        match buckets.last_mut() {
            Some(bucket) if size <= room => {
                bucket.push(index);
                room -= size;
            }
            _ => {
                buckets.push(vec![index]);
                room = limit.saturating_sub(size);
            }
        }
    }
    buckets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_every_parameter_once_from_the_last() {
        assert_eq!(
            plan(&[10, 60, 50, 30, 200, 5], 100),
            vec![vec![5], vec![4], vec![3, 2], vec![1, 0]]
        );
        assert!(plan(&[], 100).is_empty());
    }

    #[test]
    fn the_hidden_share_is_what_backward_covered() {
        let reduced = |total, exposed| Reduced {
            total: Duration::from_millis(total),
            exposed: Duration::from_millis(exposed),
        };
        assert_eq!(reduced(100, 25).hidden_share(), 0.75);
        assert_eq!(reduced(0, 0).hidden_share(), 1.0);
    }
}

//! A student on a fixed teacher's outputs (SimCLR v2 §2, equations 2 and 3): both see the same augmented image.

use std::rc::Rc;

use diptych_common::spec::DistillSpec;
use tch::no_grad;

use super::classify::missing;
use super::stream::Batches;
use super::task::{EvalData, Task, Values, measured};
use super::{Learner, PhaseError};
use crate::backward::{MicroBatch, Term, supervised_step};
use crate::batch::BadImage;
use crate::collective::Gang;
use crate::device::StepError;
use crate::encode::Mode;
use crate::loss::{cross_entropy, distillation};
use crate::project::Model;
use crate::reduce::Buckets;

/// Distillation.
#[derive(Debug)]
pub struct Distill {
    spec: DistillSpec,
    images: u32,
    teacher: Rc<Model>,
    /// Where `alpha` < 1: the labelled stream and its rows of the next step.
    labelled: Option<(Batches, Vec<MicroBatch>)>,
    data: EvalData,
}

impl Distill {
    /// Steps of `images` images over all ranks, and labelled rows of a second stream beside them.
    pub fn new(
        spec: DistillSpec,
        images: u32,
        teacher: Rc<Model>,
        labelled: Option<Batches>,
        data: EvalData,
    ) -> Self {
        let labelled = labelled.map(|stream| (stream, Vec::new()));
        Self {
            spec,
            images,
            teacher,
            labelled,
            data,
        }
    }
}

impl Task for Distill {
    fn fetch(&mut self) -> Result<Vec<BadImage>, PhaseError> {
        let Some((stream, rows)) = &mut self.labelled else {
            return Ok(Vec::new());
        };
        let next = stream.step()?;
        *rows = next.rows;
        Ok(next.bad)
    }

    fn step(
        &mut self,
        learner: &Learner,
        buckets: &mut Buckets,
        batches: &[MicroBatch],
        gang: &Gang,
    ) -> Result<Values, StepError> {
        let (alpha, temperature) = (self.spec.alpha, self.spec.temperature);
        let supervised = f64::from(self.spec.labelled.as_ref().map_or(1, |stream| stream.batch));
        let labelled = self
            .labelled
            .as_mut()
            .map(|(_, rows)| std::mem::take(rows))
            .unwrap_or_default();
        let both: Vec<MicroBatch> = batches.iter().chain(&labelled).map(share).collect();
        let found = supervised_step(
            &learner.model,
            buckets,
            &both,
            gang,
            |index, outputs, batch| {
                let student = outputs
                    .logits
                    .as_ref()
                    .ok_or_else(|| missing("a classifier"))?;
                let loss = if index < batches.len() {
                    let teacher = no_grad(|| self.teacher.forward(&batch.images, Mode::Eval))?;
                    let teacher = teacher
                        .logits
                        .ok_or_else(|| missing("a teacher with a classifier"))?;
                    distillation(student, &teacher, temperature)? * (alpha / f64::from(self.images))
                } else {
                    let labels = batch.labels.as_ref().ok_or_else(|| missing("labels"))?;
                    cross_entropy(student, labels)? * ((1.0 - alpha) / supervised)
                };
                Ok(Term {
                    loss,
                    counts: Vec::new(),
                })
            },
        )?;
        Ok(vec![measured("loss", found.loss)])
    }

    fn evaluate(&mut self, learner: &Learner, gang: &Gang) -> Result<Values, PhaseError> {
        self.data.accuracy(learner, gang)
    }
}

/// The same rows, without a copy.
fn share(batch: &MicroBatch) -> MicroBatch {
    MicroBatch {
        images: batch.images.shallow_clone(),
        group_rows: batch.group_rows.clone(),
        labels: batch.labels.as_ref().map(tch::Tensor::shallow_clone),
    }
}

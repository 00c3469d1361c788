//! What the kinds of phases do differently inside the one training loop.

use std::borrow::Cow;

use super::evaluation::{self, Reading};
use super::tally::Tally;
use super::{Learner, PhaseError};
use crate::backward::MicroBatch;
use crate::batch::{BadImage, Source};
use crate::collective::Gang;
use crate::device::StepError;
use crate::reduce::Buckets;

/// Measured values by name.
pub type Values = Vec<(Cow<'static, str>, f64)>;

/// One measured value.
pub fn measured(name: impl Into<Cow<'static, str>>, value: f64) -> (Cow<'static, str>, f64) {
    (name.into(), value)
}

/// One kind of phase.
pub trait Task: std::fmt::Debug {
    /// Leaves the gradient of the step's global loss in `buckets`; the values are the same on every rank.
    ///
    /// # Errors
    /// [`StepError`]; the loop gives the step up.
    fn step(
        &mut self,
        learner: &Learner,
        buckets: &mut Buckets,
        batches: &[MicroBatch],
        gang: &Gang,
    ) -> Result<Values, StepError>;

    /// Makes ready what the next step needs beside its main batch, before any collective of it; returns the images
    /// found bad on the way.
    ///
    /// # Errors
    /// Fails where the data does.
    fn fetch(&mut self) -> Result<Vec<BadImage>, PhaseError> {
        Ok(Vec::new())
    }

    /// Evaluates the network as it stands; every rank calls it, and gets the same values.
    ///
    /// # Errors
    /// Fails where data, libtorch or a collective does.
    fn evaluate(&mut self, learner: &Learner, gang: &Gang) -> Result<Values, PhaseError>;
}

/// The data that evaluations read.
#[derive(Debug, Clone)]
pub struct EvalData {
    /// All training images.
    pub train: Source,
    /// The images to evaluate on, if any.
    pub eval: Option<Source>,
    /// How they are read.
    pub reading: Reading,
}

impl EvalData {
    /// `eval_top1` and `eval_top5` of the classifier `fc`.
    ///
    /// # Errors
    /// As [`evaluation::accuracies`].
    pub fn accuracy(&self, learner: &Learner, gang: &Gang) -> Result<Values, PhaseError> {
        let tallies = self.tallies(learner, gang)?;
        let values = |tally: &Tally| {
            [
                measured("eval_top1", tally.top1_share()),
                measured("eval_top5", tally.top5_share()),
            ]
        };
        Ok(tallies.first().into_iter().flat_map(values).collect())
    }

    /// The counts of every classifier, `fc` first; none where there is nothing to evaluate on.
    ///
    /// # Errors
    /// As [`evaluation::accuracies`].
    pub fn tallies(&self, learner: &Learner, gang: &Gang) -> Result<Vec<Tally>, PhaseError> {
        match &self.eval {
            Some(eval) => evaluation::accuracies(&learner.model, eval, &self.reading, gang),
            None => Ok(Vec::new()),
        }
    }

    /// `probe_top1` and `probe_top5` of the concurrent linear probe, where there is one and the data has labels.
    ///
    /// # Errors
    /// As [`evaluation::probe_accuracy`].
    pub fn probe(&self, learner: &Learner, gang: &Gang) -> Result<Values, PhaseError> {
        let Some(eval) = self.eval.as_ref().filter(|eval| eval.index().labelled()) else {
            return Ok(Vec::new());
        };
        if !learner.model.has_probe() {
            return Ok(Vec::new());
        }
        let tally = evaluation::probe_accuracy(&learner.model, eval, &self.reading, gang)?;
        Ok(vec![
            measured("probe_top1", tally.top1_share()),
            measured("probe_top5", tally.top5_share()),
        ])
    }

    /// `knn_top1` of the encoder's features, where both data sets have labels.
    ///
    /// # Errors
    /// As [`evaluation::nearest_neighbours`].
    pub fn neighbours(
        &self,
        knn: Option<diptych_common::spec::Knn>,
        learner: &Learner,
        gang: &Gang,
    ) -> Result<Values, PhaseError> {
        match (knn, &self.eval) {
            (Some(knn), Some(eval)) if eval.index().labelled() && self.train.index().labelled() => {
                let data = (&self.train, eval);
                let top1 =
                    evaluation::nearest_neighbours(&learner.model, data, knn, &self.reading, gang)?;
                Ok(vec![measured("knn_top1", top1)])
            }
            _ => Ok(Vec::new()),
        }
    }
}

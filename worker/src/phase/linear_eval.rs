//! Linear classifiers on the frozen network (SimCLR v1 §4.2, running batch-norm statistics): one, or one on each of
//! several layers, trained at once on the same features.

use diptych_common::checkpoint::NetworkDescription;
use diptych_common::spec::HeadLayers;

use super::classify;
use super::tally::Tally;
use super::task::{EvalData, Task, Values, measured};
use super::{Learner, PhaseError};
use crate::backward::MicroBatch;
use crate::collective::Gang;
use crate::device::StepError;
use crate::reduce::Buckets;

/// Linear evaluation.
#[derive(Debug)]
pub struct LinearEval {
    images: u32,
    /// What figures call the layers, in the order of the classifiers.
    layers: Vec<String>,
    data: EvalData,
}

impl LinearEval {
    /// Steps of `images` images over all ranks, on these layers of a network.
    pub fn new(
        images: u32,
        layers: &HeadLayers,
        network: &NetworkDescription,
        data: EvalData,
    ) -> Self {
        let last = network.head.as_ref().map(|head| head.layers);
        Self {
            images,
            layers: layers.iter().map(|layer| called(layer, last)).collect(),
            data,
        }
    }

    /// `name` of the phase's own classifier, and where there are several, `name@layer` of each.
    fn values(&self, name: &str, of_each: &[f64]) -> Values {
        let own = of_each.first();
        let mut values: Values = own
            .map(|value| measured(name.to_owned(), *value))
            .into_iter()
            .collect();
        if self.layers.len() > 1 {
            let each = self.layers.iter().zip(of_each);
            values.extend(each.map(|(layer, value)| measured(format!("{name}@{layer}"), *value)));
        }
        values
    }
}

/// `h` for the encoder's output, `z` for the head's, and the number of a layer between.
fn called(layer: u32, last: Option<u32>) -> String {
    match layer {
        0 => "h".to_owned(),
        layer if Some(layer) == last => "z".to_owned(),
        layer => layer.to_string(),
    }
}

impl Task for LinearEval {
    fn step(
        &mut self,
        learner: &Learner,
        buckets: &mut Buckets,
        batches: &[MicroBatch],
        gang: &Gang,
    ) -> Result<Values, StepError> {
        let losses = classify::step(learner, buckets, batches, (gang, self.images))?;
        Ok(self.values("loss", &losses))
    }

    fn evaluate(&mut self, learner: &Learner, gang: &Gang) -> Result<Values, PhaseError> {
        let tallies = self.data.tallies(learner, gang)?;
        let shares = |share: fn(&Tally) -> f64| tallies.iter().map(share).collect::<Vec<_>>();
        let mut values = self.values("eval_top1", &shares(Tally::top1_share));
        values.extend(self.values("eval_top5", &shares(Tally::top5_share)));
        Ok(values)
    }
}

use std::collections::BTreeMap;

use diptych_common::network::{self, Layers};
use diptych_common::spec::EncoderSpec;
use tch::{Tensor, no_grad};

use super::linear::Reading;
use super::{Head, HeadPart, Reader};
use crate::device::{Compute, StepError};
use crate::encode::{BatchNorm, Build, Encoder, Mode, Parameter, Role, Statistic};

/// What a network consists of.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The encoder.
    pub encoder: EncoderSpec,
    /// The projection head, or the layers of it that are kept.
    pub head: Option<HeadPart>,
    /// The classifier `fc`.
    pub classifier: Option<Reader>,
    /// More classifiers, `fc_at.{layer}`, of a linear evaluation of several layers.
    pub beside: Vec<Reader>,
    /// The linear probe, with stopped gradients.
    pub probe: Option<Reader>,
}

/// A network and its named state, on one device.
#[derive(Debug)]
pub struct Model {
    compute: Compute,
    encoder: Encoder,
    head: Option<Head>,
    classifier: Option<Reading>,
    beside: Vec<Reading>,
    probe: Option<Reading>,
    parameters: Vec<Parameter>,
    statistics: Vec<Statistic>,
    trained: Trained,
}

/// Which parameters a phase trains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trained {
    /// All; batch norm uses the batch.
    Everything,
    /// The classifiers alone: everything below uses its running statistics and carries no gradient.
    Classifiers,
}

/// What a forward pass gives.
#[derive(Debug)]
pub struct Outputs {
    /// `[h, a₁, …, z]`: the features, then each built head layer's output.
    pub layers: Vec<Tensor>,
    /// What `fc` says, in the dtype of the loss, if there is a classifier.
    pub logits: Option<Tensor>,
    /// What the classifiers beside it say, in their order.
    pub beside: Vec<Tensor>,
}

/// One tensor of the state that a checkpoint holds.
#[derive(Debug)]
pub struct NamedTensor {
    /// As in checkpoints.
    pub name: String,
    /// What it is.
    pub role: StateRole,
    /// The live tensor: writing to it (without a graph) changes the state.
    pub tensor: Tensor,
}

/// What a tensor of the state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateRole {
    /// A trained parameter.
    Weight,
    /// A running statistic of batch norm.
    Statistic,
    /// Momentum of the parameter of the same name after `momentum.`.
    Momentum,
    /// Weight or statistic, of the same name after `ema.`, of the memory's averaged network.
    Average,
    /// Rows of the memory's queue.
    Queue,
    /// Other numbers that training goes on from.
    State,
}

/// Why tensors do not fit a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// A tensor of the state was not given.
    #[error("tensor {0} is missing")]
    Missing(String),
    /// A shape differs.
    #[error("tensor {name} has shape {got:?}, the network needs {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Of the network.
        expected: Vec<i64>,
        /// Of the given tensor.
        got: Vec<i64>,
    },
    /// libtorch failed.
    #[error("tensor {name}: {detail}")]
    Torch {
        /// The tensor.
        name: String,
        /// Its words.
        detail: String,
    },
}

// === impl ModelSpec ===

impl ModelSpec {
    /// An encoder with nothing on it.
    pub fn bare(encoder: EncoderSpec) -> Self {
        Self {
            encoder,
            head: None,
            classifier: None,
            beside: Vec::new(),
            probe: None,
        }
    }
}

// === impl Outputs ===

impl Outputs {
    /// What every classifier says, `fc` first.
    pub fn all_logits(&self) -> impl Iterator<Item = &Tensor> {
        self.logits.iter().chain(&self.beside)
    }

    /// The last layer's output.
    ///
    /// # Errors
    /// [`StepError::Shape`] where there is none.
    pub(crate) fn top(&self) -> Result<&Tensor, StepError> {
        self.layers.last().ok_or_else(|| StepError::Shape {
            what: "network outputs",
            expected: "at least one".to_owned(),
            got: "none".to_owned(),
        })
    }
}

// === impl Model ===

impl Model {
    /// A network with the initial weights of `seed`: the same on every rank and device, and per tensor name.
    ///
    /// # Errors
    /// [`StepError::Shape`] for an impossible spec, [`StepError::Torch`] for example out of memory.
    pub fn new(spec: &ModelSpec, seed: u64, compute: Compute) -> Result<Self, StepError> {
        let layers = Layers::of(&spec.encoder);
        let compute =
            compute.for_channels(layers.convolutions().map(|(conv, _)| conv.output as i64));
        let mut build = Build::new(seed, compute);
        let encoder = Encoder::new(&mut build, &spec.encoder)?;
        let features = encoder.features();
        let head = spec
            .head
            .as_ref()
            .map(|part| Head::new(&mut build, features, part))
            .transpose()?;
        let built = head.iter().flat_map(Head::widths);
        let widths: Vec<i64> = std::iter::once(features).chain(built).collect();
        let mut read = |name: &str, reader| Reading::new(&mut build, name, reader, &widths);
        let classifier = spec.classifier.map(|reader| read("fc", reader));
        let classifier = classifier.transpose()?;
        let beside = spec.beside.iter();
        let beside = beside
            .map(|reader| read(&network::extra_classifier_name(reader.layer), *reader))
            .collect::<Result<_, _>>()?;
        let probe = spec.probe.map(|reader| read("probe", reader)).transpose()?;
        let (parameters, statistics) = build.finish();
        let trained = Trained::Everything;
        Ok(Self {
            compute,
            encoder,
            head,
            classifier,
            beside,
            probe,
            parameters,
            statistics,
            trained,
        })
    }

    /// Chooses what is trained; before gradient buckets and optimiser are made.
    ///
    /// # Errors
    /// [`StepError::Torch`].
    pub fn train(&mut self, trained: Trained) -> Result<(), StepError> {
        self.trained = trained;
        for parameter in &self.parameters {
            let linear = matches!(parameter.role, Role::Classifier | Role::Bias);
            let wanted = trained == Trained::Everything || linear;
            let _ = parameter.tensor.f_set_requires_grad(wanted)?;
        }
        Ok(())
    }

    /// Device, precision and layout.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// d, the width of the features.
    pub fn features(&self) -> i64 {
        self.encoder.features()
    }

    /// Width of the last layer's output.
    pub fn output(&self) -> i64 {
        let head = self.head.as_ref().and_then(|head| head.widths().last());
        head.unwrap_or(self.encoder.features())
    }

    /// Images `[N, 3, H, W]` (see [`Compute::place`]) to the outputs of every layer.
    ///
    /// # Errors
    /// See [`BatchNorm::forward`].
    pub fn forward(&self, images: &Tensor, mode: Mode<'_>) -> Result<Outputs, StepError> {
        let layers = match self.trained {
            Trained::Everything => self.trunk(images, mode)?,
            Trained::Classifiers => no_grad(|| self.trunk(images, Mode::Eval))?,
        };
        let kind = self.compute.kind();
        let say = |reading: &Reading| reading.forward(reading.input(&layers)?, kind);
        let logits = self.classifier.as_ref().map(say).transpose()?;
        let beside = self.beside.iter().map(say).collect::<Result<_, _>>()?;
        Ok(Outputs {
            layers,
            logits,
            beside,
        })
    }

    /// How many classifiers there are, the probe aside.
    pub fn classifiers(&self) -> usize {
        self.beside.len() + usize::from(self.classifier.is_some())
    }

    /// Whether there is a probe to train.
    pub fn has_probe(&self) -> bool {
        self.probe.is_some()
    }

    /// Logits of the probe on its layer of some outputs, whose gradient stops there; `None` where there is no probe.
    ///
    /// # Errors
    /// [`StepError::Torch`].
    pub fn probe(&self, outputs: &Outputs) -> Result<Option<Tensor>, StepError> {
        let say = |reading: &Reading| {
            let stopped = reading.input(&outputs.layers)?.f_detach()?;
            reading.forward(&stopped, self.compute.kind())
        };
        self.probe.as_ref().map(say).transpose()
    }

    fn trunk(&self, images: &Tensor, mode: Mode<'_>) -> Result<Vec<Tensor>, StepError> {
        let _autocast = self.compute.autocast()?;
        // A batch may have been placed for another network: a student's for its teacher.
        let features = self.encoder.forward(&self.compute.place(images)?, mode)?;
        let mut layers = match &self.head {
            Some(head) => head.forward(&features, mode)?,
            None => Vec::new(),
        };
        layers.insert(0, features);
        Ok(layers)
    }

    /// All parameters, in the order of the forward pass.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// The parameters that the phase trains, in the order of the forward pass.
    pub fn trained(&self) -> impl DoubleEndedIterator<Item = &Parameter> {
        self.parameters
            .iter()
            .filter(|parameter| parameter.tensor.requires_grad())
    }

    /// Weights and running statistics, live.
    pub fn named_tensors(&self) -> Vec<NamedTensor> {
        let weights = self
            .parameters
            .iter()
            .map(|parameter| (&parameter.name, &parameter.tensor, StateRole::Weight));
        let statistics = self
            .statistics
            .iter()
            .map(|stat| (&stat.name, &stat.tensor, StateRole::Statistic));
        weights
            .chain(statistics)
            .map(|(name, tensor, role)| NamedTensor {
                name: name.clone(),
                role,
                tensor: tensor.detach(),
            })
            .collect()
    }

    /// Takes over the tensors whose names `wanted` accepts; all of those must be there. Others in `source` are left
    /// alone: a phase that starts from another one takes what it shares with it.
    ///
    /// # Errors
    /// [`StateError`] with the first tensor that does not fit; tensors before it have been copied.
    pub fn load(
        &mut self,
        source: &BTreeMap<String, Tensor>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<(), StateError> {
        self.named_tensors()
            .into_iter()
            .filter(|own| wanted(&own.name))
            .try_for_each(|own| own.load(source))
    }

    /// One update of the running statistics from this step's groups.
    pub(crate) fn commit_statistics(&mut self) -> Result<(), StepError> {
        Ok(BatchNorm::commit(self.norms())?)
    }

    /// Forgets the group statistics of a step that is given up.
    pub fn discard_step(&mut self) {
        self.norms().for_each(BatchNorm::discard);
    }

    fn norms(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        self.encoder
            .norms()
            .chain(self.head.iter_mut().flat_map(Head::norms))
    }
}

// === impl NamedTensor ===

impl NamedTensor {
    /// Takes over the tensor of the same name.
    ///
    /// # Errors
    /// [`StateError`] where it is missing or of another shape.
    pub fn load(&self, source: &BTreeMap<String, Tensor>) -> Result<(), StateError> {
        let given = source
            .get(&self.name)
            .ok_or_else(|| StateError::Missing(self.name.clone()))?;
        let (expected, got) = (self.tensor.size(), given.size());
        if expected != got {
            return Err(StateError::Shape {
                name: self.name.clone(),
                expected,
                got,
            });
        }
        no_grad(|| self.tensor.shallow_clone().f_copy_(given)).map_err(|error| StateError::Torch {
            name: self.name.clone(),
            detail: error.to_string(),
        })
    }

    /// BLAKE3 of the values, dtype and shape.
    ///
    /// # Errors
    /// [`StepError::Torch`].
    pub fn own_digest(&self) -> Result<blake3::Hash, StepError> {
        let values = self.tensor.f_to_device(tch::Device::Cpu)?.f_contiguous()?;
        let mut bytes = vec![0; values.numel() * values.kind().elt_size_in_bytes()];
        values.f_copy_data_u8(&mut bytes, values.numel())?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(format!("{:?}{:?}", values.kind(), values.size()).as_bytes());
        hasher.update(&bytes);
        Ok(hasher.finalize())
    }

    /// BLAKE3 over names and [`own_digest`](Self::own_digest)s in the given order: equal digests mean equal states.
    ///
    /// # Errors
    /// [`StepError::Torch`].
    pub fn digest(tensors: &[Self]) -> Result<blake3::Hash, StepError> {
        let own = tensors.iter().map(Self::own_digest);
        Ok(Self::digest_of(
            tensors,
            &own.collect::<Result<Vec<_>, _>>()?,
        ))
    }

    /// As [`NamedTensor::digest`], of tensors whose own digests are known.
    pub fn digest_of(tensors: &[Self], own: &[blake3::Hash]) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (NamedTensor { name, .. }, own) in tensors.iter().zip(own) {
            hasher.update(&(name.len() as u64).to_le_bytes());
            hasher.update(name.as_bytes());
            hasher.update(own.as_bytes());
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests;

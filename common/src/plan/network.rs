//! What a phase computes: its networks and which parts of them it trains.

use crate::network::{
    Operation, Parameters, Role, TensorInfo, classifier_tensors, encoder_tensors,
    extra_classifier_tensors, features, head_tensors, operations, parameters, probe_tensors,
};
use crate::spec::{EncoderSpec, HeadSpec, JobSpec, PhaseKind, PhaseSpec, Rule, Teacher};

/// Encoder, the layers of the projection head that are built, and classifiers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Network {
    pub(super) encoder: EncoderSpec,
    /// Forward order, for one view.
    pub(super) operations: Vec<Operation>,
    /// Dense layers behind the encoder, `(inputs, outputs)`, each followed by a batch norm.
    pub(super) head: Vec<(u64, u64)>,
    /// `(inputs, classes)` of each classifier or probe.
    pub(super) classifiers: Vec<(u64, u64)>,
    /// All tensors.
    pub(super) tensors: Vec<TensorInfo>,
}

/// The networks of a phase.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Networks {
    /// What is trained, or stands frozen under what is.
    pub(super) own: Network,
    /// The fixed one that teaches.
    pub(super) teacher: Option<Network>,
    /// The moving average that feeds a memory, and the rows that it holds.
    pub(super) average: Option<(Network, u64)>,
    /// Whether everything is trained, and not the classifiers alone.
    pub(super) whole: bool,
    /// Numbers that the optimiser keeps of each weight that is trained.
    pub(super) kept_of_each: u64,
}

impl Network {
    /// An encoder for views of this side, and the first layers of a head.
    fn new(encoder: &EncoderSpec, image_size: u32, head: Option<&HeadSpec>, layers: u32) -> Self {
        let mut tensors = encoder_tensors(encoder);
        let mut dense = Vec::new();
        if let Some(head) = head {
            let is_built = |tensor: &TensorInfo| {
                (0..layers).any(|layer| tensor.name.starts_with(&format!("head.{layer}.")))
            };
            for tensor in head_tensors(encoder, head).into_iter().filter(is_built) {
                if let [output, input] = tensor.shape[..] {
                    dense.push((input, output));
                }
                tensors.push(tensor);
            }
        }
        Self {
            encoder: encoder.clone(),
            operations: operations(encoder, image_size),
            head: dense,
            classifiers: Vec::new(),
            tensors,
        }
    }

    /// The same with a classifier of these `tensors` on a layer: 0 is the encoder's output.
    fn reading(
        mut self,
        layer: u32,
        classes: u64,
        tensors: impl FnOnce(u64, u64) -> [TensorInfo; 2],
    ) -> Self {
        let width = self.width(layer);
        self.classifiers.push((width, classes));
        self.tensors.extend(tensors(width, classes));
        self
    }

    fn width(&self, layer: u32) -> u64 {
        let built = layer
            .checked_sub(1)
            .and_then(|before| self.head.get(before as usize));
        built.map_or_else(|| features(&self.encoder), |dense| dense.1)
    }

    /// Dimensions of what the loss compares.
    pub(super) fn output(&self) -> u64 {
        self.width(self.head.len() as u32)
    }

    pub(super) fn parameters(&self) -> Parameters {
        parameters(&self.tensors)
    }

    /// Elements of all tensors.
    pub(super) fn elements(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::elements).sum()
    }

    /// Elements of the largest tensor.
    pub(super) fn largest(&self) -> u64 {
        self.tensors
            .iter()
            .map(TensorInfo::elements)
            .max()
            .unwrap_or(0)
    }

    /// Operations of one view's way forward, encoder and dense layers.
    pub(super) fn forward_flops(&self) -> u64 {
        let encoder: u64 = self
            .operations
            .iter()
            .map(|operation| operation.flops)
            .sum();
        let dense = self.head.iter().chain(&self.classifiers);
        encoder + dense.map(|(input, output)| 2 * input * output).sum::<u64>()
    }

    /// Channels of every batch norm.
    pub(super) fn norms(&self) -> impl Iterator<Item = u64> {
        let encoder = self.operations.iter().map(|operation| operation.norm);
        encoder
            .filter(|channels| *channels > 0)
            .chain(self.head.iter().map(|layer| layer.1))
    }
}

impl Networks {
    /// The networks of a phase whose labels tell `classes` classes apart, with 0 for none.
    pub(super) fn of(spec: &JobSpec, phase: &PhaseSpec, classes: u64) -> Self {
        let size = phase.augment.image_size;
        let encoder = spec.encoder_of(phase);
        let with_head = |encoder, layers| Network::new(encoder, size, spec.head(), layers);
        let mut average = None;
        let (own, teacher) = match &phase.kind {
            PhaseKind::Pretrain(pretrain) => {
                let layers = pretrain.head.as_ref().map_or(0, |head| head.layers);
                let network = Network::new(encoder, size, pretrain.head.as_ref(), layers);
                average = pretrain
                    .memory
                    .map(|memory| (network.clone(), u64::from(memory.size)));
                let own = match pretrain.probe {
                    Some(false) => network,
                    _ if classes == 0 => network,
                    _ => network.reading(pretrain.probe_layer, classes, probe_tensors),
                };
                (own, None)
            }
            PhaseKind::LinearEval(linear) => {
                let network = with_head(encoder, linear.layers.deepest());
                let own = network.reading(linear.layers.first, classes, classifier_tensors);
                let beside = linear.layers.others.iter();
                let read = |network: Network, layer: &u32| {
                    network.reading(*layer, classes, |inputs, classes| {
                        extra_classifier_tensors(*layer, inputs, classes)
                    })
                };
                (beside.fold(own, read), None)
            }
            PhaseKind::Finetune(tune) => {
                let network = with_head(encoder, tune.head_layer);
                (
                    network.reading(tune.head_layer, classes, classifier_tensors),
                    None,
                )
            }
            PhaseKind::Distill(distill) => {
                let teacher = match &distill.teacher {
                    Teacher::Phase(name) => spec.phase_named(name).map(|teacher| {
                        let layer = match &teacher.kind {
                            PhaseKind::LinearEval(linear) => linear.layers.first,
                            PhaseKind::Finetune(tune) => tune.head_layer,
                            PhaseKind::Pretrain(_) | PhaseKind::Distill(_) => 0,
                        };
                        (spec.encoder_of(teacher), layer)
                    }),
                    // An imported teacher is taken to be the job's encoder.
                    Teacher::Import(_) => Some((spec.encoder(), 0)),
                };
                let teacher = teacher.map(|(encoder, layer)| {
                    with_head(encoder, layer).reading(layer, classes, classifier_tensors)
                });
                (
                    with_head(encoder, 0).reading(0, classes, classifier_tensors),
                    teacher,
                )
            }
        };
        Self {
            own,
            teacher,
            average,
            kept_of_each: match phase.optimizer.rule {
                Rule::Lars { .. } | Rule::Sgd { .. } => 1,
                Rule::AdamW { .. } => 2,
            },
            whole: !matches!(phase.kind, PhaseKind::LinearEval(_)),
        }
    }

    /// Elements of the memory: the average, and its rows.
    pub(super) fn memory(&self) -> u64 {
        self.average.as_ref().map_or(0, |(network, rows)| {
            network.elements() + rows * network.output()
        })
    }

    /// Rows that the memory holds.
    pub(super) fn remembered(&self) -> u64 {
        self.average.as_ref().map_or(0, |(_, rows)| *rows)
    }

    /// Elements that the optimiser updates.
    pub(super) fn trained(&self) -> u64 {
        let trains = |tensor: &&TensorInfo| {
            tensor.role == Role::Weight && (self.whole || tensor.name.starts_with("fc"))
        };
        self.own
            .tensors
            .iter()
            .filter(trains)
            .map(TensorInfo::elements)
            .sum()
    }
}

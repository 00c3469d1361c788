//! What a phase computes: its networks and which parts of them it trains.

use crate::network::{
    Operation, Parameters, Role, TensorInfo, classifier_tensors, encoder_tensors, features,
    head_tensors, operations, parameters,
};
use crate::spec::{EncoderSpec, HeadSpec, JobSpec, PhaseKind, PhaseSpec};

/// Encoder, the layers of the projection head that are built, and a classifier.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Network {
    pub(super) encoder: EncoderSpec,
    /// Forward order, for one view.
    pub(super) operations: Vec<Operation>,
    /// Dense layers behind the encoder, `(inputs, outputs)`, each followed by a batch norm.
    pub(super) head: Vec<(u64, u64)>,
    /// `(inputs, classes)`.
    pub(super) classifier: Option<(u64, u64)>,
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
    /// Whether everything is trained, and not the classifier alone.
    pub(super) whole: bool,
}

impl Network {
    fn new(encoder: &EncoderSpec, image_size: u32, head: Option<(&HeadSpec, u32)>, classes: Option<u64>) -> Self {
        let mut tensors = encoder_tensors(encoder);
        let mut layers = Vec::new();
        if let Some((head, built)) = head {
            let is_built = |tensor: &TensorInfo| {
                (0..built).any(|layer| tensor.name.starts_with(&format!("head.{layer}.")))
            };
            let kept = head_tensors(encoder, head).into_iter().filter(is_built);
            let before = tensors.len();
            tensors.extend(kept);
            layers.extend(tensors[before..].iter().filter_map(|tensor| match tensor.shape[..] {
                [output, input] => Some((input, output)),
                _ => None,
            }));
        }
        let top = layers.last().map_or_else(|| features(encoder), |layer| layer.1);
        let classifier = classes.map(|classes| (top, classes));
        tensors.extend(classifier.into_iter().flat_map(|(top, classes)| classifier_tensors(top, classes)));
        Self {
            encoder: encoder.clone(),
            operations: operations(encoder, image_size),
            head: layers,
            classifier,
            tensors,
        }
    }

    pub(super) fn parameters(&self) -> Parameters {
        parameters(&self.tensors)
    }

    /// Elements of the largest tensor.
    pub(super) fn largest(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::elements).max().unwrap_or(0)
    }

    /// Operations of one view's way forward, encoder and dense layers.
    pub(super) fn forward_flops(&self) -> u64 {
        let encoder: u64 = self.operations.iter().map(|operation| operation.flops).sum();
        let dense = self.head.iter().chain(&self.classifier);
        encoder + dense.map(|(input, output)| 2 * input * output).sum::<u64>()
    }

    /// Channels of every batch norm.
    pub(super) fn norms(&self) -> impl Iterator<Item = u64> {
        let encoder = self.operations.iter().map(|operation| operation.norm);
        encoder.filter(|channels| *channels > 0).chain(self.head.iter().map(|layer| layer.1))
    }
}

impl Networks {
    /// The networks of a phase whose labels tell `classes` classes apart, with 0 for none.
    pub(super) fn of(spec: &JobSpec, phase: &PhaseSpec, classes: u64) -> Self {
        let size = phase.augment.image_size;
        let encoder = spec.encoder_of(phase);
        let some = (classes > 0).then_some(classes);
        let classifying = |layers: u32| Network::new(encoder, size, kept(spec, layers), some);
        match &phase.kind {
            PhaseKind::Pretrain(pretrain) => {
                let head = (&pretrain.head, pretrain.head.layers);
                let mut own = Network::new(encoder, size, Some(head), None);
                if pretrain.probe != Some(false) && classes > 0 {
                    let [mut weight, mut bias] = classifier_tensors(features(encoder), classes);
                    weight.name = "probe.weight".to_owned();
                    bias.name = "probe.bias".to_owned();
                    own.tensors.extend([weight, bias]);
                }
                Self { own, teacher: None, whole: true }
            }
            PhaseKind::LinearEval(linear) => Self {
                own: classifying(linear.head_layer),
                teacher: None,
                whole: false,
            },
            PhaseKind::Finetune(tune) => Self {
                own: classifying(tune.head_layer),
                teacher: None,
                whole: true,
            },
            PhaseKind::Distill(distill) => {
                let teacher = spec.phase_named(&distill.teacher).map(|teacher| {
                    let layers = match &teacher.kind {
                        PhaseKind::LinearEval(linear) => linear.head_layer,
                        PhaseKind::Finetune(tune) => tune.head_layer,
                        PhaseKind::Pretrain(_) | PhaseKind::Distill(_) => 0,
                    };
                    Network::new(spec.encoder_of(teacher), size, kept(spec, layers), some)
                });
                Self {
                    own: Network::new(encoder, size, None, some),
                    teacher,
                    whole: true,
                }
            }
        }
    }

    /// Elements that the optimiser updates.
    pub(super) fn trained(&self) -> u64 {
        let trains = |tensor: &&TensorInfo| {
            tensor.role == Role::Weight && (self.whole || tensor.name.starts_with("fc."))
        };
        self.own.tensors.iter().filter(trains).map(TensorInfo::elements).sum()
    }
}

/// The projection head where layers of it are kept.
fn kept(spec: &JobSpec, layers: u32) -> Option<(&HeadSpec, u32)> {
    (layers > 0).then(|| (spec.head(), layers))
}

//! Which network a phase trains, and which weights it starts from.

use std::collections::BTreeMap;

use diptych_common::checkpoint::{Classifier, NetworkDescription, Role, export};
use diptych_common::digest::Digest;
use diptych_common::ids::PhaseName;
use diptych_common::spec::{HeadLayers, HeadSpec, JobSpec, PhaseKind, PhaseSpec, Source};
use tch::Tensor;

use super::{PhaseError, import};
use crate::checkpoint::{Loaded, Storage, load};
use crate::project::{HeadPart, ModelSpec, Reader};
use crate::trainer::CheckpointRef;

/// A network, what checkpoints say about it, and where its weights come from.
#[derive(Debug)]
pub struct Blueprint {
    /// What is built.
    pub model: ModelSpec,
    /// What checkpoints say about it.
    pub description: NetworkDescription,
    /// Weights to start from; `None` for the seed's.
    pub start: Option<Start>,
}

/// Weights of an earlier phase or another program.
#[derive(Debug)]
pub struct Start {
    /// Key or URL, for messages.
    pub object: String,
    /// Digest of the manifest, where it is a checkpoint.
    pub parent: Option<Digest>,
    /// Encoder and head tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
    /// Whether the projection head starts from them, too; an import may have none.
    pub head: bool,
    /// What an import that fits still loses, for people.
    pub advice: Option<String>,
}

/// A fixed network that tells classes apart, not built yet.
#[derive(Debug)]
pub struct Teaching {
    /// What is built.
    pub model: ModelSpec,
    /// What it tells apart.
    pub classes: Vec<String>,
    /// Key or URL, for messages.
    pub object: String,
    /// Its weights by name.
    pub tensors: BTreeMap<String, Tensor>,
}

// === impl Start ===

impl Start {
    /// Whether the network's tensor of this name starts from these. Classifiers and probes always start anew.
    pub fn gives(&self, name: &str) -> bool {
        let part = name.split('.').next().unwrap_or_default();
        !matches!(part, "fc" | "fc_at" | "probe") && (self.head || part != "head")
    }
}

/// Plans the network of every kind but `distill`. `classes` are those of the labels, where the phase uses any.
///
/// # Errors
/// Refuses a head layer that the source lacks; fails where the source cannot be loaded.
pub fn plan(
    spec: &JobSpec,
    phase: &PhaseSpec,
    inputs: &BTreeMap<PhaseName, CheckpointRef>,
    storage: &Storage,
    classes: Option<&[String]>,
) -> Result<Blueprint, PhaseError> {
    match &phase.kind {
        PhaseKind::Pretrain(pretrain) => {
            let encoder = spec.encoder_of(phase).clone();
            let (mut start, _) = open(spec, phase, (inputs, storage))?;
            let head = head_used(spec, phase, None);
            if let Some(start) = &mut start {
                let wanted = head.as_ref().map_or(0, |head| head.layers);
                start.head = export::head_layers(start.tensors.keys()) >= wanted;
            }
            let classes = classes.filter(|_| pretrain.probe != Some(false));
            Ok(Blueprint {
                description: NetworkDescription {
                    encoder: encoder.clone(),
                    head: pretrain.head.clone(),
                    classifier: None,
                },
                model: ModelSpec {
                    head,
                    probe: classes.map(|classes| Reader {
                        layer: pretrain.probe_layer,
                        classes: classes.len() as u32,
                    }),
                    ..ModelSpec::bare(encoder)
                },
                start,
            })
        }
        PhaseKind::LinearEval(linear) => {
            let classes = classes.unwrap_or_default();
            classifier(spec, phase, &linear.layers, (inputs, storage), classes)
        }
        PhaseKind::Finetune(tune) => {
            let layers = HeadLayers::one(tune.head_layer);
            let classes = classes.unwrap_or_default();
            classifier(spec, phase, &layers, (inputs, storage), classes)
        }
        PhaseKind::Distill(_) => Err(PhaseError::Internal(
            "a distillation's network follows its teacher".to_owned(),
        )),
    }
}

/// The projection head that a phase builds, or the layers of it, given the one that its start was trained with.
pub(super) fn head_used(
    spec: &JobSpec,
    phase: &PhaseSpec,
    held: Option<&HeadSpec>,
) -> Option<HeadPart> {
    let (head, layers) = match &phase.kind {
        PhaseKind::Pretrain(pretrain) => {
            let head = pretrain.head.as_ref()?;
            (head, head.layers)
        }
        PhaseKind::LinearEval(linear) => (held.or(spec.head())?, linear.layers.deepest()),
        PhaseKind::Finetune(tune) => (held.or(spec.head())?, tune.head_layer),
        PhaseKind::Distill(_) => return None,
    };
    Some(HeadPart {
        spec: head.clone(),
        layers,
    })
}

/// Plans a student that tells a teacher's classes apart.
///
/// # Errors
/// Fails where what it starts from cannot be loaded or is another network.
pub fn student(
    spec: &JobSpec,
    phase: &PhaseSpec,
    inputs: &BTreeMap<PhaseName, CheckpointRef>,
    storage: &Storage,
    classes: Vec<String>,
) -> Result<Blueprint, PhaseError> {
    let encoder = spec.encoder_of(phase).clone();
    let (start, _) = open(spec, phase, (inputs, storage))?;
    Ok(Blueprint {
        model: ModelSpec {
            classifier: Some(Reader {
                layer: 0,
                classes: classes.len() as u32,
            }),
            ..ModelSpec::bare(encoder.clone())
        },
        description: NetworkDescription {
            encoder,
            head: None,
            classifier: Some(Classifier {
                classes,
                head_layer: 0,
            }),
        },
        start,
    })
}

fn classifier(
    spec: &JobSpec,
    phase: &PhaseSpec,
    layers: &HeadLayers,
    (inputs, storage): (&BTreeMap<PhaseName, CheckpointRef>, &Storage),
    classes: &[String],
) -> Result<Blueprint, PhaseError> {
    let (start, held) = open(spec, phase, (inputs, storage))?;
    let head = head_used(spec, phase, held.as_ref()).filter(|head| head.layers > 0);
    let deepest = layers.deepest();
    if let Some(start) = &start
        && export::head_layers(start.tensors.keys()) < deepest
    {
        return Err(PhaseError::Refused(format!(
            "head_layer {deepest} is asked for, but {} holds no such layer of a projection head: export it again \
             with `diptych checkpoint export --with-head`, or use head_layer 0",
            start.object
        )));
    }
    let encoder = spec.encoder_of(phase).clone();
    let reader = |layer| Reader {
        layer,
        classes: classes.len() as u32,
    };
    Ok(Blueprint {
        description: NetworkDescription {
            encoder: encoder.clone(),
            head: head.as_ref().map(|head| head.spec.clone()),
            classifier: Some(Classifier {
                classes: classes.to_vec(),
                head_layer: layers.first,
            }),
        },
        model: ModelSpec {
            head,
            classifier: Some(reader(layers.first)),
            beside: layers.others.iter().copied().map(reader).collect(),
            ..ModelSpec::bare(encoder)
        },
        start,
    })
}

/// Weights to start from, if any, and the head that they were trained with.
fn open(
    spec: &JobSpec,
    phase: &PhaseSpec,
    (inputs, storage): (&BTreeMap<PhaseName, CheckpointRef>, &Storage),
) -> Result<(Option<Start>, Option<HeadSpec>), PhaseError> {
    match phase.kind.source() {
        Source::Random => Ok((None, None)),
        Source::Phase(name) => {
            let checkpoint = input(inputs, name)?;
            let Loaded { manifest, tensors } = network_of(storage, checkpoint)?;
            let object = checkpoint.manifest.to_string();
            Ok((
                Some(Start {
                    object,
                    parent: Some(checkpoint.digest),
                    tensors,
                    head: true,
                    advice: None,
                }),
                manifest.network.head,
            ))
        }
        Source::Import(url) => {
            let (start, head) = import::start(url, spec, phase)?;
            Ok((Some(start), head))
        }
    }
}

/// The final checkpoint of an earlier phase.
///
/// # Errors
/// [`PhaseError::Internal`] where the coordinator sent none.
pub fn input<'a>(
    inputs: &'a BTreeMap<PhaseName, CheckpointRef>,
    name: &PhaseName,
) -> Result<&'a CheckpointRef, PhaseError> {
    inputs
        .get(name)
        .ok_or_else(|| PhaseError::Internal(format!("no checkpoint of phase {name} was given")))
}

/// Weights and statistics of a checkpoint, without what only its own training needs.
///
/// # Errors
/// As [`load::load`].
pub fn network_of(storage: &Storage, checkpoint: &CheckpointRef) -> Result<Loaded, PhaseError> {
    load::load(storage, checkpoint, |tensor| {
        let network = matches!(tensor.role, Role::Weight | Role::Statistic);
        network
            && !["probe.", "fc_at."]
                .iter()
                .any(|beside| tensor.name.starts_with(beside))
    })
}

/// A checkpoint as a teacher.
///
/// # Errors
/// [`PhaseError::Refused`] where it has no classifier; as [`load::load`].
pub fn teaching(checkpoint: &CheckpointRef, storage: &Storage) -> Result<Teaching, PhaseError> {
    let Loaded { manifest, tensors } = network_of(storage, checkpoint)?;
    let (model, classes) = describe_classifier(&manifest.network, manifest.name.as_str())?;
    Ok(Teaching {
        model,
        classes,
        object: checkpoint.manifest.to_string(),
        tensors,
    })
}

/// The network that a description with a classifier stands for, and its class names. `whose` is for messages.
///
/// # Errors
/// [`PhaseError::Refused`] where it has no classifier.
pub fn describe_classifier(
    network: &NetworkDescription,
    whose: &str,
) -> Result<(ModelSpec, Vec<String>), PhaseError> {
    let Some(classifier) = &network.classifier else {
        return Err(PhaseError::Refused(format!(
            "{whose} has no classifier: use a finetune, linear_eval or distill phase"
        )));
    };
    let head = network.head.clone().filter(|_| classifier.head_layer > 0);
    let head = head.map(|spec| HeadPart {
        spec,
        layers: classifier.head_layer,
    });
    let reader = Reader {
        layer: classifier.head_layer,
        classes: classifier.classes.len() as u32,
    };
    Ok((
        ModelSpec {
            head,
            classifier: Some(reader),
            ..ModelSpec::bare(network.encoder.clone())
        },
        classifier.classes.clone(),
    ))
}

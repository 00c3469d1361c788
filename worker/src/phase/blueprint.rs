//! Which network a phase trains, and which weights it starts from.

use std::collections::BTreeMap;

use diptych_common::checkpoint::{Classifier, Manifest, NetworkDescription, Role, export};
use diptych_common::digest::Digest;
use diptych_common::ids::PhaseName;
use diptych_common::spec::{HeadLayers, HeadSpec, JobSpec, PhaseKind, PhaseSpec, Source};
use tch::Tensor;

use super::PhaseError;
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
    let count = classes.map(|classes| classes.len() as u32);
    let encoder = spec.encoder_of(phase).clone();
    match &phase.kind {
        PhaseKind::Pretrain(pretrain) => {
            let (mut start, _) = open(&pretrain.from, inputs, storage)?;
            if let Some(start) = &mut start {
                let wanted = pretrain.head.as_ref().map_or(0, |head| head.layers);
                start.head = export::head_layers(start.tensors.keys()) >= wanted;
            }
            let classes = count.filter(|_| pretrain.probe != Some(false));
            let head = pretrain.head.clone().map(|spec| HeadPart {
                layers: spec.layers,
                spec,
            });
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
                        classes,
                    }),
                    ..ModelSpec::bare(encoder)
                },
                start,
            })
        }
        PhaseKind::LinearEval(linear) => classifier(
            spec,
            encoder,
            (&linear.from, &linear.layers),
            inputs,
            storage,
            classes,
        ),
        PhaseKind::Finetune(tune) => {
            let layers = HeadLayers {
                first: tune.head_layer,
                others: Vec::new(),
            };
            classifier(
                spec,
                encoder,
                (&tune.from, &layers),
                inputs,
                storage,
                classes,
            )
        }
        PhaseKind::Distill(_) => Err(PhaseError::Internal(
            "a distillation's network follows its teacher".to_owned(),
        )),
    }
}

fn classifier(
    spec: &JobSpec,
    encoder: diptych_common::spec::EncoderSpec,
    (from, layers): (&Source, &HeadLayers),
    inputs: &BTreeMap<PhaseName, CheckpointRef>,
    storage: &Storage,
    classes: Option<&[String]>,
) -> Result<Blueprint, PhaseError> {
    let classes = classes.unwrap_or_default().to_vec();
    let (start, network) = open(from, inputs, storage)?;
    let deepest = layers.deepest();
    let head: Option<HeadSpec> = if deepest > 0 {
        let described = network.and_then(|network| network.head);
        described.or_else(|| spec.head().cloned())
    } else {
        None
    };
    if let Some(start) = &start
        && export::head_layers(start.tensors.keys()) < deepest
    {
        return Err(PhaseError::Refused(format!(
            "head_layer {deepest} is asked for, but {} holds no such layer of a projection head: export it again \
             with `diptych checkpoint export --with-head`, or use head_layer 0",
            start.object
        )));
    }
    let part = head.clone().map(|spec| HeadPart {
        spec,
        layers: deepest,
    });
    let reader = |layer| Reader {
        layer,
        classes: classes.len() as u32,
    };
    Ok(Blueprint {
        model: ModelSpec {
            head: part,
            classifier: Some(reader(layers.first)),
            beside: layers.others.iter().copied().map(reader).collect(),
            ..ModelSpec::bare(encoder.clone())
        },
        description: NetworkDescription {
            encoder,
            head,
            classifier: Some(Classifier {
                classes,
                head_layer: layers.first,
            }),
        },
        start,
    })
}

fn open(
    from: &Source,
    inputs: &BTreeMap<PhaseName, CheckpointRef>,
    storage: &Storage,
) -> Result<(Option<Start>, Option<NetworkDescription>), PhaseError> {
    match from {
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
                }),
                Some(manifest.network),
            ))
        }
        Source::Import(url) => {
            let (imported, tensors) = load::import(url)?;
            let network = imported.info.map(|info| info.network);
            Ok((
                Some(Start {
                    object: url.clone(),
                    parent: None,
                    tensors,
                    head: true,
                }),
                network,
            ))
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

/// The network of a checkpoint that ends in a classifier, and its class names.
///
/// # Errors
/// [`PhaseError::Refused`] where it has no classifier.
pub fn classifying(manifest: &Manifest) -> Result<(ModelSpec, Vec<String>), PhaseError> {
    describe_classifier(&manifest.network, manifest.name.as_str())
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

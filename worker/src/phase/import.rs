//! What a phase starts from or learns from, where no phase of this job wrote it.

use diptych_common::checkpoint::export;
use diptych_common::import::{Imported, fit};
use diptych_common::spec::{
    EncoderSpec, HeadSpec, JobSpec, PhaseKind, PhaseSpec, Source, Stem, Teacher,
};

use super::PhaseError;
use super::blueprint::{Start, describe_classifier};
use crate::batch::Source as Data;
use crate::checkpoint::load;
use crate::device::Compute;
use crate::project::{Model, ModelSpec};

/// Weights to start from. `used` says which head, and how many layers of it, the phase builds, given the head that the
/// file has; a head that the file lacks or has in part is not compared.
///
/// # Errors
/// [`PhaseError::BadCheckpoint`] with every difference between the file and the phase's network.
pub fn start(
    url: &str,
    encoder: &EncoderSpec,
    used: impl FnOnce(Option<&HeadSpec>) -> Option<(HeadSpec, u32)>,
) -> Result<(Start, Option<HeadSpec>), PhaseError> {
    let imported = load::import(url)?;
    let head = fitting(url, &imported, encoder, used)?;
    let start = Start {
        object: url.to_owned(),
        parent: None,
        tensors: load::to_tensors(&imported.tensors)?,
        head: true,
        advice: advice(&imported, encoder),
    };
    Ok((start, head))
}

/// A teacher and the classes that it tells apart. A file without class names takes those of the data, where there are as
/// many.
///
/// # Errors
/// [`PhaseError::BadCheckpoint`] where it holds no whole network, [`PhaseError::Refused`] where that has no classifier.
pub fn teacher(
    url: &str,
    data: [Option<&Data>; 2],
    compute: Compute,
) -> Result<(Model, Vec<String>), PhaseError> {
    let imported = load::import(url)?;
    let (spec, mut classes) = teaching(url, &imported)?;
    if imported.info.is_none() {
        let named = data
            .into_iter()
            .flatten()
            .map(|data| data.index().classes());
        if let Some(names) = named.into_iter().find(|names| names.len() == classes.len()) {
            classes = names.to_vec();
        }
    }
    let mut model = Model::new(&spec, 0, compute)?;
    model
        .load(&load::to_tensors(&imported.tensors)?, |_| true)
        .map_err(|error| bad(url, error.to_string()))?;
    Ok((model, classes))
}

/// Reads the files that a phase will start and learn from, and refuses those that it could not use.
///
/// # Errors
/// As [`start`] and [`teacher`].
pub fn check(spec: &JobSpec, phase: &PhaseSpec) -> Result<(), PhaseError> {
    let encoder = spec.encoder_of(phase);
    let held_or =
        |layers: u32| move |held: Option<&HeadSpec>| Some((held.or(spec.head())?.clone(), layers));
    match &phase.kind {
        PhaseKind::Pretrain(pretrain) => check_start(&pretrain.from, encoder, |_| {
            let head = pretrain.head.clone()?;
            Some((head.clone(), head.layers))
        }),
        PhaseKind::LinearEval(linear) => {
            check_start(&linear.from, encoder, held_or(linear.layers.deepest()))
        }
        PhaseKind::Finetune(tune) => check_start(&tune.from, encoder, held_or(tune.head_layer)),
        PhaseKind::Distill(distill) => {
            if let Teacher::Import(url) = &distill.teacher {
                teaching(url, &load::import(url)?)?;
            }
            check_start(&distill.from, encoder, |_| None)
        }
    }
}

fn check_start(
    from: &Source,
    encoder: &EncoderSpec,
    used: impl FnOnce(Option<&HeadSpec>) -> Option<(HeadSpec, u32)>,
) -> Result<(), PhaseError> {
    let Source::Import(url) = from else {
        return Ok(());
    };
    fitting(url, &load::import(url)?, encoder, used).map(drop)
}

/// The head that a file has, where the file holds the network that is asked for.
fn fitting(
    url: &str,
    imported: &Imported,
    encoder: &EncoderSpec,
    used: impl FnOnce(Option<&HeadSpec>) -> Option<(HeadSpec, u32)>,
) -> Result<Option<HeadSpec>, PhaseError> {
    let head = imported.network().and_then(|network| network.head);
    let layers = export::head_layers(imported.tensors.keys());
    let used = used(head.as_ref()).filter(|(_, used)| *used <= layers);
    let compared = used.as_ref().map(|(head, used)| (head, *used));
    fit::check(&imported.tensors, encoder, compared)
        .map_err(|misfit| bad(url, format!("is {} that {misfit}", imported.scheme)))?;
    Ok(head)
}

/// The network of a file that ends in a classifier, and its classes.
fn teaching(url: &str, imported: &Imported) -> Result<(ModelSpec, Vec<String>), PhaseError> {
    let network = imported.network().ok_or_else(|| {
        let problem = format!("is {} of no size that is known here", imported.scheme);
        bad(url, problem)
    })?;
    describe_classifier(&network, url)
}

/// What a file that fits still loses.
fn advice(imported: &Imported, encoder: &EncoderSpec) -> Option<String> {
    let usual = imported.scheme.usual().max_pool;
    let pools = encoder.stem == Stem::ImageNet;
    let other = imported.info.is_none() && pools && encoder.max_pool != usual;
    other.then(|| {
        let Ok(word) = serde_json::to_string(&usual) else {
            return format!("{} pools otherwise than this network", imported.scheme);
        };
        format!(
            "is {}, whose max-pool windows differ from this network's: set `encoder.max_pool: {}`, or lose a few tenths \
             of a point",
            imported.scheme,
            word.trim_matches('"')
        )
    })
}

fn bad(url: &str, problem: String) -> PhaseError {
    PhaseError::BadCheckpoint {
        object: url.to_owned(),
        problem,
    }
}

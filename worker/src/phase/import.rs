//! What a phase starts from or learns from, where no phase of this job wrote it.

use diptych_common::checkpoint::export;
use diptych_common::import::{Imported, fit};
use diptych_common::spec::{
    EncoderSpec, HeadSpec, JobSpec, PhaseKind, PhaseSpec, Source, Stem, Teacher,
};

use super::PhaseError;
use super::blueprint::{Start, Teaching, describe_classifier, head_used};
use crate::batch::Source as Data;
use crate::checkpoint::load;
use crate::project::ModelSpec;

/// Weights for a phase to start from, and the head that they were trained with. A head that the file lacks or has in part
/// is not compared.
///
/// # Errors
/// [`PhaseError::BadCheckpoint`] with every difference between the file and the phase's network.
pub fn start(
    url: &str,
    spec: &JobSpec,
    phase: &PhaseSpec,
) -> Result<(Start, Option<HeadSpec>), PhaseError> {
    let imported = load::import(url)?;
    let head = fitting(url, &imported, spec, phase)?;
    let start = Start {
        object: url.to_owned(),
        parent: None,
        tensors: load::to_tensors(&imported.tensors)?,
        head: true,
        advice: advice(&imported, spec.encoder_of(phase)),
    };
    Ok((start, head))
}

/// A teacher's network and weights, and the classes that it tells apart. A file without class names takes those of the
/// data, where there are as many.
///
/// # Errors
/// [`PhaseError::BadCheckpoint`] where it holds no whole network, [`PhaseError::Refused`] where that has no classifier.
pub fn teacher(url: &str, data: [Option<&Data>; 2]) -> Result<Teaching, PhaseError> {
    let imported = load::import(url)?;
    let (model, mut classes) = teaching(url, &imported)?;
    if imported.info.is_none() {
        let named = data
            .into_iter()
            .flatten()
            .map(|data| data.index().classes());
        if let Some(names) = named.into_iter().find(|names| names.len() == classes.len()) {
            classes = names.to_vec();
        }
    }
    Ok(Teaching {
        model,
        classes,
        object: url.to_owned(),
        tensors: load::to_tensors(&imported.tensors)?,
    })
}

/// Reads the files that a phase will start and learn from, and refuses those that it could not use.
///
/// # Errors
/// As [`start`] and [`teacher`].
pub fn check(spec: &JobSpec, phase: &PhaseSpec) -> Result<(), PhaseError> {
    if let PhaseKind::Distill(distill) = &phase.kind
        && let Teacher::Import(url) = &distill.teacher
    {
        teaching(url, &load::import(url)?)?;
    }
    match phase.kind.source() {
        Source::Import(url) => fitting(url, &load::import(url)?, spec, phase).map(drop),
        Source::Random | Source::Phase(_) => Ok(()),
    }
}

/// The head that a file has, where the file holds the network that a phase starts from.
fn fitting(
    url: &str,
    imported: &Imported,
    spec: &JobSpec,
    phase: &PhaseSpec,
) -> Result<Option<HeadSpec>, PhaseError> {
    let head = imported.network().and_then(|network| network.head);
    let whole = export::head_layers(imported.tensors.keys());
    let used = head_used(spec, phase, head.as_ref()).filter(|used| used.layers <= whole);
    let compared = used.as_ref().map(|used| (&used.spec, used.layers));
    fit::check(&imported.tensors, spec.encoder_of(phase), compared).map_err(|misfit| {
        PhaseError::bad_checkpoint(url, format!("is {} that {misfit}", imported.scheme))
    })?;
    Ok(head)
}

/// The network of a file that ends in a classifier, and its classes.
fn teaching(url: &str, imported: &Imported) -> Result<(ModelSpec, Vec<String>), PhaseError> {
    let network = imported.network().ok_or_else(|| {
        let problem = format!("is {} of no size that is known here", imported.scheme);
        PhaseError::bad_checkpoint(url, problem)
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

//! What a phase starts from or learns from, where no phase of this job wrote it.

use diptych_common::checkpoint::export;
use diptych_common::import::{Imported, fit};
use diptych_common::spec::{EncoderSpec, HeadSpec, Stem};

use super::PhaseError;
use super::blueprint::{Start, describe_classifier};
use crate::batch::Source;
use crate::checkpoint::load;
use crate::device::Compute;
use crate::project::Model;

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
    let head = imported.network().and_then(|network| network.head);
    let layers = export::head_layers(imported.tensors.keys());
    let used = used(head.as_ref()).filter(|(_, used)| *used <= layers);
    let compared = used.as_ref().map(|(head, used)| (head, *used));
    fit::check(&imported.tensors, encoder, compared).map_err(|misfit| {
        let problem = format!("is {} that {misfit}", imported.scheme);
        bad(url, problem)
    })?;
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
    data: [Option<&Source>; 2],
    compute: Compute,
) -> Result<(Model, Vec<String>), PhaseError> {
    let imported = load::import(url)?;
    let network = imported.network().ok_or_else(|| {
        let problem = format!("is {} of no size that is known here", imported.scheme);
        bad(url, problem)
    })?;
    let (spec, mut classes) = describe_classifier(&network, url)?;
    if imported.info.is_none() {
        let named = data.into_iter().flatten().map(|source| source.index().classes());
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

//! Which layers of `[h, a₁, …, z]` classifiers read.

use std::collections::BTreeSet;

use super::super::HeadLayers;
use super::super::draft::HeadLayerDraft;
use super::check::{At, Check};

/// The one layer of a fine-tuning; `most` are the head's layers.
pub(super) fn one(check: &mut Check, at: &At, draft: Option<&HeadLayerDraft>, most: u32) -> u32 {
    match draft {
        None => 0,
        Some(HeadLayerDraft::One(layer)) => exists(check, at, *layer, most),
        Some(HeadLayerDraft::Word(_) | HeadLayerDraft::List(_)) => {
            check.refuse(
                at,
                "is one number here: fine-tuning trains one classifier; only `linear_eval` takes several layers",
            );
            0
        }
    }
}

/// The layers of a linear evaluation.
pub(super) fn several(
    check: &mut Check,
    at: &At,
    draft: Option<&HeadLayerDraft>,
    most: u32,
) -> HeadLayers {
    let layers = match draft {
        None => vec![0],
        Some(HeadLayerDraft::One(layer)) => vec![exists(check, at, *layer, most)],
        Some(HeadLayerDraft::Word(word)) => {
            check.require(at, word == "all", || {
                format!("`{word}` is unknown: a number, a list of numbers or `all`")
            });
            (0..=most).collect()
        }
        Some(HeadLayerDraft::List(list)) => {
            check.require(at, !list.is_empty(), || {
                "is empty: name a layer, or write `all`".to_owned()
            });
            let mut seen = BTreeSet::new();
            for (index, layer) in list.iter().enumerate() {
                let at = at.item(index);
                exists(check, &at, *layer, most);
                check.require(&at, seen.insert(layer), || {
                    format!("{layer} is listed twice")
                });
            }
            list.clone()
        }
    };
    let (first, others) = layers.split_first().unwrap_or((&0, &[]));
    HeadLayers {
        first: *first,
        others: others.to_vec(),
    }
}

/// Refuses a layer behind the head's last.
pub(super) fn exists(check: &mut Check, at: &At, layer: u32, most: u32) -> u32 {
    check.require(at, layer <= most, || match most {
        0 => format!("{layer} is too high: there is no projection head, so only 0"),
        1 => format!("{layer} is too high: the projection head has 1 layer"),
        _ => format!("{layer} is too high: the projection head has {most} layers"),
    });
    layer
}
